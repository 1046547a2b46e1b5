"""Games of several players, and of tools, through every stage that trains, on each one's organism."""

import json
from pathlib import Path
from typing import Any

import pytest

from atp.files.schemas import PAIRS
from atp.files.tables import read_table
from atp.files.turns import read_turns
from atp.registry import find_testbed
from atp.rollout.engine import rollout_stage
from atp.rollout.table import Cell
from atp.scenarios.sources import scenarios_stage, source_settings
from atp.study.read import read_models
from atp.training.align import align_stage
from atp.training.filters import filter_settings, filter_stage
from atp.training.pairs import pairs_stage
from atp.training.stage import finetune_stage

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
    settings = source_settings(find_testbed(testbed), {"source": "templates", "train": 16, "test": 12, "seed": 0})
    scenarios = folder / "scenarios.parquet"
    scenarios_stage(settings, testbed, scenarios)
    spec, game = SPEC.of(testbed), GAMES[testbed]
    pairs_stage(scenarios, folder / "pairs.parquet", testbed, game, "organism", spec, 8, 0)
    cell = Cell("organism", testbed, "none", "baseline", 0, "weights", 0)
    rollout_stage(scenarios, folder / "turns.parquet", cell, {"deployment": game}, "train", 4, None, spec)
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


@pytest.mark.parametrize("method", ["dpo", "grpo"])
def test_alignment(made, tmp_path: Path, method: str) -> None:
    testbed, folder = made
    training = {
        "dpo": {"method": "dpo", "learning_rate": 5e-4},
        "grpo": {"method": "grpo", "learning_rate": 1e-3, "per_device_train_batch_size": 32, "num_generations": 8},
    }[method]
    pairs = folder / "pairs.parquet" if method == "dpo" else None
    spec, scenarios = SPEC.of(testbed), folder / "scenarios.parquet"
    check = align_stage(scenarios, tmp_path / "aligned", testbed, GAMES[testbed], spec, training, 0, pairs)
    assert check["valid"] >= 11 and check["kl"] > 0
    assert check["violations"] <= check["reference_violations"]


@pytest.mark.parametrize(
    ("kept", "training"),
    [
        ("best_of_n", {"method": "sft", "learning_rate": 5e-4}),
        ("best_and_worst", {"method": "dpo", "learning_rate": 5e-4}),
        (None, {"method": "grpo", "learning_rate": 1e-3, "per_device_train_batch_size": 16, "num_generations": 4}),
    ],
)
def test_a_generation(made, tmp_path: Path, kept: str | None, training: dict[str, Any]) -> None:
    testbed, folder = made
    turns, data = folder / "turns.parquet", tmp_path / "selection.parquet"
    rows = read_turns(turns).to_pylist()
    turns_an_episode = 3 if testbed == "tool_use" else 4  # tested before and after the one round it lives through
    assert len(rows) == 16 * 4 * turns_an_episode and sum(row["violation"] is None for row in rows) <= 0.03 * len(rows)
    if kept:
        filter_stage(turns, data, filter_settings({"name": kept}))
    spec, out = SPEC.of(testbed), tmp_path / "adapter"
    asked = (data if kept else turns, folder / "scenarios.parquet", out, testbed, GAMES[testbed], spec, training, 0, 1)
    check = finetune_stage(*asked)
    assert check["valid"] >= 11 and check["kl"] > 0
    assert json.loads((out / "lineage.json").read_text())["params"]["testbed"] == testbed
