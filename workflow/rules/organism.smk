# Only with --config organism=rebuild: else the folders that ship with the project are used. One a testbed.
rule organism:
    input:
        templates=str(ROOT / "config/templates/{testbed}.yaml"),
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
