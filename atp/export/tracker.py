"""A study's rates -> runs of an experiment tracker, through accelerate, which knows each tracker's calls."""

import importlib.util
import shutil
from collections.abc import Callable
from typing import Any

import polars as pl

from atp.errors import AtpError
from atp.export.artifacts import Artifacts
from atp.files.schemas import CELL, MEASURES
from atp.files.tables import read_table
from atp.study import paths
from atp.training.trl_fields import TRACKERS

#: Folder of TensorBoard's logs in a study's results.
FOLDER = "tensorboard"
RATES = ("violation_rate", "p_violation", "invalid_rate", "mean_reward")


def export_rates(study: Artifacts, tracker: str) -> int:
    """Log the rates of each cell as a run of the study's project: by round in context, else by generation.

    Returns:
        The number of runs.

    Raises:
        AtpError: a study without measures; a tracker that is unknown or not installed.
    """
    path = study.folder / paths.MEASURES
    if tracker not in TRACKERS:
        raise AtpError(f"--to {tracker}: unknown tracker, allowed are {', '.join(TRACKERS)}")
    if importlib.util.find_spec(tracker) is None:
        raise AtpError(f"--to {tracker}: is not installed; install it: pip install {tracker}")
    if not path.is_file():
        raise AtpError(f"{path}: no measures yet; run the study to its end")
    rates = pl.DataFrame(read_table(path, MEASURES, "measures")).filter(
        pl.col("measure").is_in(RATES), pl.all_horizontal(pl.col("value", "seed", "round").is_not_null())
    )
    step = pl.when(pl.col("channel") == "context").then("round").otherwise("generation")
    if tracker == "tensorboard":  # it adds to the logs that are there
        shutil.rmtree(study.folder / FOLDER, ignore_errors=True)
    runs = rates.with_columns(step=step).sort("step").group_by(CELL, maintain_order=True)
    for (model, testbed, alignment, condition, seed), rows in runs:
        run = _run(study, tracker, f"{model}/{testbed}/{alignment}/seed{seed}/{condition}")
        run.start()
        for (at,), values in rows.group_by("step", maintain_order=True):
            names = values.select(pl.concat_str("channel", "split", "variant", "measure", separator="/")).to_series()
            run.log(dict(zip(names, values["value"], strict=True)), step=at)
        run.finish()
    return rates.select(CELL).n_unique()


def _run(study: Artifacts, tracker: str, name: str) -> Any:
    from accelerate import PartialState, tracking

    PartialState(cpu=True)
    kinds: dict[str, Callable[[], Any]] = {
        "tensorboard": lambda: tracking.TensorBoardTracker(name, study.folder / FOLDER),
        "trackio": lambda: tracking.TrackioTracker(study.name, name=name),
        "wandb": lambda: tracking.WandBTracker(study.name, name=name),
        "mlflow": lambda: tracking.MLflowTracker(study.name, run_name=name),
    }
    return kinds[tracker]()
