rule judge:
    input:
        unpack(inputs(paths.VERDICTS)),
    output:
        f"{RESULTS}/{paths.VERDICTS}",
    log:
        f"{RESULTS}/{paths.VERDICTS}.log",
    conda:
        "../../envs/agents.yaml"
    resources:
        **resources(paths.VERDICTS),
    params:
        **params(paths.VERDICTS),
    script:
        "../scripts/stage.py"


rule filter:
    input:
        unpack(inputs(paths.SELECTION)),
    output:
        f"{RESULTS}/{paths.SELECTION}",
    log:
        f"{RESULTS}/{paths.SELECTION}.log",
    conda:
        "../../envs/tables.yaml"
    resources:
        **resources(paths.SELECTION),
    params:
        **params(paths.SELECTION),
    script:
        "../scripts/stage.py"


rule finetune:
    input:
        unpack(inputs(paths.ADAPTER)),
    output:
        directory(f"{RESULTS}/{paths.ADAPTER}"),
    log:
        f"{RESULTS}/{paths.ADAPTER}.log",
    conda:
        "../../envs/agents.yaml"
    resources:
        **resources(paths.ADAPTER),
    params:
        **params(paths.ADAPTER),
    script:
        "../scripts/stage.py"


rule all_filter:
    input:
        outputs("filter"),


rule all_finetune:
    input:
        outputs("finetune"),
