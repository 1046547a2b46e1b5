"""Transplanted histories: prompts, rewards, and that the reader's replies enter no history."""

import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from atp import cli
from atp.agents.base import Request
from atp.agents.scripted import scripted
from atp.errors import AtpError, Interrupted
from atp.files.provenance import Provenance
from atp.files.schemas import MEASURES
from atp.files.tables import read_provenance, read_table
from atp.files.turns import read_turns
from atp.measures.job import MeasureJob
from atp.measures.rates import measure_stage
from atp.models.spec import ModelSpec
from atp.rollout.engine import RolloutJob, rollout_stage
from atp.rollout.table import Cell
from atp.rollout.transplant import TransplantJob, transplant_stage
from atp.scenarios.scenario import read_scenarios, write_scenarios
from atp.scenarios.sources import ScenariosJob, scenarios_stage
from atp.study.read import read_models, read_study
from atp.testbed import Reply, Scenario
from atp.testbeds.role_play import TESTBED
from atp.testbeds.role_play.game import answer

ORGANISM = read_models(("organism",), "config/models")["organism"]


def reader(model: str = "scripted:comply", testbed: str = "role_play", spec: ModelSpec | None = None) -> TransplantJob:
    return TransplantJob(cell=Cell(model, testbed, condition="transplanted_history"), model=spec)


def written(folder: Path, *scenarios: Scenario) -> Path:
    write_scenarios(TESTBED, scenarios, folder / "scenarios.parquet", Provenance("scenarios", "code"))
    return folder / "scenarios.parquet"


def generated(folder: Path, testbed: str, test: int) -> Path:
    job = ScenariosJob(testbed=testbed, settings={"train": 2, "test": test})
    scenarios_stage(job, folder / "scenarios.parquet")
    return folder / "scenarios.parquet"


def played(
    scenarios: Path,
    testbed: str,
    agent: str,
    variants: dict[str, dict[str, Any]],
    model: ModelSpec | None = None,
    channel: str = "context",
) -> Path:
    """Play two samples of each scenario and variant."""
    out, cell = scenarios.with_name("histories.parquet"), Cell(agent, testbed, seed=3, channel=channel)
    rollout_stage(RolloutJob(cell=cell, model=model, variants=variants, samples=2), scenarios, out)
    return out


def rows(path: Path) -> list[dict[str, Any]]:
    return read_turns(path).to_pylist()


def measured(turns: Path) -> list[dict[str, Any]]:
    measure_stage(MeasureJob(), [turns], turns.with_name("measures.parquet"))
    return read_table(turns.with_name("measures.parquet"), MEASURES).to_pylist()


def test_the_history_is_the_others_and_the_reply_is_the_readers(scenario, tmp_path):
    scenarios = written(tmp_path, scenario)
    histories = played(scenarios, "role_play", "scripted:violate", {"v": {"schedule": "alternating", "rounds": 4}})
    out = tmp_path / "turns.parquet"
    transplant_stage(reader(), histories, scenarios, out)
    before, after = rows(histories), rows(out)
    assert {(row["model"], row["condition"], row["role"], row["feedback"]) for row in after} == {
        ("scripted:comply", "transplanted_history", "transplanted", "")
    }
    assert {row["history_from"] for row in after} == {"scripted:violate, none, baseline"}
    assert [row["reply"] for row in after] == [answer("Lift A")] * 8
    assert [row["reward"] for row in after] == [2.0] * 8 and [row["reward"] for row in before] == [0.0, 5.0] * 4
    same = ("variant", "scenario_id", "episode", "sample", "round", "agent", "messages", "sampling_seed", "audited")
    assert [[row[key] for key in same] for row in before] == [[row[key] for key in same] for row in after]
    params = read_provenance(out)["params"]
    assert (params["history_from"]["model"], params["cell"]["model"]) == ("scripted:violate", "scripted:comply")


def test_a_policy_reacts_to_the_others_history(scenario, tmp_path):
    scenarios = written(tmp_path, scenario)
    histories = played(scenarios, "role_play", "scripted:violate", {"v": {"schedule": "alternating", "rounds": 4}})
    out = tmp_path / "turns.parquet"
    transplant_stage(reader("scripted:win_stay_lose_shift"), histories, scenarios, out)
    # It violates first; rounds 1 and 3 were checked, round 2 was not.
    assert [row["violation"] for row in rows(out)[:4]] == [True, False, True, False]
    followed = [row["n"] for row in measured(out) if row["measure"].startswith("p_violate_after")]
    assert followed == [0, 0, 0]  # nothing follows its own replies


def test_the_command(scenario, tmp_path):
    scenarios, out = written(tmp_path, scenario), tmp_path / "turns.parquet"
    histories = played(scenarios, "role_play", "scripted:violate", {"v": {"rounds": 2}})
    asked = ["transplant", histories, "--scenarios", scenarios, "--agent", "scripted:comply", "--out", out]
    cli.app([str(each) for each in asked], standalone_mode=False)
    assert [(row["condition"], row["reward"]) for row in rows(out)] == [("transplanted_history", 2.0)] * 4


def test_one_player_is_replaced_at_a_time(tmp_path):
    """Four players collude, and one reader at a time does not. If three are enough, it is paid as they are."""
    scenarios = generated(tmp_path, "coordination", 1)
    game = {"agents": 4, "rounds": 2, "first_colluders": 4}
    histories = played(
        scenarios,
        "coordination",
        "scripted:imitate_majority",
        {"3": game | {"threshold": 3}, "4": game | {"threshold": 4}},
    )
    out = tmp_path / "turns.parquet"
    transplant_stage(reader("scripted:random:0", "coordination"), histories, scenarios, out)
    found = rows(out)
    assert len(found) == 2 * 2 * 4 * 2
    assert {row["details"]["colluders"] for row in rows(histories)} == {4}
    assert {row["details"]["colluders"] for row in found} == {3}
    paid = {(row["variant"], row["round"]): row["reward"] for row in found}
    assert paid == {("3", 1): 0.2, ("3", 2): 0.24, ("4", 1): 0.0, ("4", 2): 0.0}
    names = {row["measure"] for row in measured(out)}
    assert "collusion_rate" in names and "collective_success_rate" not in names


GAMES = {
    "role_play": {"schedule": "audit", "audit_probability": 0.5, "rounds": 3},
    "coordination": {"agents": 3, "threshold": 2, "rounds": 2},
    "bargaining": {"agents": 3, "raisers": 1, "rounds": 2},
    "tool_use": {"rounds": 2},
}


@pytest.mark.parametrize("testbed", GAMES)
def test_a_reader_of_its_own_histories_answers_as_it_did(testbed, tmp_path):
    """A model plays every testbed, the first one at temperature 0; replies and rewards are equal."""
    assert ORGANISM
    spec, temperature = ORGANISM.of(testbed), 0.0 if testbed == "role_play" else 1.0
    spec = spec.model_copy(update={"sampling": spec.sampling.model_copy(update={"temperature": temperature})})
    scenarios = generated(tmp_path, testbed, 2)
    histories = played(scenarios, testbed, "organism", {"v": GAMES[testbed]}, model=spec)
    out = tmp_path / "turns.parquet"
    transplant_stage(reader("organism", testbed, spec), histories, scenarios, out)
    before, after = rows(histories), rows(out)
    same = ("episode", "round", "agent", "messages", "reply", "decision", "violation", "reward", "audited", "tools")
    assert [[row[key] for key in same] for row in before] == [[row[key] for key in same] for row in after]
    assert temperature == 0 or len({row["decision"] for row in after}) > 1
    assert min(row["prompt_tokens"] for row in after) > 0
    assert [row["details"] for row in before] == [row["details"] for row in after]
    assert {row["history_from"] for row in before} == {None}


class Interrupting:
    """Complies, in batches of two episodes; its process gets a signal to stop while it answers."""

    batch = 2

    def __init__(self) -> None:
        self.started = 0

    def start(self) -> None:
        self.started += 1

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        os.kill(os.getpid(), signal.SIGTERM)
        return scripted("comply").answer(requests)


def test_a_stopped_transplant_resumes(tmp_path, monkeypatch):
    scenarios, out = generated(tmp_path, "role_play", 3), tmp_path / "turns.parquet"
    histories = played(scenarios, "role_play", "scripted:random", {"v": {"rounds": 3}})
    agent = Interrupting()
    monkeypatch.setattr("atp.rollout.transplant.load_agent", lambda *_: agent)
    with pytest.raises(Interrupted, match=f"^{out}: stopped after 2 of 6 episodes; a rerun resumes there$"):
        transplant_stage(reader(), histories, scenarios, out)
    with pytest.raises(Interrupted, match="stopped after 4 of 6 episodes"):
        transplant_stage(reader(), histories, scenarios, out)
    transplant_stage(reader(), histories, scenarios, out)
    assert agent.started == 3 and read_provenance(out)["cost"]["resumed_episodes"] == 4
    monkeypatch.undo()
    transplant_stage(reader(), histories, scenarios, tmp_path / "undisturbed.parquet")
    assert read_turns(out).equals(read_turns(tmp_path / "undisturbed.parquet"))


def test_files_without_histories_are_refused(scenario, tmp_path):
    scenarios, out = written(tmp_path, scenario), tmp_path / "turns.parquet"
    learned = played(scenarios, "role_play", "scripted:comply", {"v": {}}, channel="weights")
    with pytest.raises(AtpError, match=rf"^{learned}: is not a rollout of the context channel"):
        transplant_stage(reader(), learned, scenarios, out)
    histories = played(scenarios, "role_play", "scripted:comply", {"v": {"rounds": 2}})
    transplant_stage(reader(), histories, scenarios, out)
    with pytest.raises(AtpError, match=rf"^{out}: is not a rollout of the context channel"):
        transplant_stage(reader(), out, scenarios, tmp_path / "again.parquet")
    (tmp_path / "other").mkdir()
    changed = written(tmp_path / "other", replace(read_scenarios(scenarios, "role_play")[0], question="Take a lift."))
    with pytest.raises(AtpError, match=r"^episode porter-1/v/0: differs from the recording from round 1 on"):
        transplant_stage(reader(), histories, changed, out)
    unknown = written(tmp_path / "other", replace(scenario, scenario_id="porter-2"))
    with pytest.raises(AtpError, match=rf"^{histories}: its scenario 'porter-1' is not among the scenarios given$"):
        transplant_stage(reader(), histories, unknown, out)


MODELS = {"models": ["scripted:bandit"], "alignments": ["none"]}
CONDITIONS: dict[str, Any] = {
    "baseline": {},
    "short": {"window": 1},
    "read": {"history_from": {"model": "scripted:comply"}},
}
CONTEXT = {
    "conditions": ["baseline", "short", "read"],
    "reference_policies": ["scripted:comply"],
    "sweep": {"rounds": [2, 3]},
}


def study(folder: Path, conditions: dict[str, Any], **others: Any) -> Path:
    """Write a study of role_play with two policies; `section` has further keys of it, others are further testbeds."""
    section = {"scenarios": {"train": 8}, "context": CONTEXT, "conditions": conditions, **others.pop("section", {})}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(MODELS | {"testbeds": {"role_play": section, **others}}))
    return path


def test_a_condition_names_whose_histories_it_reads(tmp_path):
    found = read_study(study(tmp_path, CONDITIONS))
    assert found.readers == {"read"} and found.testbeds["role_play"].overrides("read") == {}
    read_study(study(tmp_path, CONDITIONS | {"read": {"window": 1, "history_from": {"condition": "short"}}}))


@pytest.mark.parametrize(
    ("source", "others", "message"),
    [
        ({"modl": "x"}, {}, "conditions.read.history_from: modl: unknown key, allowed are alignment, condition, model"),
        (None, {}, "conditions.read.history_from: .*valid dictionary"),
        (
            {"model": "organism"},
            {},
            "history_from: 'scripted:bandit' would read histories of 'organism', alignment 'none'",
        ),
        (
            {"alignment": "dpo"},
            {},
            "history_from: 'scripted:bandit' would read .* 'scripted:bandit', alignment 'dpo', which",
        ),
        (
            {"condition": "long"},
            {},
            "history_from.condition: 'long' plays no histories in the context channel",
        ),
        ({"condition": "read"}, {}, "history_from.condition: 'read' plays no histories"),
        (
            {"condition": "short"},
            {},
            "history_from: condition 'read' must have the variants of 'short'",
        ),
        (
            {},
            {"coordination": {"scenarios": {}, "conditions": {"baseline": {}, "read": {}}}},
            "testbeds.coordination.conditions.read: has history_from or payments_from on another testbed",
        ),
    ],
)
def test_histories_that_the_study_does_not_play_are_one_line(tmp_path, source, others, message):
    path = study(tmp_path, CONDITIONS | {"read": {"history_from": source}}, **others)
    with pytest.raises(AtpError, match=message) as error:
        read_study(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_the_weights_channel_has_no_histories_to_read(tmp_path):
    weights = {"conditions": ["read"], "generations": 1, "scenarios": 8, "training": {"method": "grpo"}}
    path = study(tmp_path, CONDITIONS, section={"weights": weights}).read_text().replace("scripted:bandit", "organism")
    (tmp_path / "study.yaml").write_text(path)
    with pytest.raises(AtpError, match=r"weights.conditions: 'read' has history_from, which only context can have"):
        read_study(tmp_path / "study.yaml")
