"""Preference pairs: what an agent answers when it is steered to comply, beside what it answers when steered to violate.

The stored prompt has no steering sentence, so that what is learned is the decision and not the obedience to a sentence.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import pyarrow as pa

from atp.agents import Agent, ModelSpec, load_agent
from atp.artifacts import PAIRS, check_file, unfinished, write_table, write_text
from atp.errors import AtpError, Interrupted
from atp.progress import Progress
from atp.provenance import Stage, together
from atp.rollout import sampling_seed, tokens
from atp.scenarios.scenario import read_scenarios
from atp.stopping import until_stopped
from atp.testbeds import TESTBEDS
from atp.testbeds.base import steer
from atp.training.questions import Question, first_questions
from atp.training.questions import ask as ask_all


@dataclass
class _Side:
    """One side of a scenario's pair, asked until its decision comes."""

    question: Question
    violation: bool
    reply: str | None = None
    tries: int = 0
    invalid: int = 0
    tokens: dict[str, float] = field(default_factory=dict)


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
    """Ask the training scenarios twice, steered one way and the other, and write pairs.parquet.

    Args:
        settings: the testbed's; one round is played.
        retries: how often each side is asked at most.
        limit: rows of the training split, from and to.

    Returns:
        The yield: scenarios, pairs, scenarios where it complied, where it violated, tries in all, invalid ones of them;
        and the tokens that it took.

    Raises:
        AtpError: bad scenarios or model; no pair at all.
    """
    check_file(out)
    params = {
        "testbed": testbed,
        "settings": settings,
        "model": model and model.params(),
        "retries": retries,
        "seed": seed,
        "limit": limit,
    }
    local = [Path(model.path)] if model and Path(model.path).is_dir() else []
    stage = Stage("pairs", __name__, params, [scenarios, *local], model.gpus if model else 0)
    chosen = read_scenarios(scenarios, testbed, "train")
    chosen = chosen[slice(*limit)] if limit else chosen
    game = TESTBEDS[testbed]
    questions = first_questions(chosen, game, settings)
    asked = load_agent(agent, model)
    with unfinished(out, stage) as folder, until_stopped() as stopped:
        sides = ask(questions, game.steering, asked, retries, seed, str(out), folder, stopped)
        rows = _rows(sides)
        found = _yield(sides, len(rows))
        if rows:
            write_table(pa.Table.from_pylist(rows, schema=PAIRS), out, stage.provenance(**found))
    if not rows:
        why = (
            "in {complied:.0f} it complied when told to and in {violated:.0f} it violated when told to, "
            "{invalid:.0f} of {tries:.0f} replies were invalid; raise alignment.retries, or take an agent that does "
            "both, in form"
        )
        raise AtpError(f"{out}: no pairs of {len(questions)} scenarios: {why.format_map(found)}")
    return found


def _rows(sides: Sequence[_Side]) -> list[dict[str, Any]]:
    """A row for each question both of whose sides came."""
    return [
        {
            "scenario_id": comply.question.scenario_id,
            "tools": comply.question.prompt.tools,
            "prompt": comply.question.prompt.messages,
            "chosen": [{"role": "assistant", "content": comply.reply}],
            "rejected": [{"role": "assistant", "content": violate.reply}],
        }
        for comply, violate in zip(sides[::2], sides[1::2], strict=True)
        if comply.reply is not None and violate.reply is not None
    ]


def _yield(sides: Sequence[_Side], pairs: int) -> dict[str, float]:
    return {
        "scenarios": float(len(sides) / 2),
        "pairs": float(pairs),
        "complied": float(sum(side.reply is not None for side in sides[::2])),
        "violated": float(sum(side.reply is not None for side in sides[1::2])),
        "tries": float(sum(side.tries for side in sides)),
        "invalid": float(sum(side.invalid for side in sides)),
        **together(side.tokens for side in sides),
    }


def ask(
    questions: Sequence[Question],
    steering: tuple[str, str],
    agent: Agent,
    retries: int,
    seed: int,
    label: str,
    folder: Path,
    stopped: Event,
) -> list[_Side]:
    """Both sides of every question, compliance first; one that never came has no reply.

    Each batch's replies are kept in `folder`. What is asked next depends on them alone, so a rerun that finds them
    there asks on from where it was killed, or `stopped`.
    """
    sides = [_Side(question, violation) for question in questions for violation in (False, True)]
    progress = Progress(label, len(sides), "sides")
    batches = 0
    for attempt in range(retries):
        left = [side for side in sides if side.reply is None]
        for start in range(0, len(left), agent.batch):
            batch = left[start : start + agent.batch]
            kept = folder / f"{batches:05}.json"
            batches += 1
            if not kept.exists():
                if stopped.is_set():
                    raise Interrupted(f"{label}: stopped after {batches - 1} batches; a rerun goes on there")
                write_text(json.dumps(_answers(batch, steering, agent, attempt, seed)), kept)
            for side, (reply, violation, spent) in zip(
                batch, json.loads(kept.read_text(encoding="utf-8")), strict=True
            ):
                side.tries += 1
                side.tokens = together([side.tokens, spent])
                side.invalid += violation is None
                if violation is side.violation:
                    side.reply = reply
                    progress.advance(1, steps=1)
    return sides


def _answers(
    batch: Sequence[_Side], steering: tuple[str, str], agent: Agent, attempt: int, seed: int
) -> list[tuple[str, bool | None, dict[str, float]]]:
    """Each side's first reply, whether what it came to is a violation, and the tokens that it took."""

    def seed_of(number: int, step: int) -> int:
        side = batch[number]
        name = f"pairs|{side.question.scenario_id}"
        return sampling_seed(seed, name, 2 * attempt + side.violation, 0, 1, 0, step)

    steered = [steer(side.question.prompt, steering[side.violation]) for side in batch]
    answers = ask_all(agent, [side.question for side in batch], seed_of, steered)
    return [(answer.replies[0].text, answer.turn.violation, tokens(answer.replies)) for answer in answers]
