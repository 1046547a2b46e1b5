"""Stage: scenarios."""

from pathlib import Path
from typing import Any

from stage import ROOT, stage

snakemake: Any = globals()["snakemake"]

with stage(snakemake):
    from atp.registry import find_testbed
    from atp.scenarios.sources import scenarios_stage, source_settings

    name = snakemake.wildcards.testbed
    settings = source_settings(find_testbed(name), dict(snakemake.params.settings))
    scenarios_stage(settings, name, Path(snakemake.output[0]), ROOT)
