# Playing scenarios: in the context channel on the test split, in the weights channel on fresh training scenarios.
def adapter(wildcards, g):
    """The adapter of generation g of a cell; of generation 0 that of its alignment, which none has not."""
    if g:
        return [f"{CELL}/generation{g}/adapter".format(**wildcards)]
    return (
        []
        if wildcards.alignment == "none"
        else [f"{ALIGNED}/adapter".format(**wildcards)]
    )


rule rollout_context:
    input:
        scenarios=f"{RESULTS}/{{testbed}}/scenarios.parquet",
        model=model_files,
        adapter=lambda wildcards: adapter(wildcards, 0),
    output:
        f"{CELL}/context/turns.parquet",
    log:
        f"{CELL}/context/turns.log",
    benchmark:
        f"{CELL}/context/turns.tsv"
    conda:
        "../../envs/agents.yaml"
    resources:
        mem_mb=model_memory,
        runtime=model_minutes,
        gpu=model_gpus,
    params:
        cell=lambda wildcards: cell_params(wildcards)
        | {"channel": "context", "generation": 0},
        variants=lambda wildcards: atp_config.variants(
            STUDY.testbeds[wildcards.testbed], wildcards.arm
        ),
        split="test",
        samples=lambda wildcards: STUDY.testbeds[wildcards.testbed].context.samples,
        limit=None,
        model=model_params,
        code=code("rollout"),
    script:
        "../scripts/rollout.py"


def fresh(wildcards):
    """Rows of the train split that a generation is deployed on."""
    count, g = STUDY.testbeds[wildcards.testbed].weights.scenarios, int(wildcards.g)
    return [g * count, (g + 1) * count]


rule rollout_weights:
    input:
        scenarios=f"{RESULTS}/{{testbed}}/scenarios.parquet",
        model=model_files,
        adapter=lambda wildcards: adapter(wildcards, int(wildcards.g)),
    output:
        f"{CELL}/generation{{g}}/turns.parquet",
    log:
        f"{CELL}/generation{{g}}/turns.log",
    benchmark:
        f"{CELL}/generation{{g}}/turns.tsv"
    conda:
        "../../envs/agents.yaml"
    resources:
        mem_mb=model_memory,
        runtime=model_minutes,
        gpu=model_gpus,
    params:
        cell=lambda wildcards: cell_params(wildcards)
        | {"channel": "weights", "generation": int(wildcards.g)},
        variants=lambda wildcards: {
            "deployment": atp_config.deployment(
                STUDY.testbeds[wildcards.testbed], wildcards.arm
            )
        },
        split="train",
        samples=lambda wildcards: STUDY.testbeds[wildcards.testbed].weights.samples,
        limit=fresh,
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
