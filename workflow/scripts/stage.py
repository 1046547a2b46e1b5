"""Functions that the scripts of all stages share: the log, error messages, and inputs."""

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Use the package next to this workflow, as the Snakefile does: conda environments have none, others may have a copy.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
# Snakemake appends the folder of its own packages, which may be for another Python than a conda environment's.
if sys.prefix == os.environ.get("CONDA_PREFIX"):
    sys.path[:] = [path for path in sys.path if "site-packages" not in path or path.startswith(sys.prefix)]

import yaml

from atp.errors import AtpError, PluginError
from atp.files.code import PACKAGE
from atp.models.gpus import claim_gpus
from atp.models.spec import ModelSpec
from atp.registry import load_plugins, plugin_error

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def stage(snakemake: Any) -> Iterator[None]:
    """Run a stage. Progress goes to terminal and log, details to the log only. An AtpError is one line, exit code 1."""
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
        # Training may start new processes, which must import the same package.
        others = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = f"{PACKAGE.parent}{os.pathsep}{others}" if others else str(PACKAGE.parent)
        try:
            load_plugins(_listed(snakemake.input.get("plugins")))
            yield
        except PluginError as error:
            logger.error("atp: %s", error)
            traceback.print_exc()
            sys.exit(1)
        except AtpError as error:
            logger.error("atp: %s", error)
            sys.exit(1)
        except Exception as error:
            if isinstance(error, OSError) or plugin_error(error):
                logger.error("atp: %s", plugin_error(error) or error)
                traceback.print_exc()
                sys.exit(1)
            logger.error("atp: %s failed, see %s\n%s", snakemake.rule, snakemake.log[0], traceback.format_exc())
            sys.exit(1)


def _listed(paths: Any) -> list[str]:
    """Return an input of a job, which may be one path, as a list."""
    return [] if not paths else [paths] if isinstance(paths, str) else list(paths)


def model(snakemake: Any) -> ModelSpec | None:
    """Return the job's model: its settings, its folder if that is an input, and the job's GPUs."""
    if snakemake.params.model is None:
        return None
    folder = {}
    if snakemake.input.get("model"):
        first = Path(_listed(snakemake.input.model)[0])
        folder = {"path": str(first if first.is_dir() else first.parent)}
    settings = dict(snakemake.params.model)
    if settings["kind"] == "inspect":  # the address and the timeout do not affect replies, so they are no params
        file = Path(__file__).parents[2] / f"config/models/{snakemake.wildcards.model}.yaml"
        current = yaml.safe_load(file.read_text(encoding="utf-8"))
        settings |= {key: current[key] for key in ("base_url", "timeout") if key in current}
    spec = ModelSpec(**settings, **folder, gpus=snakemake.resources.get("gpu", 0))
    claim_gpus(spec.gpus, spec.path)
    return spec


def optional(snakemake: Any, name: str) -> Path | None:
    """Return a file or folder of the job's inputs; None if there is none of this name."""
    return Path(str(snakemake.input[name])) if snakemake.input.get(name) else None
