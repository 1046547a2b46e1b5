# Model organisms, one for each testbed. The rule runs only with --config organism=rebuild; otherwise the shipped
# folders are used.
rule organism:
    input:
        templates=lambda wildcards: str(find_testbed(wildcards.testbed).templates),
        plugins=plugin_files,
    output:
        directory("results/organism/{testbed}"),
    log:
        "results/organism/{testbed}.log",
    benchmark:
        "results/organism/{testbed}.tsv"
    cache: SHARED
    conda:
        "../../envs/agents.yaml"
    threads: 2
    resources:
        mem_mb=growing(3000),
        runtime=growing(60),
    params:
        seed=0,
        code=code("organism"),
    script:
        "../scripts/organism.py"
