# Rollouts: in the context channel on the test split, in the weights channel on new training scenarios. A large rollout
# is split into shards, one job each, which the rule of the whole rollout gathers.
rule rollout_shard:
    input:
        unpack(lambda wildcards: rollout_inputs(wildcards, wildcards.place)),
    output:
        temp(f"{CELL}/{{place}}/{{kind}}.shard{{k}}of{{n}}.parquet"),
    log:
        f"{CELL}/{{place}}/{{kind}}.shard{{k}}of{{n}}.log",
    benchmark:
        f"{CELL}/{{place}}/{{kind}}.shard{{k}}of{{n}}.tsv"
    conda:
        "../../envs/agents.yaml"
    resources:
        mem_mb=model_memory,
        runtime=model_minutes,
        gpu=model_gpus,
    params:
        arguments=lambda wildcards: rollout_params(
            wildcards, wildcards.place, wildcards.kind
        ),
        part=lambda wildcards: [int(wildcards.k), int(wildcards.n)],
        model=model_params,
        code=code("rollout"),
    script:
        "../scripts/rollout.py"


rule rollout_context:
    input:
        unpack(lambda wildcards: whole(wildcards, "context")),
    output:
        f"{CELL}/context/turns.parquet",
    log:
        f"{CELL}/context/turns.log",
    benchmark:
        f"{CELL}/context/turns.tsv"
    cache: SHARED
    conda:
        "../../envs/agents.yaml"
    resources:
        mem_mb=model_memory,
        runtime=model_minutes,
        gpu=lambda wildcards: rollout_gpus(wildcards, "context"),
    params:
        arguments=lambda wildcards: rollout_params(wildcards, "context"),
        part=[1, 1],
        model=model_params,
        code=code("rollout"),
    script:
        "../scripts/rollout.py"


rule rollout_weights:
    input:
        unpack(lambda wildcards: whole(wildcards, f"generation{wildcards.g}")),
    output:
        f"{CELL}/generation{{g}}/turns.parquet",
    log:
        f"{CELL}/generation{{g}}/turns.log",
    benchmark:
        f"{CELL}/generation{{g}}/turns.tsv"
    cache: SHARED
    conda:
        "../../envs/agents.yaml"
    resources:
        mem_mb=model_memory,
        runtime=model_minutes,
        gpu=lambda wildcards: rollout_gpus(wildcards, f"generation{wildcards.g}"),
    params:
        arguments=lambda wildcards: rollout_params(
            wildcards, f"generation{wildcards.g}"
        ),
        part=[1, 1],
        model=model_params,
        code=code("rollout"),
    script:
        "../scripts/rollout.py"


rule rollout:
    input:
        [f"{cell}/context/turns.parquet" for _, cell in cells("context")],
        [
            f"{cell}/generation{g}/turns.parquet"
            for section, cell in cells("weights")
            for g in range(section.weights.generations)
        ],
