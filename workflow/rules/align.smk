# Alignment before deployment, on training scenarios that deployment does not use. It trains generation 0.
rule prefer:
    input:
        scenarios=f"{RESULTS}/{{testbed}}/scenarios.parquet",
        model=model_files,
        plugins=plugin_files,
    output:
        f"{ALIGNED}/pairs.parquet",
    log:
        f"{ALIGNED}/pairs.log",
    benchmark:
        f"{ALIGNED}/pairs.tsv"
    cache: SHARED
    conda:
        "../../envs/agents.yaml"
    resources:
        mem_mb=model_memory,
        runtime=model_minutes,
        gpu=model_gpus,
    params:
        arguments=alignment_params,
        retries=lambda wildcards: STUDY.testbeds[wildcards.testbed].alignment.retries,
        model=model_params,
        code=code("pairs"),
    script:
        "../scripts/pairs.py"


rule align_agent:
    input:
        scenarios=f"{RESULTS}/{{testbed}}/scenarios.parquet",
        model=model_files,
        plugins=plugin_files,
        pairs=lambda wildcards: (
            f"{ALIGNED}/pairs.parquet".format(**wildcards)
            if wildcards.alignment == "dpo"
            else []
        ),
    output:
        directory(f"{ALIGNED}/adapter"),
    log:
        f"{ALIGNED}/adapter.log",
    benchmark:
        f"{ALIGNED}/adapter.tsv"
    cache: SHARED
    conda:
        "../../envs/agents.yaml"
    resources:
        mem_mb=model_memory,
        runtime=model_minutes,
        gpu=model_gpus,
    params:
        arguments=alignment_params,
        training=lambda wildcards: settings_of.alignment_training(
            STUDY.testbeds[wildcards.testbed], wildcards.alignment, wildcards.model
        ).model_dump(),
        model=model_params,
        code=code("align"),
    script:
        "../scripts/align.py"


rule pairs:
    input:
        aligned(("dpo",), "pairs.parquet"),


rule align:
    input:
        aligned(("dpo", "grpo"), "adapter"),
