rule generate_scenarios:
    input:
        files=scenario_files,
        plugins=plugin_files,
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
        settings=lambda wildcards: STUDY.testbeds[
            wildcards.testbed
        ].scenarios.model_dump(mode="json"),
        code=code("scenarios"),
    script:
        "../scripts/scenarios.py"


rule scenarios:
    input:
        [f"{RESULTS}/{testbed}/scenarios.parquet" for testbed in STUDY.testbeds],
