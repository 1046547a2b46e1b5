"""Stage: rollout and evaluation."""

from pathlib import Path
from typing import Any

from stage import model, optional, stage

snakemake: Any = globals()["snakemake"]

with stage(snakemake):
    from atp.rollout.engine import gather_stage, rollout_stage
    from atp.rollout.table import Cell

    out, arguments = Path(snakemake.output[0]), dict(snakemake.params.arguments)
    if snakemake.input.get("shards"):
        gather_stage([Path(shard) for shard in snakemake.input.shards], out)
    else:
        rollout_stage(
            Path(snakemake.input.scenarios),
            out,
            Cell(**arguments["cell"]),
            arguments["variants"],
            arguments["split"],
            arguments["samples"],
            arguments["limit"] and (arguments["limit"][0], arguments["limit"][1]),
            model(snakemake),
            optional(snakemake, "adapter"),
            (snakemake.params.part[0], snakemake.params.part[1]),
        )
