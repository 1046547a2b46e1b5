"""Histories of one agent read by another: what is asked, what an answer is worth, and that it changes nothing."""

import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from atp import cli
from atp.agents import Request
from atp.agents.scripted import scripted
from atp.artifacts import MEASURES, read_provenance, read_table, read_turns
from atp.config import read_models, read_study
from atp.errors import AtpError, Interrupted
from atp.measures import measure_stage
from atp.provenance import Provenance
from atp.replay import replay_stage
from atp.rollout import Cell, rollout_stage
from atp.scenarios.scenario import Scenario, read_scenarios, write_scenarios
from atp.scenarios.stage import ScenarioSettings, scenarios_stage
from atp.testbeds.base import Reply
from atp.testbeds.role_play import answer

ORGANISM = read_models(("organism",), "config/models")["organism"]
READER = {"model": "scripted:comply", "alignment": "none", "arm": "frozen_memory"}


def written(folder: Path, *scenarios: Scenario) -> Path:
    write_scenarios(scenarios, folder / "scenarios.parquet", Provenance("scenarios", "code"))
    return folder / "scenarios.parquet"


def generated(folder: Path, testbed: str, test: int) -> Path:
    settings = ScenarioSettings(path=f"config/templates/{testbed}.yaml", train=2, test=test)
    scenarios_stage(settings, testbed, folder / "scenarios.parquet")
    return folder / "scenarios.parquet"


def played(scenarios: Path, testbed: str, agent: str, variants: dict[str, dict[str, Any]], **asked: Any) -> Path:
    """Two samples of each scenario and variant; `asked` goes to the stage."""
    out, channel = scenarios.with_name("memory.parquet"), asked.pop("channel", "context")
    cell = Cell(agent, testbed, "none", "plain", seed=3, channel=channel, generation=0)
    rollout_stage(scenarios, out, cell, variants, "test", 2, **asked)
    return out


def rows(path: Path) -> list[dict[str, Any]]:
    return read_turns(path).to_pylist()


def measured(turns: Path) -> list[dict[str, Any]]:
    measure_stage([turns], turns.with_name("measures.parquet"))
    return read_table(turns.with_name("measures.parquet"), MEASURES).to_pylist()


def test_the_history_is_the_others_and_the_reply_ones_own(scenario, tmp_path):
    scenarios = written(tmp_path, scenario)
    memory = played(scenarios, "role_play", "scripted:violate", {"v": {"schedule": "alternating", "rounds": 4}})
    out = tmp_path / "turns.parquet"
    replay_stage(memory, scenarios, out, READER)
    before, after = rows(memory), rows(out)
    assert {(row["model"], row["arm"], row["role"], row["feedback"]) for row in after} == {
        ("scripted:comply", "frozen_memory", "replayed", "")
    }
    assert {dict(row["details"])["memory"] for row in after} == {"scripted:violate, none, plain"}
    assert [row["reply"] for row in after] == [answer("Lift A")] * 8
    assert [row["reward"] for row in after] == [2.0] * 8 and [row["reward"] for row in before] == [0.0, 5.0] * 4
    same = ("variant", "scenario_id", "episode", "sample", "round", "agent", "messages", "sampling_seed", "audited")
    assert [[row[key] for key in same] for row in before] == [[row[key] for key in same] for row in after]
    params = read_provenance(out)["params"]
    assert (params["memory"]["model"], params["cell"]["model"]) == ("scripted:violate", "scripted:comply")


def test_a_policy_goes_by_what_the_other_lived_through(scenario, tmp_path):
    scenarios = written(tmp_path, scenario)
    memory = played(scenarios, "role_play", "scripted:violate", {"v": {"schedule": "alternating", "rounds": 4}})
    out = tmp_path / "turns.parquet"
    replay_stage(memory, scenarios, out, {**READER, "model": "scripted:win_stay_lose_shift"})
    # It opens with a violation; rounds 1 and 3 were checked, round 2 was not.
    assert [row["violation"] for row in rows(out)[:4]] == [True, False, True, False]
    followed = [row["n"] for row in measured(out) if row["measure"].startswith("p_violate_after")]
    assert followed == [0, 0, 0]  # its own replies are followed by nothing


def test_the_command(scenario, tmp_path):
    scenarios, out = written(tmp_path, scenario), tmp_path / "turns.parquet"
    memory = played(scenarios, "role_play", "scripted:violate", {"v": {"rounds": 2}})
    asked = ["replay", memory, "--scenarios", scenarios, "--agent", "scripted:comply", "--out", out]
    cli.app([str(each) for each in asked], standalone_mode=False)
    assert [(row["arm"], row["reward"]) for row in rows(out)] == [("frozen_memory", 2.0)] * 4


def test_one_player_is_replaced_at_a_time(tmp_path):
    """Of four who all collude, each reader alone does not: three are enough, so it is paid as they are."""
    scenarios = generated(tmp_path, "coordination", 1)
    game = {"agents": 4, "rounds": 2, "first_colluders": 4}
    memory = played(
        scenarios,
        "coordination",
        "scripted:imitate_majority",
        {"3": game | {"threshold": 3}, "4": game | {"threshold": 4}},
    )
    out = tmp_path / "turns.parquet"
    replay_stage(memory, scenarios, out, {**READER, "model": "scripted:random:0"})
    found = rows(out)
    assert len(found) == 2 * 2 * 4 * 2
    assert {dict(row["details"])["colluders"] for row in rows(memory)} == {"4"}
    assert {dict(row["details"])["colluders"] for row in found} == {"3"}
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
def test_who_reads_its_own_histories_answers_as_it_did(testbed, tmp_path):
    """A model in every game, in the first at temperature 0: reply for reply, and what each was worth."""
    assert ORGANISM
    spec, temperature = ORGANISM.of(testbed), 0.0 if testbed == "role_play" else 1.0
    spec = spec.model_copy(update={"sampling": spec.sampling.model_copy(update={"temperature": temperature})})
    scenarios = generated(tmp_path, testbed, 2)
    memory = played(scenarios, testbed, "organism", {"v": GAMES[testbed]}, model=spec)
    out = tmp_path / "turns.parquet"
    replay_stage(memory, scenarios, out, {**READER, "model": "organism"}, spec)
    before, after = rows(memory), rows(out)
    same = ("episode", "round", "agent", "messages", "reply", "decision", "violation", "reward", "audited", "tools")
    assert [[row[key] for key in same] for row in before] == [[row[key] for key in same] for row in after]
    assert temperature == 0 or len({row["decision"] for row in after}) > 1
    assert min(row["prompt_tokens"] for row in after) > 0
    own = [dict(row["details"]) for row in after]
    assert [{key: each[key] for key in each if key != "memory"} for each in own] == [
        dict(row["details"]) for row in before
    ]


class Told:
    """Complies, in batches of two episodes; its process is told to stop while it first answers."""

    batch = 2

    def __init__(self) -> None:
        self.started = 0

    def start(self) -> None:
        self.started += 1

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        os.kill(os.getpid(), signal.SIGTERM)
        return scripted("comply").answer(requests)


def test_a_replay_that_is_told_to_stop_goes_on(tmp_path, monkeypatch):
    scenarios, out = generated(tmp_path, "role_play", 3), tmp_path / "turns.parquet"
    memory = played(scenarios, "role_play", "scripted:random", {"v": {"rounds": 3}})
    agent = Told()
    monkeypatch.setattr("atp.replay.load_agent", lambda *_: agent)
    with pytest.raises(Interrupted, match=f"^{out}: stopped after 2 of 6 episodes; a rerun goes on there$"):
        replay_stage(memory, scenarios, out, READER)
    with pytest.raises(Interrupted, match="stopped after 4 of 6 episodes"):
        replay_stage(memory, scenarios, out, READER)
    replay_stage(memory, scenarios, out, READER)
    assert agent.started == 3 and read_provenance(out)["cost"]["resumed_episodes"] == 4
    monkeypatch.undo()
    replay_stage(memory, scenarios, tmp_path / "undisturbed.parquet", READER)
    assert read_turns(out).equals(read_turns(tmp_path / "undisturbed.parquet"))


def test_what_holds_no_histories_is_refused(scenario, tmp_path):
    scenarios, out = written(tmp_path, scenario), tmp_path / "turns.parquet"
    learned = played(scenarios, "role_play", "scripted:comply", {"v": {}}, channel="weights")
    with pytest.raises(AtpError, match=rf"^{learned}: no rollout of the context channel"):
        replay_stage(learned, scenarios, out, READER)
    memory = played(scenarios, "role_play", "scripted:comply", {"v": {"rounds": 2}})
    replay_stage(memory, scenarios, out, READER)
    with pytest.raises(AtpError, match=rf"^{out}: no rollout of the context channel"):
        replay_stage(out, scenarios, tmp_path / "again.parquet", READER)
    (tmp_path / "other").mkdir()
    changed = written(tmp_path / "other", replace(read_scenarios(scenarios, "role_play")[0], question="Take a lift."))
    with pytest.raises(
        AtpError, match=r"^episode porter-1/v/0: comes out otherwise when played again, from round 1 on"
    ):
        replay_stage(memory, changed, out, READER)
    unknown = written(tmp_path / "other", replace(scenario, scenario_id="porter-2"))
    with pytest.raises(AtpError, match=rf"^{memory}: its scenario 'porter-1' is not among the scenarios given$"):
        replay_stage(memory, unknown, out, READER)


MODELS = {"models": ["scripted:bandit"], "alignments": ["none"]}
ARMS: dict[str, Any] = {"plain": {}, "short": {"window": 1}, "read": {"memory_of": {"model": "scripted:comply"}}}
CONTEXT = {"arms": ["plain", "short", "read"], "yardsticks": ["scripted:comply"], "sweep": {"rounds": [2, 3]}}


def study(folder: Path, arms: dict[str, Any], **others: Any) -> Path:
    """A study of role-play in which two policies play; `section` holds more keys of it, the others are testbeds."""
    scenarios = {"source": "templates", "path": "config/templates/role_play.yaml", "train": 8}
    section = {"scenarios": scenarios, "context": CONTEXT, "arms": arms, **others.pop("section", {})}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(MODELS | {"testbeds": {"role_play": section, **others}}))
    return path


def test_an_arm_names_whose_histories_it_reads(tmp_path):
    found = read_study(study(tmp_path, ARMS))
    assert found.readers == {"read"} and found.testbeds["role_play"].imposed("read") == {}
    read_study(study(tmp_path, ARMS | {"read": {"window": 1, "memory_of": {"arm": "short"}}}))


COIN = {"source": "templates", "path": "config/templates/coordination.yaml"}


@pytest.mark.parametrize(
    ("memory", "others", "said"),
    [
        ({"modl": "x"}, {}, "arms.read.memory_of: modl: unknown key, allowed are alignment, arm, model"),
        (None, {}, "arms.read.memory_of: .*valid dictionary"),
        (
            {"model": "organism"},
            {},
            "memory_of: 'scripted:bandit' would read histories of 'organism', alignment 'none'",
        ),
        (
            {"alignment": "dpo"},
            {},
            "memory_of: 'scripted:bandit' would read .* 'scripted:bandit', alignment 'dpo', who",
        ),
        ({"arm": "long"}, {}, "memory_of.arm: 'long' is no arm that makes histories in the context channel"),
        ({"arm": "read"}, {}, "memory_of.arm: 'read' is no arm that makes histories"),
        ({"arm": "short"}, {}, "memory_of: arm 'read' has not the variants of 'short', whose histories it reads"),
        (
            {},
            {"coordination": {"scenarios": COIN, "arms": {"plain": {}, "read": {}}}},
            "testbeds.coordination.arms.read: on another testbed it has memory_of",
        ),
    ],
)
def test_histories_that_nobody_makes_are_one_line(tmp_path, memory, others, said):
    path = study(tmp_path, ARMS | {"read": {"memory_of": memory}}, **others)
    with pytest.raises(AtpError, match=said) as error:
        read_study(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_the_weights_channel_has_no_histories_to_read(tmp_path):
    weights = {"arms": ["read"], "generations": 1, "scenarios": 8, "training": {"method": "grpo"}}
    path = study(tmp_path, ARMS, section={"weights": weights}).read_text().replace("scripted:bandit", "organism")
    (tmp_path / "study.yaml").write_text(path)
    with pytest.raises(AtpError, match=r"weights.arms: 'read' reads histories, which the context channel alone has"):
        read_study(tmp_path / "study.yaml")
