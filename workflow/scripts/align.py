"""Stage: align."""

from pathlib import Path
from typing import Any

from stage import model, optional, stage

snakemake: Any = globals()["snakemake"]

with stage(snakemake):
    from atp.training.align import align_stage

    align_stage(
        Path(snakemake.input.scenarios),
        Path(snakemake.output[0]),
        model=model(snakemake),
        training=dict(snakemake.params.training),
        pairs=optional(snakemake, "pairs"),
        **dict(snakemake.params.arguments),
    )
