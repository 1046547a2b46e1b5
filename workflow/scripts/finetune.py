"""Stage: finetune."""

from pathlib import Path
from typing import Any

from stage import adapter, model, stage

snakemake: Any = globals()["snakemake"]

with stage(snakemake):
    from atp.training.sft import finetune_stage

    finetune_stage(
        Path(snakemake.input.selection),
        Path(snakemake.output[0]),
        model(snakemake),
        dict(snakemake.params.settings),
        seed=int(snakemake.wildcards.seed),
        generation=int(snakemake.wildcards.g),
        parent=adapter(snakemake, "parent"),
    )
