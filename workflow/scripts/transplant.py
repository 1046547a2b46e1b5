"""Stage: transplant."""

from pathlib import Path
from typing import Any

from stage import model, optional, stage

snakemake: Any = globals()["snakemake"]

with stage(snakemake):
    from atp.rollout.transplant import transplant_stage

    transplant_stage(
        Path(snakemake.input.histories),
        Path(snakemake.input.scenarios),
        Path(snakemake.output[0]),
        dict(snakemake.params.reader),
        model(snakemake),
        optional(snakemake, "adapter"),
    )
