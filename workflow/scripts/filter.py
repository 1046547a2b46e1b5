"""Stage: filter."""

import logging
from pathlib import Path
from typing import Any

from stage import stage

snakemake: Any = globals()["snakemake"]

with stage(snakemake):
    from atp.training.filters import filter_settings, filter_stage

    counts = filter_stage(
        Path(snakemake.input.turns), Path(snakemake.output[0]), filter_settings(dict(snakemake.params.settings))
    )
    logging.getLogger("atp").info("%s: %s", snakemake.output[0], counts)
