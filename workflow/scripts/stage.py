"""Run a stage of the workflow, in a fork of a process that has imported what it needs, or here."""

import atexit
import gc
import json
import sys
from pathlib import Path
from typing import Any

from atp.study.preload import delegate

snakemake: Any = globals()["snakemake"]

# Imports of torch and TRL make a million objects that stay. To collect garbage among them every 700 objects, and once
# more at the exit, takes a third of the time of a short job.
gc.set_threshold(100_000, 20, 100)
atexit.register(gc.freeze)

resources = snakemake.resources
server = {key: resources[key] for key in ("base_url", "timeout") if resources.get(key)}
task = {
    "rule": snakemake.rule,
    "stage": snakemake.params.stage,
    "jobs": [json.loads(job) for job in snakemake.params.jobs],
    "inputs": {name: [paths] if isinstance(paths, str) else list(paths) for name, paths in snakemake.input.items()},
    "outputs": list(snakemake.output),
    "log": snakemake.log[0],
    "threads": snakemake.threads,
    "primary": resources.get("primary", ""),
    "machine": {"gpus": resources.get("gpu", 0), **server},
    "workflow": str(Path(snakemake.scriptdir).parents[1]),
}
code = delegate(task) if task["threads"] == 1 and not task["machine"]["gpus"] else None
if code is None:
    from atp.study.script import run_task  # a delegated task does not need the imports

    run_task(task)
sys.exit(code)
