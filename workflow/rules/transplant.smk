# Conditions with transplanted histories: this cell's agent answers the prompts of another cell's episodes.
ruleorder: transplant > rollout_context


rule transplant:
    input:
        unpack(lambda wildcards: rollout_inputs(wildcards, "context")),
        histories=histories,
    output:
        f"{CELL}/context/turns.parquet",
    log:
        f"{CELL}/context/turns.log",
    benchmark:
        f"{CELL}/context/turns.tsv"
    wildcard_constraints:
        condition="|".join(map(re.escape, sorted(STUDY.readers))) or "(?!)",
    conda:
        "../../envs/agents.yaml"
    resources:
        mem_mb=model_memory,
        runtime=model_minutes,
        gpu=model_gpus,
    params:
        reader=lambda wildcards: {
            key: wildcards[key] for key in ("model", "alignment", "condition")
        },
        model=model_params,
        code=code("transplant"),
    script:
        "../scripts/transplant.py"
