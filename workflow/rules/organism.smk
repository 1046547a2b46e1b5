# Only with --config organism=rebuild: else the folder that ships with the project is used.
rule organism:
    input:
        templates=ROOT / "config/templates/role_play.yaml",
    output:
        directory("results/organism"),
    log:
        "results/organism.log",
    benchmark:
        "results/organism.tsv"
    threads: 2
    resources:
        mem_mb=3000,
    params:
        seed=0,
        code=code("organism"),
    script:
        "../scripts/organism.py"
