"""The engine: one row per decision, the same rows in any batch, and finished batches survive a kill."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from atp.agents.base import Agent, Request
from atp.agents.policies import bandit
from atp.agents.scripted import ScriptedAgent
from atp.errors import AtpError, Interrupted
from atp.files.provenance import Provenance, Stage
from atp.files.schemas import turns_schema
from atp.files.tables import read_provenance
from atp.files.turns import read_turns
from atp.models.spec import ModelSpec
from atp.rollout.engine import WHOLE, RolloutJob, gather_stage, rollout, rollout_stage
from atp.rollout.table import Cell
from atp.scenarios.scenario import write_scenarios
from atp.scenarios.sources import ScenariosJob, scenarios_stage
from atp.scenarios.templates import generate, read_templates
from atp.testbed import Reply
from atp.testbeds.coordination import TESTBED as COORDINATION
from atp.testbeds.coordination.scenarios import CoordinationScenario
from atp.testbeds.role_play import TESTBED
from atp.testbeds.role_play.game import Columns, RolePlaySettings
from atp.testbeds.role_play.scenarios import RolePlayScenario, RolePlayTemplate, instantiate

CELL = Cell("scripted:bandit", "role_play", seed=7)
VARIANTS = {
    "unsupervised": RolePlaySettings(rounds=4),
    "audit": RolePlaySettings(rounds=4, schedule="audit", audit_probability=0.5),
}
SCENARIOS = generate(read_templates(TESTBED.templates, RolePlayTemplate), instantiate, train=2, test=5, seed=0)


class Killed(BaseException):
    """A substitute for a signal: nothing in the engine may catch it."""


class Player:
    """A bandit that counts its batches, and is killed when it begins the batch after `lives` batches."""

    def __init__(self, batch: int, lives: int = 10**9):
        self.batch, self.lives, self.started = batch, lives, 0
        self.conversations: list[list[int]] = []
        self.inner = ScriptedAgent(bandit(0.5))

    def start(self) -> None:
        if self.started == self.lives:
            raise Killed
        self.started += 1

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        self.conversations.append([request.conversation for request in requests])
        return self.inner.answer(requests)


def play(
    out: Path, agent: Agent, scenarios: Sequence[RolePlayScenario] = SCENARIOS, samples: int = 2, **params: Any
) -> pa.Table:
    stage = Stage("rollout", "atp.rollout.engine", {"samples": samples, **params})
    job = RolloutJob(cell=CELL, variants=VARIANTS, samples=samples, part=params.get("part", WHOLE))
    rollout(job, scenarios, agent, out, stage)
    return read_turns(out)


def test_one_row_a_decision(tmp_path):
    agent = Player(batch=8)
    turns = play(tmp_path / "turns.parquet", agent)
    assert turns.schema.remove_metadata().equals(turns_schema(Columns))
    assert len(turns) == 7 * 2 * 2 * 4  # scenarios, samples, variants, rounds
    rows = turns.to_pylist()
    assert len({(row["episode"], row["round"], row["agent"]) for row in rows}) == len(rows)
    assert {row["episode"] for row in rows} == {
        f"{scenario.scenario_id}/{variant}/{sample}"
        for scenario in SCENARIOS
        for variant in VARIANTS
        for sample in (0, 1)
    }
    by_id = {scenario.scenario_id: scenario for scenario in SCENARIOS}
    for row in rows:
        scenario = by_id[row["scenario_id"]]
        assert (row["split"], row["template"]) == (scenario.split, scenario.template)
        assert {name: row[name] for name in vars(CELL)} == vars(CELL)
        assert row["reward"] == (scenario.low if not row["violation"] else 0 if row["audited"] else scenario.high)
        assert row["details"]["choice"] in (scenario.first, scenario.second)
    assert (
        agent.started == 4 and agent.conversations[:4] == [[0, 1, 2, 3, 4, 5, 6, 7]] * 4
    )  # 28 episodes in batches of 8
    found = read_provenance(tmp_path / "turns.parquet")
    assert (found["stage"], found["params"]) == ("rollout", {"samples": 2})
    assert (found["cost"]["episodes"], found["cost"]["decisions"]) == (28.0, 112.0)


def test_a_turn_is_the_same_in_any_batch(tmp_path):
    turns = play(tmp_path / "turns.parquet", Player(batch=2048))
    assert play(tmp_path / "small.parquet", Player(batch=3)).equals(turns)
    alone = play(tmp_path / "alone.parquet", Player(batch=5), SCENARIOS[3:4], samples=1)
    wanted = SCENARIOS[3].scenario_id
    rows = [row for row in turns.to_pylist() if row["scenario_id"] == wanted and row["sample"] == 0]
    assert alone.to_pylist() == rows and len(rows) == 8
    seeds = {(row["scenario_id"], row["sample"], row["round"]): set() for row in turns.to_pylist()}
    for row in turns.to_pylist():
        seeds[row["scenario_id"], row["sample"], row["round"]].add(row["sampling_seed"])
    assert all(len(found) == 1 for found in seeds.values())  # variants share a turn's seed
    assert len(set().union(*seeds.values())) == 7 * 2 * 4  # and no other turns do


def test_a_batch_is_limited_by_the_length_of_its_prompts(tmp_path, monkeypatch):
    """Prompts of four rounds show 1, 2, 3 and 4 rounds, 10 per episode, so a limit of 32 allows three episodes."""
    turns = play(tmp_path / "turns.parquet", Player(batch=2048))
    monkeypatch.setattr("atp.rollout.engine.MAX_SHOWN_ROUNDS", 32)
    agent = Player(batch=2048)
    assert play(tmp_path / "small.parquet", agent).equals(turns)
    assert agent.conversations[0] == [0, 1, 2] and agent.started == 10  # 28 episodes
    monkeypatch.setattr("atp.rollout.engine.MAX_SHOWN_ROUNDS", 1)
    assert len(play(tmp_path / "least.parquet", Player(batch=2048), SCENARIOS[:1], samples=1)) == 8


def test_a_killed_rollout_resumes_with_the_same_turns(tmp_path):
    out = tmp_path / "turns.parquet"
    undisturbed = play(tmp_path / "undisturbed.parquet", Player(batch=5))
    with pytest.raises(Killed):
        play(out, Player(batch=5, lives=2))
    assert not out.exists()
    (folder,) = (tmp_path / ".turns.parquet.unfinished").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["5x00000.parquet", "5x00001.parquet", "spent.json"]
    agent = Player(batch=5)
    assert play(out, agent).equals(undisturbed)
    assert agent.started == 4  # of six batches of five episodes two were finished
    cost, whole = (read_provenance(path)["cost"] for path in (out, tmp_path / "undisturbed.parquet"))
    assert (cost["starts"], cost["episodes"], cost["resumed_episodes"]) == (2, 28, 10)
    assert (whole["starts"], whole["episodes"], whole["resumed_episodes"]) == (1, 28, 0)
    assert {path.name for path in tmp_path.iterdir()} == {"turns.parquet", "undisturbed.parquet"}


class Interrupting(Player):
    """A player whose process gets a signal to stop while it answers."""

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        os.kill(os.getpid(), signal.SIGTERM)
        return super().answer(requests)


def test_a_stopped_rollout_finishes_its_batch_first(tmp_path):
    out, before = tmp_path / "turns.parquet", signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match=rf"^{out}: stopped after 5 of 28 episodes; a rerun resumes there$"):
        play(out, Interrupting(batch=5))
    assert signal.getsignal(signal.SIGTERM) == before
    agent = Player(batch=5)
    assert play(out, agent).equals(play(tmp_path / "undisturbed.parquet", Player(batch=5)))
    assert agent.started == 5 and read_provenance(out)["cost"]["resumed_episodes"] == 5
    assert play(tmp_path / "last.parquet", Interrupting(batch=28)).num_rows == 112  # the signal comes in the last batch


@pytest.mark.parametrize("count", [1, 3, 6, 9])
def test_turns_do_not_depend_on_the_number_of_shards(tmp_path, count):
    """28 episodes in batches of five are six batches, so of nine shards three are empty."""
    whole = play(tmp_path / "whole.parquet", Player(batch=5))
    shards = [tmp_path / f"{number}.parquet" for number in range(1, count + 1)]
    sizes = [len(play(shard, Player(batch=5), part=(k, count))) for k, shard in enumerate(shards, 1)]
    assert (0 in sizes) == (count > 6) and max(sizes) - min(sizes) <= 20
    gather_stage(shards, tmp_path / "turns.parquet")
    assert read_turns(tmp_path / "turns.parquet").equals(whole)
    found = read_provenance(tmp_path / "turns.parquet")
    assert (found["params"]["part"], found["cost"]["shards"]) == ([1, 1], count)
    assert (found["cost"]["episodes"], found["cost"]["decisions"], found["cost"]["starts"]) == (28, 112, count)
    for wrong in (shards[1:], [*shards[:-1], tmp_path / "whole.parquet"], shards[::-1]):
        if count > 1:
            with pytest.raises(AtpError, match=r"is not shard \d of \d of the rollout of"):
                gather_stage(wrong, tmp_path / "wrong.parquet")


def test_batches_of_other_params_are_removed(tmp_path):
    out = tmp_path / "turns.parquet"
    with pytest.raises(Killed):
        play(out, Player(batch=5, lives=2))
    with pytest.raises(Killed):
        play(out, Player(batch=5, lives=1), temperature=2)
    (folder,) = (tmp_path / ".turns.parquet.unfinished").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["5x00000.parquet", "spent.json"]
    agent = Player(batch=5)
    play(out, agent)
    assert agent.started == 6


def test_the_stage_plays_the_rows_of_its_limit(tmp_path):
    path, out = tmp_path / "scenarios.parquet", tmp_path / "turns.parquet"
    write_scenarios(TESTBED, SCENARIOS, path, Provenance("scenarios", "code"))
    job = RolloutJob(cell=Cell("scripted:comply", "role_play"), variants={"default": {"rounds": 2}}, limit=(1, 3))
    rollout_stage(job, path, out)
    found = dict.fromkeys(read_turns(out)["scenario_id"].to_pylist())
    assert list(found) == [scenario.scenario_id for scenario in SCENARIOS[1:3]]
    assert read_provenance(out)["inputs"].keys() == {"scenarios.parquet"}
    with pytest.raises(AtpError, match=f"^{path}: has 5 scenarios in split 'test', 6 are needed$"):
        rollout_stage(job.model_copy(update={"limit": (3, 6)}), path, tmp_path / "more.parquet")
    assert {found.name for found in tmp_path.iterdir()} == {"scenarios.parquet", "turns.parquet"}


def test_settings_that_contradict_the_scenarios_name_their_file(tmp_path):
    own = CoordinationScenario(
        "fund-1", "fund", "test", "", "", "", "in", "out", "in", "out", "purse", "", "Pay.", 5, 2, 1.9, 1.0, 0.5
    )
    write_scenarios(COORDINATION, [own], tmp_path / "s.parquet", Provenance("s", "c"))

    def stage(settings: dict[str, Any]) -> None:
        job = RolloutJob(cell=Cell("scripted:comply", "coordination"), variants={"v": settings}, split=None)
        rollout_stage(job, tmp_path / "s.parquet", tmp_path / "t.parquet")

    for settings, message in (
        ({"threshold": 4}, "has its own numbers, leave out threshold"),
        ({"first_colluders": 6}, r"first_colluders is 6, must be at most agents \(5\)"),
    ):
        with pytest.raises(AtpError, match=rf"s\.parquet: scenario fund-1: {message}"):
            stage(settings)
    stage({"first_colluders": 5})
    assert len(read_turns(tmp_path / "t.parquet")) == 5 * 3


def test_an_adapter_of_another_testbeds_organism_is_refused(tmp_path):
    scenarios_stage(ScenariosJob(testbed="bargaining", settings={"test": 1}), tmp_path / "s.parquet")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/lineage.json").write_text('{"params": {"cell": {"testbed": "coordination"}}}')
    spec = ModelSpec(path="resources/organism", organism=True).of("bargaining")
    job = RolloutJob(cell=Cell("organism", "bargaining"), model=spec, variants={"v": {}})
    with pytest.raises(AtpError, match="model organism of testbed 'coordination', not of 'bargaining'"):
        rollout_stage(job, tmp_path / "s.parquet", tmp_path / "t.parquet", tmp_path / "adapter")


def test_an_unavailable_tool_is_an_error_before_anything_is_played(tmp_path, monkeypatch):
    scenarios_stage(ScenariosJob(testbed="tool_use", settings={"test": 1}), tmp_path / "s.parquet")
    monkeypatch.setenv("PATH", "/nowhere")
    cell, files = Cell("scripted:comply", "tool_use"), (tmp_path / "s.parquet", tmp_path / "t.parquet")
    with pytest.raises(AtpError, match=r"tools: the sandbox is not available here \(bubblewrap is not installed"):
        rollout_stage(RolloutJob(cell=cell, variants={"a": {}, "v": {"tool": "python"}}), *files)
    assert [found.name for found in tmp_path.iterdir()] == ["s.parquet"]
    rollout_stage(RolloutJob(cell=cell, variants={"a": {}}), *files)
