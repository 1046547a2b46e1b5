def scenario_files(wildcards):
    settings = STUDY.testbeds[wildcards.testbed].scenarios
    return [str(path) for path in source_files(settings, wildcards.testbed, ROOT)]


rule generate_scenarios:
    input:
        files=scenario_files,
    output:
        f"{RESULTS}/{{testbed}}/scenarios.parquet",
    log:
        f"{RESULTS}/logs/{{testbed}}/scenarios.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{testbed}}/scenarios.tsv"
    resources:
        mem_mb=1000,
    params:
        settings=lambda wildcards: STUDY.testbeds[
            wildcards.testbed
        ].scenarios.model_dump(exclude={"path", "templates"}),
        code=code("scenarios"),
    script:
        "../scripts/scenarios.py"


rule scenarios:
    input:
        [f"{RESULTS}/{testbed}/scenarios.parquet" for testbed in STUDY.testbeds],
