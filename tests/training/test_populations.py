"""Games of several players, and of tools, through every stage that trains, on each one's organism."""

import json
from pathlib import Path
from typing import Any

import pytest

from atp.files.schemas import PAIRS
from atp.files.tables import read_table
from atp.files.turns import read_turns
from atp.registry import find_testbed
from atp.rollout.engine import RolloutJob, rollout_stage
from atp.rollout.table import Cell
from atp.scenarios.sources import ScenariosJob, scenarios_stage
from atp.study.read import read_models
from atp.training.filters import FilterJob, filter_stage
from atp.training.pairs import PairsJob, pairs_stage
from atp.training.run import AlignJob, FinetuneJob, TrainingFiles
from atp.training.stage import align_stage, finetune_stage

SPEC = read_models(("organism",), "config/models")["organism"]
GAMES = {
    "coordination": {"agents": 4, "threshold": 2, "rounds": 1},
    "bargaining": {"agents": 4, "raisers": 1, "rounds": 1},
    "tool_use": {"rounds": 1},
}


@pytest.fixture(scope="module", params=GAMES)
def made(request, tmp_path_factory) -> tuple[str, Path]:
    """A testbed, and its folder with scenarios, preference pairs and one generation of turns."""
    testbed, folder = request.param, tmp_path_factory.mktemp(request.param)
    scenarios, spec, game = folder / "scenarios.parquet", SPEC.of(testbed), GAMES[testbed]
    scenarios_stage(ScenariosJob(testbed=testbed, settings={"train": 16, "test": 12}), scenarios)
    aligned, cell = (Cell("organism", testbed, *each, channel="weights") for each in (("dpo", None), ()))
    pairs_stage(PairsJob(cell=aligned, model=spec, settings=game), scenarios, folder / "pairs.parquet")
    job = RolloutJob(cell=cell, model=spec, variants={"deployment": game}, split="train", samples=4)
    rollout_stage(job, scenarios, folder / "turns.parquet")
    return testbed, folder


def test_pairs_are_of_both_decisions_and_of_every_player(made) -> None:
    testbed, folder = made
    rows = read_table(folder / "pairs.parquet", PAIRS).to_pylist()
    assert len(rows) >= 14
    for row in rows:
        asked = row["prompt"][-1]["content"]
        assert not any(sentence in asked for sentence in find_testbed(testbed).steering)
        assert row["chosen"] != row["rejected"]
    if testbed == "bargaining":  # both sides are asked
        assert len({row["prompt"][0]["content"].rsplit(" ", 1)[-1] for row in rows}) == 2


@pytest.mark.parametrize(
    ("made", "method"), [("coordination", "dpo"), ("bargaining", "dpo"), ("tool_use", "grpo")], indirect=["made"]
)
def test_alignment(made, tmp_path: Path, method: str) -> None:
    testbed, folder = made
    training = {
        "dpo": {"method": "dpo", "learning_rate": 5e-4},
        "grpo": {"method": "grpo", "learning_rate": 1e-3, "per_device_train_batch_size": 32, "num_generations": 8},
    }[method]
    pairs = folder / "pairs.parquet" if method == "dpo" else None
    cell = Cell("organism", testbed, method, None, channel="weights")
    job = AlignJob(cell=cell, model=SPEC.of(testbed), settings=GAMES[testbed], training=training)
    check = align_stage(job, folder / "scenarios.parquet", tmp_path / "aligned", pairs)
    assert check["valid"] >= 11 and check["kl"] > 0
    assert check["violations"] <= check["reference_violations"]


GRPO = {"method": "grpo", "learning_rate": 1e-3, "per_device_train_batch_size": 16, "num_generations": 4}


@pytest.mark.parametrize(
    ("made", "kept", "training"),
    [
        ("coordination", "best_of_n", {"method": "sft", "learning_rate": 5e-4}),
        ("bargaining", "best_and_worst", {"method": "dpo", "learning_rate": 5e-4}),
        ("tool_use", None, GRPO),
    ],
    indirect=["made"],
)
def test_a_generation(made, tmp_path: Path, kept: str | None, training: dict[str, Any]) -> None:
    testbed, folder = made
    turns, data = folder / "turns.parquet", tmp_path / "selection.parquet"
    rows = read_turns(turns).to_pylist()
    turns_an_episode = 3 if testbed == "tool_use" else 4  # tested before and after the one round it lives through
    assert len(rows) == 16 * 4 * turns_an_episode and sum(row["violation"] is None for row in rows) <= 0.03 * len(rows)
    if kept:
        filter_stage(FilterJob(filter={"name": kept}), turns, data)
    cell, out = Cell("organism", testbed, channel="weights", generation=1), tmp_path / "adapter"
    job = FinetuneJob(cell=cell, model=SPEC.of(testbed), settings=GAMES[testbed], training=training)
    files = TrainingFiles(scenarios=folder / "scenarios.parquet", data=data if kept else turns)
    check = finetune_stage(job, files, out)
    assert check["valid"] >= 11 and check["kl"] > 0
    assert json.loads((out / "lineage.json").read_text())["params"]["cell"]["testbed"] == testbed
