rule train:
    input:
        data=training_data,
        scenarios=f"{RESULTS}/{{testbed}}/scenarios.parquet",
        model=model_files,
        parent=lambda wildcards: adapter(wildcards, int(wildcards.g) - 1),
        reference=lambda wildcards: adapter(wildcards, 0),
        pairs=rehearsed,
        plugins=plugin_files,
    output:
        directory(f"{CELL}/generation{{g}}/adapter"),
    log:
        f"{CELL}/generation{{g}}/adapter.log",
    benchmark:
        f"{CELL}/generation{{g}}/adapter.tsv"
    conda:
        "../../envs/agents.yaml"
    resources:
        mem_mb=model_memory,
        runtime=model_minutes,
        gpu=model_gpus,
    params:
        training=lambda wildcards: learning(wildcards).training.model_dump(),
        evaluation=lambda wildcards: settings_of.evaluation(
            STUDY.testbeds[wildcards.testbed]
        ),
        first_unused=first_unused,
        cell=lambda wildcards: {
            **cell_params(wildcards),
            "channel": "weights",
            "generation": int(wildcards.g),
        },
        model=model_params,
        code=code("finetune"),
    script:
        "../scripts/finetune.py"


rule finetune:
    input:
        [
            f"{cell}/generation{g}/adapter"
            for section, cell in cells("weights")
            for g in range(1, section.weights.generations + 1)
        ],
