"""Stage: rollout and evaluation."""

from pathlib import Path
from typing import Any

from stage import model, optional, stage

snakemake: Any = globals()["snakemake"]

with stage(snakemake):
    from atp.rollout import Cell, gather_stage, rollout_stage

    out, asked = Path(snakemake.output[0]), dict(snakemake.params.asked)
    if snakemake.input.get("shards"):
        gather_stage([Path(shard) for shard in snakemake.input.shards], out)
    else:
        rollout_stage(
            Path(snakemake.input.scenarios),
            out,
            Cell(**asked["cell"]),
            asked["variants"],
            asked["split"],
            asked["samples"],
            asked["limit"] and (asked["limit"][0], asked["limit"][1]),
            model(snakemake),
            optional(snakemake, "adapter"),
            (snakemake.params.part[0], snakemake.params.part[1]),
        )
