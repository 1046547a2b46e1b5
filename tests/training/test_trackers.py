"""Experiment trackers that need no network, read by themselves: they get the training's logs, and change nothing."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from pydantic import ValidationError
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from atp.files.provenance import Provenance
from atp.models.spec import ModelSpec
from atp.registry import find_testbed
from atp.rollout.engine import RolloutJob, rollout_stage
from atp.rollout.table import Cell
from atp.scenarios.scenario import write_scenarios
from atp.scenarios.templates import generate, read_templates
from atp.study.read import read_models
from atp.testbeds.role_play.scenarios import RolePlayTemplate, instantiate
from atp.training import SftSettings
from atp.training.filters import FilterJob, filter_stage

#: Program that prints the logs of a run, by its project and its name.
LOGS = """
import json, sys
from trackio.sqlite_storage import SQLiteStorage
print(json.dumps(SQLiteStorage.get_logs(*sys.argv[1:])))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Scenarios, and what a filter kept of a deployment on them."""
    folder, organism = tmp_path_factory.mktemp("trackers"), read_models(("organism",), "config/models")["organism"]
    assert isinstance(organism, ModelSpec)
    made = generate(read_templates("atp/testbeds/role_play/templates.yaml", RolePlayTemplate), instantiate, 8, 8, 0)
    scenarios, turns = folder / "scenarios.parquet", folder / "turns.parquet"
    write_scenarios(find_testbed("role_play"), made, scenarios, Provenance("scenarios", "code"))
    cell, once = Cell("organism", "role_play", channel="weights"), {"deployment": {"rounds": 1}}
    model = organism.of("role_play")
    rollout_stage(RolloutJob(cell=cell, model=model, variants=once, split="train", samples=4), scenarios, turns)
    filter_stage(FilterJob(filter={"name": "best_of_n"}), turns, folder / "selection.parquet")
    return folder


def finetune(folder: Path, out: Path, *settings: str) -> dict[str, str]:
    """Train by the command line, with trackers that write to a folder of their own, and return the environment."""
    environment = {**os.environ, "TRACKIO_DIR": str(out.parent / "trackio"), "HF_TOKEN": "hf_secret"}
    command = [sys.executable, "-m", "atp.cli", "finetune", str(folder / "selection.parquet"), "--agent", "organism"]
    files = ["--scenarios", str(folder / "scenarios.parquet"), "--out", str(out)]
    chosen = [f"--set={setting}" for setting in ("learning_rate=5e-4", "validity=0", *settings)]
    result = subprocess.run([*command, *files, *chosen], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return environment


def test_tensorboard_and_trackio_get_the_logs_of_a_training(folder, tmp_path):
    out = tmp_path / "adapter"
    environment = finetune(folder, out, "report_to=[tensorboard, trackio]", "project=tipping")
    steps = json.loads((out / "lineage.json").read_text())["cost"]["steps"]
    events = EventAccumulator(f"{out}.tensorboard").Reload()
    assert len(events.Scalars("train/loss")) == steps
    printed = subprocess.run([sys.executable, "-c", LOGS, "tipping", str(out)], env=environment, capture_output=True)
    losses = [entry["train/loss"] for entry in json.loads(printed.stdout) if "train/loss" in entry]
    assert losses == pytest.approx([event.value for event in events.Scalars("train/loss")], abs=1e-6)
    finetune(folder, tmp_path / "untracked")
    weights = "adapter_model.safetensors"
    assert (tmp_path / "untracked" / weights).read_bytes() == (out / weights).read_bytes()
    assert {path.name for path in out.iterdir()} == {path.name for path in (tmp_path / "untracked").iterdir()}
    assert not any(b"hf_secret" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("all", "must be one or several of wandb, mlflow, trackio, tensorboard"),
        (["tensorboard", 1], "must be one or several of wandb, mlflow, trackio, tensorboard"),
        pytest.param(
            ["mlflow"],
            "mlflow is not installed; install it: pip install mlflow",
            marks=pytest.mark.skipif(bool(find_spec("mlflow")), reason="mlflow is installed"),
        ),
    ],
)
def test_a_tracker_that_cannot_be_used_is_an_error_at_its_key(value, message):
    with pytest.raises(ValidationError, match=message) as error:
        SftSettings(method="sft", report_to=value)
    assert error.value.errors()[0]["loc"] == ("report_to",)
