"""Stage: rollout and evaluation."""

from pathlib import Path
from typing import Any

from stage import model, optional, stage

snakemake: Any = globals()["snakemake"]

with stage(snakemake):
    from atp.rollout import Cell, rollout_stage

    params = snakemake.params
    rollout_stage(
        Path(snakemake.input.scenarios),
        Path(snakemake.output[0]),
        Cell(**params.cell),
        params.variants,
        params.split,
        params.samples,
        params.limit and (params.limit[0], params.limit[1]),
        model(snakemake),
        optional(snakemake, "adapter"),
    )
