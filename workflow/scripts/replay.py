"""Stage: replay."""

from pathlib import Path
from typing import Any

from stage import model, optional, stage

snakemake: Any = globals()["snakemake"]

with stage(snakemake):
    from atp.replay import replay_stage

    replay_stage(
        Path(snakemake.input.memory),
        Path(snakemake.input.scenarios),
        Path(snakemake.output[0]),
        dict(snakemake.params.reader),
        model(snakemake),
        optional(snakemake, "adapter"),
    )
