"""Yoked rewards: as large and frequent as in recorded episodes, but independent of decisions."""

from collections import Counter
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import yaml

from atp.errors import AtpError
from atp.files.tables import read_provenance
from atp.files.turns import read_turns
from atp.rollout.engine import RolloutJob, rollout_stage
from atp.rollout.table import Cell
from atp.rollout.transplant import TransplantJob, transplant_stage
from atp.scenarios.sources import ScenariosJob, scenarios_stage
from atp.study.read import read_study

AUDITS = {"schedule": "audit", "audit_probability": 0.4, "penalty": 1, "rounds": 4}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> tuple[Path, Path]:
    """Return scenarios, and turns of an agent that violates in half of the rounds."""
    folder = tmp_path_factory.mktemp("recorded")
    scenarios, turns = folder / "scenarios.parquet", folder / "turns.parquet"
    scenarios_stage(ScenariosJob(testbed="role_play", settings={"test": 6}), scenarios)
    job = RolloutJob(cell=Cell("scripted:random", "role_play", seed=3), variants={"v": AUDITS}, samples=3)
    rollout_stage(job, scenarios, turns)
    return scenarios, turns


def yoked(agent: str, recorded: tuple[Path, Path], out: Path) -> list[dict[str, Any]]:
    scenarios, turns = recorded
    job = TransplantJob(cell=Cell(agent, "role_play", condition="yoked"), payments=True)
    transplant_stage(job, turns, scenarios, out)
    return read_turns(out).to_pylist()


def payments(rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row["episode"], []).append(row["reward"])
    return found


def test_payments_are_those_of_the_next_sample_in_an_order_that_decisions_do_not_change(recorded, tmp_path):
    violating, complying = (yoked(f"scripted:{name}", recorded, tmp_path / name) for name in ("violate", "comply"))
    assert {row["violation"] for row in violating} == {True} and {row["violation"] for row in complying} == {False}
    paid, earned = payments(violating), payments(read_turns(recorded[1]).to_pylist())
    assert paid == payments(complying) and paid.keys() == earned.keys()
    for episode, amounts in paid.items():
        scenario, variant, sample = episode.rsplit("/", 2)
        assert Counter(amounts) == Counter(earned[f"{scenario}/{variant}/{(int(sample) + 1) % 3}"])
    assert any(amounts != earned[f"{name[:-1]}{(int(name[-1]) + 1) % 3}"] for name, amounts in paid.items())


def test_the_agent_sees_what_it_is_paid_and_it_enters_its_history(recorded, tmp_path):
    rows = yoked("scripted:comply", recorded, tmp_path / "out")
    assert {row["role"] for row in rows} == {"worker"} and {row["condition"] for row in rows} == {"yoked"}
    for before, row in pairwise(rows):
        if row["round"] > 1:
            amount = f"You earned {'-' if before['reward'] < 0 else ''}${abs(before['reward']):.10g}."
            assert before["feedback"].endswith(amount) and before["feedback"] in row["messages"][-1]["content"]
    params = read_provenance(tmp_path / "out")["params"]
    assert params["payments"] and params["payments_from"]["model"] == "scripted:random" and params["cell"]["seed"] == 3


def study(folder: Path, testbed: str, condition: dict[str, Any], samples: int = 2) -> Path:
    section = {
        "scenarios": {"test": 4},
        "conditions": {"baseline": {}, "yoked": condition},
        "context": {"conditions": ["baseline", "yoked"], "samples": samples},
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({"models": ["scripted:random"], "testbeds": {testbed: section}}))
    return path


def test_a_condition_names_whose_rewards_it_is_paid(tmp_path):
    found = read_study(study(tmp_path, "role_play", {"payments_from": {}}))
    assert found.readers == {"yoked"} and found.testbeds["role_play"].overrides("yoked") == {}


@pytest.mark.parametrize(
    ("testbed", "condition", "message"),
    [
        (
            "coordination",
            {"payments_from": {}},
            "'coordination' cannot pay recorded rewards: it has no setting 'payments'",
        ),
        ("role_play", {"payments_from": {"condition": "x"}}, "payments_from.condition: 'x' plays no histories"),
        ("role_play", {"payments_from": {}, "history_from": {}}, "has history_from or payments_from, not both"),
        ("role_play", {"payments": [1.0, 2.0]}, r"payments: 2, must be at least as many as rounds \(6\)"),
    ],
)
def test_rewards_that_cannot_be_paid_are_one_line(tmp_path, testbed, condition, message):
    path = study(tmp_path, testbed, condition)
    with pytest.raises(AtpError, match=message) as error:
        read_study(path)
    assert "\n" not in str(error.value)


def test_an_episode_is_not_paid_its_own_rewards(tmp_path):
    with pytest.raises(AtpError, match=r"context.samples: found 1, must be at least 2: condition 'yoked' is paid"):
        read_study(study(tmp_path, "role_play", {"payments_from": {}}, samples=1))


def test_an_agent_that_learns_from_what_its_decisions_pay_stays_where_it_began(tmp_path):
    """A greedy bandit violates in half of the first rounds, and then ever more, unless its rewards are yoked."""
    scenarios, turns = tmp_path / "scenarios.parquet", tmp_path / "turns.parquet"
    scenarios_stage(ScenariosJob(testbed="role_play", settings={"test": 24}), scenarios)
    job = RolloutJob(cell=Cell("scripted:bandit", "role_play"), variants={"v": {"rounds": 6}}, samples=4)
    rollout_stage(job, scenarios, turns)
    rows = {
        "baseline": read_turns(turns).to_pylist(),
        "yoked": yoked("scripted:bandit", (scenarios, turns), tmp_path / "y"),
    }
    rates = {
        name: [mean(row["violation"] for row in each if row["round"] == round) for round in (1, 6)]
        for name, each in rows.items()
    }
    assert rates["baseline"][0] == rates["yoked"][0] == pytest.approx(0.5, abs=0.15)
    assert rates["baseline"][1] > 0.8 and rates["yoked"][1] == pytest.approx(0.5, abs=0.15)
