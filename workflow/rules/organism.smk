# Model organisms, one for each testbed, with --config organism=rebuild; otherwise the shipped folders are used.
rule organism:
    input:
        unpack(inputs(paths.ORGANISM)),
    output:
        directory(f"results/{paths.ORGANISM}"),
    log:
        f"results/{paths.ORGANISM}.log",
    cache: SHARED
    conda:
        "../../envs/agents.yaml"
    threads: 2
    resources:
        **resources(paths.ORGANISM),
    params:
        **params(paths.ORGANISM),
    script:
        "../scripts/stage.py"
