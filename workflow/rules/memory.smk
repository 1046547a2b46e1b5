# The memory channel: a process plays the deployment of a generation and its evaluation with the memory and without it;
# the memory of the next generation is written from the deployment.
rule memory_rollout:
    input:
        unpack(inputs(paths.MEMORY_DEPLOYMENT)),
    output:
        multiext(
            f"{RESULTS}/{paths.MEMORY_GENERATION}",
            "turns.parquet",
            "evaluation.parquet",
        ),
    log:
        f"{RESULTS}/{paths.MEMORY_DEPLOYMENT}.log",
    wildcard_constraints:
        model=only("memory_rollout"),
    cache: SHARED
    conda:
        "../../envs/agents.yaml"
    resources:
        **resources(paths.MEMORY_DEPLOYMENT),
    params:
        **params(paths.MEMORY_DEPLOYMENT),
    script:
        "../scripts/stage.py"


use rule memory_rollout as memory_evaluation with:
    input:
        unpack(inputs(paths.MEMORY_EVALUATION)),
    output:
        f"{RESULTS}/{paths.MEMORY_EVALUATION}",
    log:
        f"{RESULTS}/{paths.MEMORY_EVALUATION}.log",
    wildcard_constraints:
        model=only("memory_evaluation"),
    resources:
        **resources(paths.MEMORY_EVALUATION),
    params:
        **params(paths.MEMORY_EVALUATION),


rule memory:
    input:
        unpack(inputs(paths.MEMORY)),
    output:
        f"{RESULTS}/{paths.MEMORY}",
    log:
        f"{RESULTS}/{paths.MEMORY}.log",
    conda:
        "../../envs/agents.yaml"
    resources:
        **resources(paths.MEMORY),
    params:
        **params(paths.MEMORY),
    script:
        "../scripts/stage.py"


rule all_memory:
    input:
        outputs("memory_rollout", "memory_evaluation", "memory"),
