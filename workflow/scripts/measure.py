"""Stage: measure."""

from pathlib import Path
from typing import Any

from stage import stage

snakemake: Any = globals()["snakemake"]

with stage(snakemake):
    from atp.measures.rates import measure_stage

    turns = [Path(path) for path in (*snakemake.input.turns, *snakemake.input.evaluations)]
    measure_stage(turns, Path(snakemake.output[0]))
