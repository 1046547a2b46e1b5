"""What every stage's script shares: its log, and errors that a person reads."""

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# The package beside this workflow, as in the Snakefile: conda environments have none, others may have another copy's.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
# Snakemake appends the folder of its own packages. To a conda environment they are strangers, maybe of another Python.
if sys.prefix == os.environ.get("CONDA_PREFIX"):
    sys.path[:] = [path for path in sys.path if "site-packages" not in path or path.startswith(sys.prefix)]

import yaml

from atp.agents import ModelSpec
from atp.agents.gpus import claim_gpus
from atp.errors import AtpError
from atp.provenance import PACKAGE


@contextmanager
def stage(snakemake: Any) -> Iterator[None]:
    """Progress to terminal and log, each step and chatter to the log alone; an AtpError ends the job with its line."""
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
        # Training may start processes of its own, which have to find the same package.
        others = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = f"{PACKAGE.parent}{os.pathsep}{others}" if others else str(PACKAGE.parent)
        try:
            yield
        except AtpError as error:
            logger.error("atp: %s", error)
            sys.exit(1)
        except OSError as error:
            logger.error("atp: %s", error)
            traceback.print_exc()
            sys.exit(1)
        except Exception:
            logger.error("atp: %s failed, see %s\n%s", snakemake.rule, snakemake.log[0], traceback.format_exc())
            sys.exit(1)


def model(snakemake: Any) -> ModelSpec | None:
    """The job's model: its settings, its folder where that is an input, and the GPUs that the job was given."""
    if snakemake.params.model is None:
        return None
    folder = {}
    if snakemake.input.get("model"):
        given = snakemake.input.model
        first = Path(given if isinstance(given, str) else given[0])
        folder = {"path": str(first if first.is_dir() else first.parent)}
    settings = dict(snakemake.params.model)
    if settings["kind"] == "inspect":  # where it is, and how long it is waited for, decides no reply
        file = Path(__file__).parents[2] / f"config/models/{snakemake.wildcards.model}.yaml"
        now = yaml.safe_load(file.read_text(encoding="utf-8"))
        settings |= {key: now[key] for key in ("base_url", "timeout") if key in now}
    spec = ModelSpec(**settings, **folder, gpus=snakemake.resources.get("gpu", 0))
    claim_gpus(spec.gpus, spec.path)
    return spec


def optional(snakemake: Any, name: str) -> Path | None:
    """A file or folder among the job's inputs, if there is one of this name."""
    return Path(str(snakemake.input[name])) if snakemake.input.get(name) else None
