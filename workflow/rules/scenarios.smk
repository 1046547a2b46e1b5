rule scenarios:
    input:
        unpack(inputs(paths.SCENARIOS)),
    output:
        f"{RESULTS}/{paths.SCENARIOS}",
    log:
        f"{RESULTS}/{paths.SCENARIOS}.log",
    conda:
        "../../envs/tables.yaml"
    resources:
        **resources(paths.SCENARIOS),
    params:
        **params(paths.SCENARIOS),
    script:
        "../scripts/stage.py"


rule all_scenarios:
    input:
        outputs("scenarios"),
