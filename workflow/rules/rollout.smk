# Rollouts: of the context channel, and of the weights channel, where a process plays what its generation needs: the
# deployment and the evaluation. `transfer` evaluates a generation on a testbed that it was not trained on. A large
# rollout is split into shards, one job each, which the rule of the whole joins.
rule rollout:
    input:
        unpack(inputs(paths.CONTEXT)),
    output:
        f"{RESULTS}/{paths.CONTEXT}",
    log:
        f"{RESULTS}/{paths.CONTEXT}.log",
    wildcard_constraints:
        model=only("rollout"),
    cache: SHARED
    conda:
        "../../envs/agents.yaml"
    resources:
        **resources(paths.CONTEXT),
    params:
        **params(paths.CONTEXT),
    script:
        "../scripts/stage.py"


use rule rollout as deploy with:
    input:
        unpack(inputs(paths.DEPLOYMENT)),
    output:
        multiext(f"{RESULTS}/{paths.GENERATION}", "turns.parquet", "evaluation.parquet"),
    log:
        f"{RESULTS}/{paths.DEPLOYMENT}.log",
    wildcard_constraints:
        model=only("deploy"),
    cache: SHARED
    resources:
        **resources(paths.DEPLOYMENT),
    params:
        **params(paths.DEPLOYMENT),


use rule rollout as evaluate with:
    input:
        unpack(inputs(paths.EVALUATION)),
    output:
        f"{RESULTS}/{paths.EVALUATION}",
    log:
        f"{RESULTS}/{paths.EVALUATION}.log",
    wildcard_constraints:
        model=only("evaluate"),
    cache: SHARED
    resources:
        **resources(paths.EVALUATION),
    params:
        **params(paths.EVALUATION),


use rule rollout as transfer with:
    input:
        unpack(inputs(paths.TRANSFER)),
    output:
        f"{RESULTS}/{paths.TRANSFER}",
    log:
        f"{RESULTS}/{paths.TRANSFER}.log",
    wildcard_constraints:
        model=only("transfer"),
    cache: SHARED
    resources:
        **resources(paths.TRANSFER),
    params:
        **params(paths.TRANSFER),


use rule rollout as rollout_shard with:
    input:
        unpack(inputs(paths.SHARD)),
    output:
        temp(f"{RESULTS}/{paths.SHARD}"),
    log:
        f"{RESULTS}/{paths.SHARD}.log",
    wildcard_constraints:
        model=paths.WILDCARDS["model"],
    resources:
        **resources(paths.SHARD),
    params:
        **params(paths.SHARD),


# Conditions with transplanted histories: this cell's agent answers the prompts of another cell's episodes.


use rule rollout as transplant with:
    input:
        unpack(inputs(paths.CONTEXT)),
    output:
        f"{RESULTS}/{paths.CONTEXT}",
    log:
        f"{RESULTS}/{paths.CONTEXT}.log",
    wildcard_constraints:
        model=only("transplant"),
    resources:
        **resources(paths.CONTEXT),
    params:
        **params(paths.CONTEXT),


rule all_rollout:
    input:
        outputs("rollout", "deploy", "evaluate", "transfer", "transplant"),
