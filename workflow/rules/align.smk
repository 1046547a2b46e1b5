# Alignment before deployment, on training scenarios that deployment does not use. It trains generation 0.
rule pairs:
    input:
        unpack(inputs(paths.PAIRS)),
    output:
        f"{RESULTS}/{paths.PAIRS}",
    log:
        f"{RESULTS}/{paths.PAIRS}.log",
    cache: SHARED
    conda:
        "../../envs/agents.yaml"
    resources:
        **resources(paths.PAIRS),
    params:
        **params(paths.PAIRS),
    script:
        "../scripts/stage.py"


rule align:
    input:
        unpack(inputs(paths.ALIGNED)),
    output:
        directory(f"{RESULTS}/{paths.ALIGNED}"),
    log:
        f"{RESULTS}/{paths.ALIGNED}.log",
    cache: SHARED
    conda:
        "../../envs/agents.yaml"
    resources:
        **resources(paths.ALIGNED),
    params:
        **params(paths.ALIGNED),
    script:
        "../scripts/stage.py"


rule all_pairs:
    input:
        outputs("pairs"),


rule all_align:
    input:
        outputs("align"),
