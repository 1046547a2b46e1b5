"""Write the memory of the next generation: that of this one, and an entry for each episode that it played.

Episodes are played again with their recorded replies and without a history. So an entry has each question as the
testbed asks it, without the memory that the prompt showed, and a control can have other pays in it.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
from pydantic import Field

from atp.errors import AtpError
from atp.files.provenance import Stage
from atp.files.schemas import MEMORY_ENTRIES
from atp.files.tables import check_file, read_provenance, write_table
from atp.files.turns import decision_messages, read_turns
from atp.memory.play import MemoryRolloutJob, last_turns
from atp.memory.recall import WRITTEN, Memory, Recall, read_memory
from atp.models.spec import ModelSpec
from atp.parsing.replies import split_reply
from atp.registry import find_testbed, origins, sources
from atp.rollout.branching import recorded_replies, replay
from atp.rollout.seeds import sampling_seed
from atp.rollout.table import AgentJob
from atp.rollout.yoked import PAYMENTS
from atp.scenarios.scenario import read_scenarios
from atp.testbed import TESTED, Scenario, Settings, Testbed, Turn

log = logging.getLogger("atp")

#: Bytes of text that count as a token where no tokenizer is at hand: of served models and scripted policies.
BYTES_PER_TOKEN = 4


class MemoryJob(AgentJob):
    """Write the memory of a generation from the deployment of the one before it."""

    stage = "memory"

    recall: Recall
    pool: int = Field(1, ge=1, description="agents that share the memory, each with as many scenarios")
    shuffled_pay: bool = False
    compliant_only: bool = False


@dataclass(frozen=True)
class _Recorded:
    """A recorded episode: its rows of turns.parquet, its scenario and its settings."""

    rows: list[dict[str, Any]]
    scenario: Scenario
    settings: Settings

    def again(self, testbed: Testbed, payments: Sequence[float] | None) -> list[Turn]:
        """Return the turns of the episode without a history.

        Args:
            payments: what its rounds pay, in place of what they earned.

        Raises:
            AtpError: the testbed or the scenario has changed.
        """
        first = self.rows[0]
        given = {
            (row["round"], row["agent"], step): reply
            for row in self.rows
            for step, reply in enumerate(recorded_replies(row))
        }
        seed = sampling_seed(first["seed"], first["scenario_id"], first["sample"], first["generation"], (0, 0, 0))
        changed: dict[str, Any] = {"window": 0, "shuffled": False}
        if payments is not None:
            changed[PAYMENTS] = tuple(payments)
        try:
            turns = replay(self.scenario, testbed, self.settings.model_copy(update=changed), seed, given)
        except KeyError:
            turns = []
        names = ("round", "agent", "decision", *(["reward"] if payments is None else []))
        if [[getattr(turn, name) for name in names] for turn in turns] != [
            [row[name] for name in names] for row in self.rows
        ]:
            raise AtpError(
                f"episode {first['episode']}: differs from the recording when it is played again; its scenario or the "
                "testbed has changed since, or a tool returned another result"
            )
        return turns


def memory_stage(job: MemoryJob, turns: Path, scenarios: Path, out: Path, previous: Path | None = None) -> str:
    """Write memory.parquet and return a line that says what is in it.

    Args:
        turns: the deployment whose episodes are remembered.
        scenarios: the scenarios of these episodes.
        previous: the memory that the deployment began with; None for an empty one.

    Raises:
        AtpError: turns that are no deployment with a memory, turns or a memory of another testbed.
    """
    inputs = [turns, scenarios, *([previous] if previous else [])]
    check_file(out, *inputs)
    testbed = find_testbed(job.cell.testbed)
    code = [__name__, *sources(testbed.name, job.stage), *origins("tools")]
    stage = Stage(job.stage, code, job.params(), inputs)
    before = read_memory(previous, testbed.name) if previous else MEMORY_ENTRIES.empty_table()
    recorded = _recorded(turns, scenarios, testbed)
    entries = list(_entries(job, recorded, testbed))
    count = token_counter(job.model)
    rows = [
        {"entry": number, **row, **_tokens(row, count)}
        for number, entry in enumerate(entries, _end(before))
        for row in entry
    ]
    table = pa.concat_tables([before, pa.Table.from_pylist(rows, MEMORY_ENTRIES)])
    memory = Memory(table.to_pylist(), job.recall, testbed.several_players)
    counts = {
        "entries": _end(table),
        "new_entries": len(entries),
        "not_written": sum(not entry[-1]["lesson"] for entry in entries) if job.recall.kind in WRITTEN else 0,
        "over_budget": len(memory.over_budget),
    }
    write_table(table, out, stage.provenance(**{name: float(value) for name, value in counts.items()}))
    text = f"{counts['entries']} entries, {counts['new_entries']} of them new"
    if counts["not_written"]:
        text += f", {counts['not_written']} of these without the agent's text"
    if counts["over_budget"]:  # never left out in silence
        text += f"; {counts['over_budget']} are over the budget of {job.recall.tokens} tokens, so no prompt shows them"
        log.warning("%s: %s", out, text)
    return text


def _end(table: pa.Table) -> int:
    """Return the number of a table's entries, which is that of the next entry."""
    return int(table["entry"][-1].as_py()) + 1 if len(table) else 0


def _recorded(turns: Path, scenarios: Path, testbed: Testbed) -> list[_Recorded]:
    """Return the episodes of a deployment, in their order."""
    provenance = read_provenance(turns)
    params, table = provenance.get("params", {}), read_turns(turns)
    if provenance.get("stage") != MemoryRolloutJob.stage:
        raise AtpError(f"{turns}: was not played with a memory, so no memory is written from it")
    if params["cell"]["testbed"] != testbed.name:
        raise AtpError(f"{turns}: turns of testbed '{params['cell']['testbed']}', must be of '{testbed.name}'")
    known = {scenario.scenario_id: scenario for scenario in read_scenarios(scenarios, testbed.name)}
    episodes = []
    for _, group in groupby(table.to_pylist(), key=lambda row: row["episode"]):
        rows = list(group)
        scenario_id, variant = rows[0]["scenario_id"], rows[0]["variant"]
        if scenario_id not in known:
            raise AtpError(f"{turns}: its scenario '{scenario_id}' is not in {scenarios}")
        episodes.append(_Recorded(rows, known[scenario_id], testbed.settings(**params["variants"][variant])))
    return episodes


def _entries(job: MemoryJob, recorded: Sequence[_Recorded], testbed: Testbed) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of each new entry, without its number and tokens. The agents of a pool take turns."""
    scenarios = list(dict.fromkeys(episode.scenario.scenario_id for episode in recorded))
    each = max(1, len(scenarios) // job.pool)
    writers = {name: (place % each, place // each) for place, name in enumerate(scenarios)}
    payments = iter(_shuffled_pays(job, recorded))
    for episode in sorted(recorded, key=lambda episode: writers[episode.scenario.scenario_id]):
        paid = [next(payments) for _ in episode.rows] if job.shuffled_pay else None
        turns = episode.again(testbed, paid)
        written = last_turns([(turn.role, turn.agent) for turn in turns], testbed.several_players)
        players: dict[int, list[dict[str, Any]]] = {}
        for place, (turn, row) in enumerate(zip(turns, episode.rows, strict=True)):
            if turn.role != TESTED:
                remembered = _row(turn, row, episode.settings.blind)
                remembered["writer"] = writers[episode.scenario.scenario_id][1]
                remembered["lesson"] = _lesson(row) if place in written and job.recall.kind in WRITTEN else None
                players.setdefault(turn.agent if testbed.several_players else 0, []).append(remembered)
        for rows in players.values():
            if not job.compliant_only or all(row["violation"] is False for row in rows):
                yield rows


def _shuffled_pays(job: MemoryJob, recorded: Sequence[_Recorded]) -> list[float]:
    pays = [row["reward"] for episode in recorded for row in episode.rows]
    Random(f"pays {job.cell.seed} {job.cell.generation}").shuffle(pays)
    return pays


def _row(turn: Turn, row: Mapping[str, Any], blind: bool) -> dict[str, Any]:
    copied = ("generation", "seed", "scenario_id", "episode", "round", "agent")
    question = [message for message in turn.messages if message["role"] != "system"]
    return {
        **{name: row[name] for name in copied},
        "messages": [*question, *decision_messages(row)],
        "feedback": turn.feedback,
        "decision": turn.decision,
        "violation": turn.violation,
        "reward": 0.0 if blind else turn.reward,
    }


def _lesson(row: Mapping[str, Any]) -> str:
    """Return the text that the agent wrote after an episode, without its reasoning."""
    return split_reply(row["later_replies"][-1]).answer.strip() if row["later_replies"] else ""


def token_counter(model: ModelSpec | None) -> Callable[[str], int]:
    """Return a function that counts the tokens of a text, with the tokenizer of a local model."""
    if model is None or model.kind != "local":
        return lambda text: math.ceil(len(text.encode()) / BYTES_PER_TOKEN)
    from atp.models.load import load_tokenizer

    tokenizer = load_tokenizer(model)
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False))


def _tokens(row: Mapping[str, Any], count: Callable[[str], int]) -> dict[str, int]:
    texts = [*(message["content"] for message in row["messages"]), row["feedback"]]
    return {"tokens": sum(map(count, texts)), "lesson_tokens": count(row["lesson"] or "")}
