rule measure:
    input:
        turns=rules.rollout.input,
        evaluations=rules.evaluate.input,
    output:
        f"{RESULTS}/measures.parquet",
    log:
        f"{RESULTS}/logs/measures.log",
    benchmark:
        f"{RESULTS}/benchmarks/measures.tsv"
    resources:
        mem_mb=2000,
    params:
        code=code("measure"),
    script:
        "../scripts/measure.py"
