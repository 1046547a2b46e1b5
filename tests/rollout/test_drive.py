"""Episodes of a concurrent agent: none waits for another, the turns are those of lock step, finished ones are kept."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pytest

from atp.agents.base import Agent, ConcurrentAgent, Request
from atp.agents.load import load_agent
from atp.agents.policies import bandit
from atp.agents.scripted import ScriptedAgent
from atp.errors import AtpError
from atp.files.provenance import Stage
from atp.files.tables import read_provenance
from atp.files.turns import read_turns
from atp.registry import find_testbed, load_plugins
from atp.rollout.engine import RolloutJob, rollout
from atp.rollout.table import Cell
from atp.scenarios.sources import source_settings
from atp.testbed import Reply

TESTBEDS = ("role_play", "coordination", "bargaining", "tool_use", "code")


class Slow(ConcurrentAgent):
    """A bandit whose replies take random times, and which fails after `lives` replies."""

    def __init__(self, batch: int, lives: float = float("inf"), seed: int = 0):
        self.batch, self.lives, self.policy = batch, lives, ScriptedAgent(bandit(0.5))
        self.rng, self.replies, self.in_flight, self.most = Random(seed), 0, 0, 0
        self.asked: list[int] = []

    async def reply(self, request: Request) -> Reply:
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        await asyncio.sleep(self.rng.lognormvariate(-7, 1))
        self.in_flight -= 1
        if self.replies >= self.lives:
            raise AtpError("the server is gone")
        self.replies += 1
        self.asked.append(request.seed)
        (reply,) = self.policy.answer([request])
        reply.prompt_tokens, reply.completion_tokens = 8, 2
        return reply


class InStep(Agent):
    """The same bandit in lock step."""

    batch = 16

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        replies = ScriptedAgent(bandit(0.5)).answer(requests)
        for reply in replies:
            reply.prompt_tokens, reply.completion_tokens = 8, 2
        return replies


def play(agent: Any, out: Path, testbed: str = "role_play", scenarios: int = 12) -> pa.Table:
    kind = find_testbed(testbed)
    played = source_settings(kind, {"train": 1, "test": scenarios, "seed": 0}).scenarios(kind, Path())
    job = RolloutJob(cell=Cell("agent", testbed, seed=3), variants={"default": kind.settings(rounds=3)})
    chosen = [scenario for scenario in played if scenario.split == "test"]
    rollout(job, chosen, agent, out, Stage("rollout", "atp.rollout.engine", {}))
    return read_turns(out)


@pytest.mark.parametrize("testbed", TESTBEDS)
def test_turns_are_those_of_lock_step_in_the_same_order(testbed, tmp_path):
    in_step = play(InStep(), tmp_path / "step.parquet", testbed)
    for seed in range(2):
        agent = Slow(batch=7, seed=seed)
        turns = play(agent, tmp_path / f"{seed}.parquet", testbed)
        assert turns.equals(in_step)
        assert agent.most == 7
    assert read_provenance(tmp_path / "0.parquet")["cost"]["episodes"] == 12


def test_no_episode_waits_for_another(tmp_path):
    """The first episode's reply comes only once all other episodes are over."""

    class Stuck(Slow):
        async def reply(self, request: Request) -> Reply:
            if request.conversation == 0:
                await asyncio.wait_for(self.others.wait(), timeout=30)
            reply = await super().reply(request)
            if self.replies == 11 * 3:
                self.others.set()
            return reply

    agent = Stuck(batch=4)
    agent.others = asyncio.Event()
    assert len(play(agent, tmp_path / "turns.parquet")) == 12 * 3


def test_finished_episodes_survive_a_failure(tmp_path):
    out = tmp_path / "turns.parquet"
    failing = Slow(batch=4, lives=20)
    with pytest.raises(AtpError, match="the server is gone"):
        play(failing, out)
    assert not out.exists()
    kept = len([*tmp_path.glob(".turns.parquet.unfinished/*/*.parquet")])
    assert kept >= 3
    again = Slow(batch=4)
    turns = play(again, out)
    assert again.replies == (12 - kept) * 3
    assert read_provenance(out)["cost"]["resumed_episodes"] == kept
    assert turns.equals(play(Slow(batch=4), tmp_path / "whole.parquet"))


def test_a_budget_stops_a_rollout_and_keeps_what_is_finished(tmp_path):
    for agent in (Slow(batch=4), InStep()):
        out = tmp_path / f"{type(agent).__name__}.parquet"
        agent.batch, agent.max_tokens = 4, 100
        with pytest.raises(AtpError, match=r"1\d\d tokens spent after \d+ of 12 episodes, .* allows 100; .* raise it"):
            play(agent, out)
        with pytest.raises(AtpError, match="tokens spent after"):  # nothing more is asked
            play(agent, out)
        agent.max_tokens = 360
        assert len(play(agent, out)) == 36


OWN = """
from atp.agents.base import ConcurrentAgent
from atp.testbed import Reply


class Own(ConcurrentAgent):
    name = "own"

    async def reply(self, request):
        answers = request.prompt.observation.answers
        return Reply(next(iter(answers.values())))


AGENTS = [Own]
"""


@pytest.mark.usefixtures("own_registry")
def test_an_agent_of_a_plugin_can_be_concurrent(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    load_plugins([str(file)])
    agent = load_agent("agent:own", None)
    assert isinstance(agent, ConcurrentAgent)
    assert set(play(agent, tmp_path / "turns.parquet")["decision"].to_pylist()) == {"comply"}
    broken = tmp_path / "broken.py"
    broken.write_text(OWN.replace("Reply(next", "str(next").replace('"own"', '"broken"'))
    load_plugins([str(broken)])
    with pytest.raises(AtpError, match=r"broken.py:\d+: .*must be an atp.testbed.Reply"):
        play(load_agent("agent:broken", None), tmp_path / "broken.parquet")
