"""The script of all stages: a task in, its log and the exit code out. An error is one line.

A task is a JSON value: rule, stage, jobs (what makes each output, as JSON), inputs by name, outputs, log, threads,
machine (GPUs, and a server's address and timeout), primary (the digest of the study's hypotheses), and the workflow's
folder.
"""

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from atp.errors import AtpError, PluginError
from atp.files.provenance import PRIMARY
from atp.models.gpus import claim_gpus
from atp.registry import load_plugins, plugin_error
from atp.study.stages import project_root, run

Task = Mapping[str, Any]


def run_task(task: Task) -> None:
    """Run a stage. Exits with code 1 after an error."""
    with _logged(task):
        inputs = {name: [Path(path) for path in paths] for name, paths in task["inputs"].items()}
        load_plugins(inputs.pop("plugins", []))
        os.environ[PRIMARY] = task["primary"]
        jobs = [_with_machine(job, inputs, task["machine"]) for job in task["jobs"]]
        if jobs and jobs[0].get("model"):
            claim_gpus(jobs[0]["model"]["gpus"], jobs[0]["model"]["path"])
        run(task["stage"], jobs, inputs, [Path(path) for path in task["outputs"]], project_root(Path(task["workflow"])))


@contextmanager
def _logged(task: Task) -> Iterator[None]:
    """Send standard output and errors to the task's log, and messages to the terminal too."""
    terminal = os.fdopen(os.dup(2), "w", buffering=1)
    with Path(task["log"]).open("w", buffering=1) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        logger = logging.getLogger("atp")
        logger.setLevel(logging.DEBUG)
        shown = logging.WARNING if "ATP_DISPLAY" in os.environ else logging.INFO  # atp/study/display.py shows progress
        for stream, level in ((terminal, shown), (sys.stderr, logging.DEBUG)):
            handler = logging.StreamHandler(stream)
            handler.setLevel(level)
            logger.addHandler(handler)
        warnings.simplefilter("default")
        os.environ["OMP_NUM_THREADS"] = str(task["threads"])
        try:
            yield
        except Exception as error:
            known = isinstance(error, AtpError)
            line = str(error) if known else plugin_error(error) or (str(error) if isinstance(error, OSError) else "")
            if not line:
                line = f"{task['rule']} failed, see {task['log']}\n{traceback.format_exc()}"
            elif not known or isinstance(error, PluginError):  # the log helps the author of a plug-in
                traceback.print_exc()
            logger.error("atp: %s", line)
            sys.exit(1)


def _with_machine(job: dict[str, Any], inputs: Mapping[str, list[Path]], machine: dict[str, Any]) -> dict[str, Any]:
    """Return a job whose model has its folder, if that is an input, and what the machine gives it."""
    if not job.get("model"):
        return job
    model = job["model"] | machine
    if inputs.get("model"):
        first = inputs["model"][0]
        model["path"] = str(first if first.is_dir() else first.parent)
    return job | {"model": model}
