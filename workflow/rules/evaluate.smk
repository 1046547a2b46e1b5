rule evaluate_generation:
    input:
        unpack(
            lambda wildcards: whole(
                wildcards, f"generation{wildcards.g}", "evaluation"
            )
        ),
    output:
        f"{CELL}/generation{{g}}/evaluation.parquet",
    log:
        f"{CELL}/generation{{g}}/evaluation.log",
    benchmark:
        f"{CELL}/generation{{g}}/evaluation.tsv"
    cache: SHARED
    conda:
        "../../envs/agents.yaml"
    resources:
        mem_mb=model_memory,
        runtime=model_minutes,
        gpu=lambda wildcards: rollout_gpus(
            wildcards, f"generation{wildcards.g}", "evaluation"
        ),
    params:
        arguments=lambda wildcards: rollout_params(
            wildcards, f"generation{wildcards.g}", "evaluation"
        ),
        part=[1, 1],
        model=model_params,
        code=code("rollout"),
    script:
        "../scripts/rollout.py"


rule evaluate:
    input:
        [
            f"{cell}/generation{g}/evaluation.parquet"
            for section, cell in cells("weights")
            for g in range(section.weights.generations + 1)
        ],
