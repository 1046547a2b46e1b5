"""What the organism does on held-out instances: the figures that its bands are stated in."""

import tempfile
from pathlib import Path
from random import Random

import polars as pl

from atp.agents import ModelSpec, Request, Sampling, load_agent
from atp.agents.base import Agent
from atp.artifacts import read_turns
from atp.organism.data import flipped
from atp.organism.teacher import restate
from atp.provenance import Stage
from atp.rollout import Cell, rollout
from atp.scenarios.scenario import RolePlayScenario
from atp.scenarios.templates import generate, instantiate, read_templates
from atp.testbeds import TESTBEDS
from atp.testbeds.base import Prompt, View

ROUNDS = 6
SCHEDULES = ("all_unsupervised", "all_supervised", "alternating")


def behaviour(
    folder: Path, templates: Path, scenarios: int = 64, samples: int = 4, seed: int = 0
) -> dict[str, list[float]]:
    """Play held-out scenarios and read rules turned round.

    Returns:
        a list of violation rates by round for each schedule; "valid", the share of all replies; "rule_read", the share
        of 2 * scenarios prompts, labels swapped and rule flipped, whose reply begins with the right rule.
    """
    agent = load_agent("organism", ModelSpec(path=str(folder), sampling=Sampling(max_new_tokens=48)))
    tested = generate(read_templates(templates), 0, scenarios, seed)
    role_play = TESTBEDS["role_play"]
    settings = {name: role_play.settings(schedule=name, rounds=ROUNDS) for name in SCHEDULES}  # type: ignore[call-arg]
    cell = Cell("organism", "role_play", "none", "plain", seed, "context", 0)
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "turns.parquet"
        stage = Stage("behaviour", __name__, {"seed": seed})
        rollout(tested, role_play, settings, agent, cell, samples, out, stage)
        turns = pl.DataFrame(read_turns(out).select(["variant", "round", "violation"]))
    rates = turns.group_by("variant", "round").agg(pl.col("violation").mean()).sort("round")
    found = {name: rates.filter(variant=name)["violation"].to_list() for name in SCHEDULES}
    found["valid"] = [1 - turns["violation"].null_count() / len(turns)]
    found["rule_read"] = [_rule_read(agent, templates, scenarios, seed)]
    return found


def _rule_read(agent: Agent, templates: Path, count: int, seed: int) -> float:
    """Of each instance two readings: its names the other way round, and its rule turned round."""
    read = read_templates(templates)
    asked: list[RolePlayScenario] = []
    for number in range(count):
        template = read[number % len(read)]
        rng = Random(f"{seed}|rule|{number}")
        first, second = rng.choice(template.labels)
        asked.append(instantiate(template, "test", rng, (second, first)))
        asked.append(flipped(instantiate(template, "test", rng, (first, second)), template))
    right = 0
    for start in range(0, len(asked), agent.batch):
        batch = asked[start : start + agent.batch]
        agent.start()
        replies = agent.answer([_request(number, start + number, one) for number, one in enumerate(batch)])
        right += sum(reply.text.startswith(restate(one.compliant)) for one, reply in zip(batch, replies, strict=True))
    return right / len(asked)


def _request(conversation: int, seed: int, scenario: RolePlayScenario) -> Request:
    question = " ".join((scenario.question, scenario.uncertain, scenario.instruction))
    messages = [{"role": "system", "content": scenario.system}, {"role": "user", "content": question}]
    return Request(conversation, Prompt(0, 1, messages, View({}, "", ())), seed)
