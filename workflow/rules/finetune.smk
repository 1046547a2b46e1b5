rule train:
    input:
        selection=lambda wildcards: f"{CELL}/generation{int(wildcards.g) - 1}/selection.parquet".format(
            **wildcards
        ),
        model=model_files,
        parent=lambda wildcards: adapter(wildcards, int(wildcards.g) - 1),
    output:
        directory(f"{CELL}/generation{{g}}/adapter"),
    log:
        f"{CELL}/generation{{g}}/adapter.log",
    benchmark:
        f"{CELL}/generation{{g}}/adapter.tsv"
    resources:
        mem_mb=model_memory,
        gpu=model_gpus,
    params:
        settings=lambda wildcards: STUDY.testbeds[
            wildcards.testbed
        ].weights.training.model_dump(),
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
