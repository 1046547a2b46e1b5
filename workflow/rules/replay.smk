# Arms that read recorded histories: what another cell played is asked again of this one.
ruleorder: replay > rollout_context


rule replay:
    input:
        unpack(lambda wildcards: played_from(wildcards, "context")),
        memory=memory,
    output:
        f"{CELL}/context/turns.parquet",
    log:
        f"{CELL}/context/turns.log",
    benchmark:
        f"{CELL}/context/turns.tsv"
    wildcard_constraints:
        arm="|".join(map(re.escape, sorted(STUDY.readers))) or "(?!)",
    conda:
        "../../envs/agents.yaml"
    resources:
        mem_mb=model_memory,
        runtime=model_minutes,
        gpu=model_gpus,
    params:
        reader=lambda wildcards: {
            key: wildcards[key] for key in ("model", "alignment", "arm")
        },
        model=model_params,
        code=code("replay"),
    script:
        "../scripts/replay.py"
