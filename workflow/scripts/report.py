"""Stage: report."""

from pathlib import Path
from typing import Any

from stage import stage

snakemake: Any = globals()["snakemake"]

with stage(snakemake):
    from atp.report import report_stage

    files = snakemake.input

    def paths(*names: str) -> list[Path]:
        return [Path(path) for name in names for path in files[name]]

    report_stage(
        measures=Path(files.measures),
        turns=paths("turns", "evaluations"),
        selections=paths("selections"),
        adapters=paths("aligned", "adapters"),
        pairs=paths("pairs"),
        artifacts=paths("scenarios"),
        out=Path(snakemake.output.page),
        figures_folder=Path(snakemake.output.figures),
        study=Path(files.study).stem,
        study_text=Path(files.study).read_text(encoding="utf-8"),
        organism=snakemake.params.organism,
    )
