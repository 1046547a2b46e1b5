"""Rates in experiment trackers that need no network, read by themselves."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).parents[2]
CELL = "organism/role_play/none/seed0/baseline"
RATE = "context/test/all_unsupervised/violation_rate"
LOGS = """
import json, sys
from trackio.sqlite_storage import SQLiteStorage
print(json.dumps(SQLiteStorage.get_logs(*sys.argv[1:])))
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run Python with trackio's files in a folder."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TRACKIO_DIR": str(folder / "trackio")}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)


def export(study: Path, tracker: str) -> subprocess.CompletedProcess:
    return run(study.parent, "-m", "atp.cli", "export", "tracker", str(study), "--to", tracker)


def test_tensorboard_and_trackio_have_the_rates_by_round_and_generation(small, tmp_path):
    study = shutil.copytree(small, tmp_path / "small")
    rates = pl.read_parquet(study / "measures.parquet").filter(
        measure="violation_rate", variant="all_unsupervised", alignment="none", channel="context"
    )
    expected = {row["round"]: pytest.approx(row["value"]) for row in rates.to_dicts()}
    assert len(expected) == 2
    for tracker in ("tensorboard", "trackio"):
        result = export(study, tracker)
        assert (result.returncode, result.stderr.count("Traceback")) == (0, 0), result.stderr
        assert "2 runs\n" in result.stdout
    events = EventAccumulator(str(study / "tensorboard" / CELL)).Reload()
    assert {event.step: event.value for event in events.Scalars(RATE)} == expected
    assert [event.step for event in events.Scalars("weights/test/evaluation/violation_rate")] == [0, 1]
    logs = json.loads(run(tmp_path, "-c", LOGS, "small", CELL).stdout)
    assert {entry["step"]: entry[RATE] for entry in logs if RATE in entry} == expected


@pytest.mark.parametrize(
    ("tracker", "message"),
    [
        ("comet", "atp: --to comet: unknown tracker, allowed are wandb, mlflow, trackio, tensorboard\n"),
        ("trackio", "measures.parquet: no measures yet; run the study to its end\n"),
    ],
)
def test_rates_that_cannot_be_logged_are_one_line(hostile, tracker, message):
    result = export(hostile, tracker)
    assert result.returncode == 1
    assert result.stderr.endswith(message) and "Traceback" not in result.stderr
