"""Run a stage of the workflow. Progress goes to terminal and log, details to the log; an error is one line."""

import atexit
import gc
import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from atp.errors import AtpError, PluginError
from atp.models.gpus import claim_gpus
from atp.registry import load_plugins, plugin_error
from atp.study.stages import project_root, run

snakemake: Any = globals()["snakemake"]

# Imports of torch and TRL make a million objects that stay. To collect garbage among them every 700 objects, and once
# more at the exit, takes a third of the time of a short job.
gc.set_threshold(100_000, 20, 100)
atexit.register(gc.freeze)


@contextmanager
def logged() -> Iterator[None]:
    """Send standard output and errors to the job's log, and messages to the terminal too."""
    terminal = os.fdopen(os.dup(2), "w", buffering=1)
    with Path(snakemake.log[0]).open("w", buffering=1) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        logger = logging.getLogger("atp")
        logger.setLevel(logging.DEBUG)
        for stream, level in ((terminal, logging.INFO), (sys.stderr, logging.DEBUG)):
            handler = logging.StreamHandler(stream)
            handler.setLevel(level)
            logger.addHandler(handler)
        warnings.simplefilter("default")
        os.environ["OMP_NUM_THREADS"] = str(snakemake.threads)
        try:
            yield
        except Exception as error:
            line = plugin_error(error) or (str(error) if isinstance(error, AtpError | OSError) else None)
            if isinstance(error, AtpError) and not isinstance(error, PluginError):
                logger.error("atp: %s", error)
            elif line:
                logger.error("atp: %s", error if isinstance(error, PluginError) else line)
                traceback.print_exc()
            else:
                logger.error("atp: %s failed, see %s\n%s", snakemake.rule, snakemake.log[0], traceback.format_exc())
            sys.exit(1)


def files() -> dict[str, list[Path]]:
    """Return the job's inputs by name; one of them may be a single path."""
    named = {name: snakemake.input[name] for name in snakemake.input.keys()}  # noqa: SIM118  it is a list too
    listed = {name: [paths] if isinstance(paths, str) else paths for name, paths in named.items()}
    return {name: [Path(path) for path in paths] for name, paths in listed.items()}


def with_machine(job: dict[str, Any], inputs: dict[str, list[Path]]) -> dict[str, Any]:
    """Return a job whose model has its folder, if that is an input, and what the job's resources give it."""
    if not job.get("model"):
        return job
    resources = snakemake.resources
    model = {**job["model"], "gpus": resources.get("gpu", 0)}
    model |= {key: resources[key] for key in ("base_url", "timeout") if resources.get(key)}
    if inputs.get("model"):
        first = inputs["model"][0]
        model["path"] = str(first if first.is_dir() else first.parent)
    return {**job, "model": model}


with logged():
    inputs = files()
    load_plugins(inputs.pop("plugins", []))
    jobs = [with_machine(json.loads(job), inputs) for job in snakemake.params.jobs]
    for job in jobs[:1]:
        if job.get("model"):
            claim_gpus(job["model"]["gpus"], job["model"]["path"])
    outputs = [Path(path) for path in snakemake.output]
    run(snakemake.params.stage, jobs, inputs, outputs, project_root(Path(snakemake.scriptdir).parents[1]))
