"""Stage: finetune."""

from pathlib import Path
from typing import Any

from stage import model, optional, stage

snakemake: Any = globals()["snakemake"]

with stage(snakemake):
    from atp.training.stage import finetune_stage

    finetune_stage(
        Path(snakemake.input.data),
        Path(snakemake.input.scenarios),
        Path(snakemake.output[0]),
        testbed=snakemake.wildcards.testbed,
        settings=dict(snakemake.params.evaluation),
        model=model(snakemake),
        training=dict(snakemake.params.training),
        seed=int(snakemake.wildcards.seed),
        generation=int(snakemake.wildcards.g),
        parent=optional(snakemake, "parent"),
        reference=optional(snakemake, "reference"),
        pairs=optional(snakemake, "pairs"),
        first_unused=snakemake.params.first_unused,
        cell=dict(snakemake.params.cell),
    )
