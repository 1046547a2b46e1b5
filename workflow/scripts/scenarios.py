"""Stage: scenarios."""

from pathlib import Path
from typing import Any

from stage import stage

snakemake: Any = globals()["snakemake"]

with stage(snakemake):
    from atp.scenarios.stage import ScenarioSettings, scenarios_stage

    path, *templates = snakemake.input.files
    settings = ScenarioSettings(path=path, templates=templates[0] if templates else None, **snakemake.params.settings)
    scenarios_stage(settings, snakemake.wildcards.testbed, Path(snakemake.output[0]))
