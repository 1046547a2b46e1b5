"""Stage: pairs."""

import logging
from pathlib import Path
from typing import Any

from stage import model, stage

snakemake: Any = globals()["snakemake"]

with stage(snakemake):
    from atp.files.schemas import YIELD
    from atp.training.pairs import pairs_stage

    out, arguments = Path(snakemake.output[0]), dict(snakemake.params.arguments)
    counts = pairs_stage(
        Path(snakemake.input.scenarios),
        out,
        agent=snakemake.wildcards.model,
        model=model(snakemake),
        retries=snakemake.params.retries,
        **arguments,
    )
    logging.getLogger("atp").info("%s: %s", out, YIELD.format_map(counts))
