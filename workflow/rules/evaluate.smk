rule evaluate_generation:
    input:
        scenarios=f"{RESULTS}/{{testbed}}/scenarios.parquet",
        model=model_files,
        adapter=lambda wildcards: adapter(wildcards, int(wildcards.g)),
    output:
        f"{CELL}/generation{{g}}/evaluation.parquet",
    log:
        f"{CELL}/generation{{g}}/evaluation.log",
    benchmark:
        f"{CELL}/generation{{g}}/evaluation.tsv"
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
            "evaluation": atp_config.evaluation(STUDY.testbeds[wildcards.testbed])
        },
        split="test",
        samples=lambda wildcards: STUDY.testbeds[
            wildcards.testbed
        ].weights.evaluation.samples,
        limit=None,
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
