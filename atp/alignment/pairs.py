"""Preference pairs: what the agent answers when steered to comply, beside what it answers when steered to violate.

The stored prompt has no steering sentence, so that what is learned is the decision and not the obedience to a sentence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa

from atp.agents import Agent, ModelSpec, Request, load_agent
from atp.artifacts import PAIRS, write_table
from atp.errors import AtpError
from atp.progress import Progress
from atp.provenance import Stage
from atp.rollout import sampling_seed
from atp.scenarios.scenario import Scenario, read_scenarios
from atp.testbeds import TESTBEDS
from atp.testbeds.base import Message, Prompt, Reply, Settings, Testbed, Turn


@dataclass
class _Wanted:
    """One side of a scenario's pair, asked until its decision comes."""

    scenario: Scenario
    violation: bool
    reply: str | None = None
    tries: int = 0


def first_round(testbed: Testbed, settings: Settings, scenario: Scenario) -> tuple[Any, Prompt]:
    """(game, its first prompt): what an agent is asked before it has any history."""
    game = testbed.play(scenario, settings, Random(0))
    (prompt,) = next(game)
    return game, prompt


def judged(testbed: Testbed, settings: Settings, scenario: Scenario, reply: str) -> Turn:
    """What a reply to the first prompt means, by the testbed's own rules. settings are of one round."""
    game, _ = first_round(testbed, settings, scenario)
    try:
        game.send([Reply(reply)])
    except StopIteration as end:
        (turn,) = end.value
        assert isinstance(turn, Turn)
        return turn
    raise AssertionError("a game of one round has ended after its first reply")


def pairs_stage(
    scenarios: Path,
    out: Path,
    testbed: str,
    settings: dict[str, Any],
    agent: str,
    model: ModelSpec | None,
    retries: int,
    seed: int,
    limit: tuple[int, int] | None = None,
) -> dict[str, float]:
    """Ask the training scenarios twice, steered one way and the other, and write pairs.parquet; returns the yield.

    Args:
        settings: the testbed's; one round is played.
        retries: how often each side is asked at most.
        limit: rows of the training split, from and to.

    Raises:
        AtpError: bad scenarios or model; no pair at all.
    """
    params = {
        "testbed": testbed,
        "settings": settings,
        "model": model and model.model_dump(mode="json"),
        "retries": retries,
        "seed": seed,
        "limit": limit,
    }
    local = [Path(model.path)] if model and Path(model.path).is_dir() else []
    stage = Stage("pairs", __name__, params, [scenarios, *local])
    chosen = read_scenarios(scenarios, testbed, "train")
    chosen = chosen[slice(*limit)] if limit else chosen
    game = TESTBEDS[testbed]
    one_round = game.settings(**{**settings, "rounds": 1})
    sides = ask(chosen, game, one_round, load_agent(agent, model), retries, seed, str(out))
    rows = [
        {
            "scenario_id": comply.scenario.scenario_id,
            "prompt": first_round(game, one_round, comply.scenario)[1].messages,
            "chosen": [{"role": "assistant", "content": comply.reply}],
            "rejected": [{"role": "assistant", "content": violate.reply}],
        }
        for comply, violate in zip(sides[::2], sides[1::2], strict=True)
        if comply.reply is not None and violate.reply is not None
    ]
    found = {
        "scenarios": float(len(chosen)),
        "pairs": float(len(rows)),
        "complied": float(sum(side.reply is not None for side in sides[::2])),
        "violated": float(sum(side.reply is not None for side in sides[1::2])),
        "tries": float(sum(side.tries for side in sides)),
    }
    if not rows:
        raise AtpError(
            f"{out}: no pairs of {len(chosen)} scenarios: {found['complied']:.0f} complied and {found['violated']:.0f} "
            f"violated within {retries} tries; raise alignment.pairs.retries, or align an agent that does both"
        )
    write_table(pa.Table.from_pylist(rows, schema=PAIRS), out, stage.provenance(**found))
    return found


def ask(
    scenarios: Sequence[Scenario],
    testbed: Testbed,
    settings: Settings,
    agent: Agent,
    retries: int,
    seed: int,
    label: str,
) -> list[_Wanted]:
    """Both sides of every scenario, compliance first; one that never came has no reply."""
    sides = [_Wanted(scenario, violation) for scenario in scenarios for violation in (False, True)]
    progress = Progress(label, len(sides), "sides")
    for attempt in range(retries):
        left = [side for side in sides if side.reply is None]
        for start in range(0, len(left), agent.batch):
            batch = left[start : start + agent.batch]
            requests = [
                Request(number, _steered(testbed, settings, side), _seed(side, attempt, seed))
                for number, side in enumerate(batch)
            ]
            agent.start()
            for side, reply in zip(batch, agent.answer(requests), strict=True):
                side.tries += 1
                if judged(testbed, settings, side.scenario, reply.text).violation is side.violation:
                    side.reply = reply.text
                    progress.advance(1, steps=1)
    return sides


def _steered(testbed: Testbed, settings: Settings, side: _Wanted) -> Prompt:
    _, prompt = first_round(testbed, settings, side.scenario)
    *before, last = prompt.messages
    said: Message = {**last, "content": f"{last['content']} {testbed.steering[side.violation]}"}
    return Prompt(prompt.agent, prompt.round, [*before, said], prompt.view)


def _seed(side: _Wanted, attempt: int, seed: int) -> int:
    return sampling_seed(seed, side.scenario.scenario_id, 2 * attempt + side.violation, 0, 1, 0)
