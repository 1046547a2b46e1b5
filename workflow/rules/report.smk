rule measure:
    input:
        unpack(inputs(paths.MEASURES)),
    output:
        f"{RESULTS}/{paths.MEASURES}",
    log:
        f"{RESULTS}/{paths.MEASURES}.log",
    conda:
        "../../envs/tables.yaml"
    resources:
        **resources(paths.MEASURES),
    params:
        **params(paths.MEASURES),
    script:
        "../scripts/stage.py"


rule report:
    input:
        unpack(inputs(paths.REPORT)),
    output:
        page=report(
            f"{RESULTS}/{paths.REPORT}",
            caption="../report/report.rst",
            category="Report",
        ),
        figures=report(
            directory(f"{RESULTS}/{paths.FIGURES}"),
            patterns=["{name}.svg"],
            caption="../report/figure.rst",
            category="Figures",
        ),
    log:
        f"{RESULTS}/{paths.REPORT}.log",
    conda:
        "../../envs/report.yaml"
    resources:
        **resources(paths.REPORT),
    params:
        **params(paths.REPORT),
    script:
        "../scripts/stage.py"
