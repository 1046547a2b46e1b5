def scenario_files(wildcards):
    """What scenarios are made from, but for problem sets."""
    settings = STUDY.testbeds[wildcards.testbed].scenarios
    files = source_files(settings, wildcards.testbed, ROOT)
    return [str(path) for path in files[: len(files) - len(settings.set_files)]]


def set_files(wildcards):
    """Problem sets that are files, by the kind of their problems."""
    settings = STUDY.testbeds[wildcards.testbed].scenarios
    return {kind: str(ROOT / file) for kind, file in settings.set_files.items()}


def scenario_params(wildcards):
    """The settings without files, which are inputs; a problem set is found by its path from here."""
    settings = STUDY.testbeds[wildcards.testbed].scenarios
    params = settings.model_dump(exclude={"path", "templates"})
    for kind, file in set_files(wildcards).items():
        params[kind]["path"] = file
    return params


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
