rule measure:
    input:
        turns=rules.rollout.input,
        evaluations=rules.evaluate.input,
        plugins=PLUGINS,
    output:
        f"{RESULTS}/measures.parquet",
    log:
        f"{RESULTS}/logs/measures.log",
    benchmark:
        f"{RESULTS}/benchmarks/measures.tsv"
    conda:
        "../../envs/tables.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    params:
        code=code_of_all("measure", "measures"),
    script:
        "../scripts/measure.py"
