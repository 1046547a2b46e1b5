"""Stage: pairs."""

import logging
from pathlib import Path
from typing import Any

from stage import model, stage

snakemake: Any = globals()["snakemake"]

with stage(snakemake):
    from atp.alignment import YIELD
    from atp.alignment.pairs import pairs_stage

    out, asked = Path(snakemake.output[0]), dict(snakemake.params.asked)
    found = pairs_stage(
        Path(snakemake.input.scenarios),
        out,
        agent=snakemake.wildcards.model,
        model=model(snakemake),
        retries=snakemake.params.retries,
        **asked,
    )
    logging.getLogger("atp").info("%s: %s", out, YIELD.format_map(found))
