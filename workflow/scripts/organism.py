"""Stage: organism."""

from pathlib import Path
from typing import Any

from stage import stage

snakemake: Any = globals()["snakemake"]

with stage(snakemake):
    from atp.organism.train import build_organism

    templates, out = Path(snakemake.input.templates), Path(snakemake.output[0])
    build_organism(templates, out, snakemake.wildcards.testbed, snakemake.params.seed)
