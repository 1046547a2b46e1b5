rule generate_scenarios:
    input:
        unpack(set_files),
        files=scenario_files,
    output:
        f"{RESULTS}/{{testbed}}/scenarios.parquet",
    log:
        f"{RESULTS}/logs/{{testbed}}/scenarios.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{testbed}}/scenarios.tsv"
    conda:
        "../../envs/tables.yaml"
    resources:
        mem_mb=growing(1000),
        runtime=growing(30),
    params:
        settings=scenario_params,
        code=code("scenarios"),
    script:
        "../scripts/scenarios.py"


rule scenarios:
    input:
        [f"{RESULTS}/{testbed}/scenarios.parquet" for testbed in STUDY.testbeds],
