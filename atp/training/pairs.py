"""Preference pairs: an agent's reply when it is steered to comply, and its reply when it is steered to violate.

The stored prompt has no steering sentence, so that training changes the decision, not the obedience to a sentence.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import pyarrow as pa
from pydantic import Field

from atp.agents.base import Agent
from atp.agents.load import load_agent
from atp.errors import AtpError, Interrupted
from atp.files.provenance import together
from atp.files.resume import unfinished
from atp.files.schemas import PAIRS
from atp.files.tables import check_file, write_table, write_text
from atp.progress import Progress
from atp.registry import find_testbed
from atp.rollout.branching import Question, ask, first_questions
from atp.rollout.engine import agent_stage
from atp.rollout.seeds import sampling_seed
from atp.rollout.table import AgentJob, TestbedSettings, count_tokens
from atp.scenarios.scenario import read_scenarios
from atp.stopping import until_stopped
from atp.testbed import steer


@dataclass
class _Side:
    """One side of a scenario's pair, which is asked until its decision is the wanted one."""

    question: Question
    violation: bool
    reply: str | None = None
    tries: int = 0
    invalid: int = 0
    tokens: dict[str, float] = field(default_factory=dict)


class PairsJob(AgentJob):
    """Ask training scenarios, or their rows limit[0]:limit[1], steered to comply and steered to violate."""

    stage = "pairs"

    settings: TestbedSettings = Field(description="the testbed's; one round is played")
    retries: int = Field(8, ge=1, description="maximum number of tries for each side of a pair")
    limit: tuple[int, int] | None = None


def pairs_stage(job: PairsJob, scenarios: Path, out: Path) -> dict[str, float]:
    """Ask scenarios twice, steered to comply and steered to violate, and write pairs.parquet.

    Returns:
        Counts: scenarios, pairs; complied, violated: scenarios in which the agent did so when steered; tries, invalid:
        replies, and those that are invalid. And the tokens of all prompts and replies.

    Raises:
        AtpError: bad scenarios or model; no pair at all.
    """
    check_file(out, scenarios)
    stage, cell = agent_stage(job, __name__, [scenarios]), job.cell
    chosen = read_scenarios(scenarios, cell.testbed, "train")
    chosen = chosen[slice(*job.limit)] if job.limit else chosen
    questions = first_questions(chosen, find_testbed(cell.testbed), job.settings)
    player = load_agent(cell.model, job.model, None, cell.testbed)
    with unfinished(out, stage) as folder, until_stopped() as stopped:
        sides = ask_sides(job, questions, player, folder, stopped, str(out))
        rows = _rows(sides)
        counts = _counts(sides, len(rows))
        if rows:
            write_table(pa.Table.from_pylist(rows, schema=PAIRS), out, stage.provenance(**counts))
    if not rows:
        reason = (
            "the agent complied in {complied:.0f} when steered to and violated in {violated:.0f} when steered to, "
            "{invalid:.0f} of {tries:.0f} replies were invalid; raise alignment.retries, or use an agent that does both"
        )
        raise AtpError(f"{out}: no pairs of {len(questions)} scenarios: {reason.format_map(counts)}")
    return counts


def _rows(sides: Sequence[_Side]) -> list[dict[str, Any]]:
    """Return a row for each question whose sides both have a reply."""
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


def _counts(sides: Sequence[_Side], pairs: int) -> dict[str, float]:
    return {
        "scenarios": float(len(sides) / 2),
        "pairs": float(pairs),
        "complied": float(sum(side.reply is not None for side in sides[::2])),
        "violated": float(sum(side.reply is not None for side in sides[1::2])),
        "tries": float(sum(side.tries for side in sides)),
        "invalid": float(sum(side.invalid for side in sides)),
        **together(side.tokens for side in sides),
    }


def ask_sides(
    job: PairsJob, questions: Sequence[Question], agent: Agent, folder: Path, stopped: Event, label: str
) -> list[_Side]:
    """Return both sides of every question, compliance first. A side without the wanted decision has no reply.

    Each batch's replies are written to `folder`, and they alone decide the next batch, so a rerun resumes after them.
    """
    sides = [_Side(question, violation) for question in questions for violation in (False, True)]
    progress, steering = Progress(label, len(sides), "sides"), find_testbed(job.cell.testbed).steering
    batches = 0
    for attempt in range(job.retries):
        left = [side for side in sides if side.reply is None]
        for start in range(0, len(left), agent.batch):
            batch = left[start : start + agent.batch]
            file = folder / f"{batches:05}.json"
            batches += 1
            if not file.exists():
                if stopped.is_set():
                    raise Interrupted(f"{label}: stopped after {batches - 1} batches; a rerun resumes there")
                write_text(json.dumps(_answers(batch, steering, agent, attempt, job.cell.seed)), file)
            answers = json.loads(file.read_text(encoding="utf-8"))
            for side, (reply, violation, tokens) in zip(batch, answers, strict=True):
                side.tries += 1
                side.tokens = together([side.tokens, tokens])
                side.invalid += violation is None
                if violation is side.violation:
                    side.reply = reply
                    progress.advance(1, steps=1)
    return sides


def _answers(
    batch: Sequence[_Side], steering: tuple[str, str], agent: Agent, attempt: int, seed: int
) -> list[tuple[str, bool | None, dict[str, float]]]:
    """Return for each side the first reply, whether the decision is a violation, and the tokens of the answer."""

    def seed_of(number: int, step: int) -> int:
        side = batch[number]
        name = f"pairs|{side.question.scenario_id}"
        return sampling_seed(seed, name, 2 * attempt + side.violation, 0, (1, 0, step))

    steered = [steer(side.question.prompt, steering[side.violation]) for side in batch]
    answers = ask(agent, [side.question for side in batch], seed_of, steered)
    return [(answer.replies[0].text, answer.turn.violation, count_tokens(answer.replies)) for answer in answers]
