rule report:
    input:
        measures=rules.measure.output[0],
        turns=rules.rollout.input,
        evaluations=rules.evaluate.input,
        selections=rules.filter.input,
        pairs=rules.pairs.input,
        aligned=rules.align.input,
        adapters=rules.finetune.input,
        scenarios=rules.scenarios.input,
        study=STUDY_FILE,
        plugins=PLUGINS,
        published=[
            str(file)
            for name in STUDY.testbeds
            if (file := find_testbed(name).published)
        ],
    output:
        page=report(
            f"{RESULTS}/report.html", caption="../report/report.rst", category="Report"
        ),
        figures=report(
            directory(f"{RESULTS}/figures"),
            patterns=["{name}.svg"],
            caption="../report/figure.rst",
            category="Figures",
        ),
    log:
        f"{RESULTS}/logs/report.log",
    benchmark:
        f"{RESULTS}/benchmarks/report.tsv"
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    params:
        organism=any(spec and spec.organism for spec in MODELS.values()),
        code=code_of_all("report", "figures"),
    script:
        "../scripts/report.py"
