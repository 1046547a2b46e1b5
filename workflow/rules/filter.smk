rule select:
    input:
        turns=f"{CELL}/generation{{g}}/turns.parquet",
        plugins=plugin_files,
    output:
        f"{CELL}/generation{{g}}/selection.parquet",
    log:
        f"{CELL}/generation{{g}}/selection.log",
    benchmark:
        f"{CELL}/generation{{g}}/selection.tsv"
    conda:
        "../../envs/tables.yaml"
    resources:
        mem_mb=growing(1000),
        runtime=growing(30),
    params:
        settings=lambda wildcards: learning(wildcards).filter.model_dump(),
        code=code_of_filter,
    script:
        "../scripts/filter.py"


rule filter:
    input:
        [
            f"{cell}/generation{g}/selection.parquet"
            for section, cell in cells("weights")
            if section.weights.filter
            for g in range(section.weights.generations)
        ],
