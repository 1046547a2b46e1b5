"""Stage: report."""

from pathlib import Path
from typing import Any

from stage import stage

snakemake: Any = globals()["snakemake"]

with stage(snakemake):
    from atp.report import report_stage

    files = snakemake.input
    turns = [Path(path) for path in (*files.turns, *files.evaluations)]
    selections = [Path(path) for path in files.selections]
    report_stage(
        measures=Path(files.measures),
        turns=turns,
        selections=selections,
        artifacts=[Path(path) for path in (*files.scenarios, *turns, *selections, *files.adapters, files.measures)],
        out=Path(snakemake.output.page),
        figures_folder=Path(snakemake.output.figures),
        study=Path(files.study).stem,
        study_text=Path(files.study).read_text(encoding="utf-8"),
        organism=snakemake.params.organism,
    )
