"""Read the replies of stored turns again by the present rule: a changed parser, testbed, plug-in or setting.

A testbed reads replies while it plays, so each episode is played again with the stored replies. A row counts as read
again if the prompt is the stored one. Where an earlier decision is read differently now, later prompts would show other
facts. Such a reply is then replaced, for the rounds after it, by one that states what was read when the episode was
played, so that these rounds are read with the history that the agent had.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from atp.errors import AtpError
from atp.explain import explain
from atp.files.columns import to_arrow
from atp.files.provenance import Stage
from atp.files.schemas import DETAILS
from atp.files.tables import check_file, read_provenance, write_table
from atp.files.turns import read_turns
from atp.progress import Progress
from atp.registry import blame, find_testbed, origins, sources
from atp.rollout.branching import Place, recorded_replies
from atp.rollout.engine import RolloutJob
from atp.rollout.seeds import sampling_seed
from atp.rollout.table import PlannedEpisode
from atp.scenarios.scenario import read_scenarios
from atp.testbed import INVALID, Message, Prompt, Reply, Settings, Testbed, Turn
from atp.tools import run_calls

#: Columns that are read again; all others are as played. `RESCORED` is added: whether a row was read again.
READ_AGAIN, RESCORED = ("decision", "invalid_reason", "violation", "p_violation", DETAILS), "rescored"
#: Episodes that a message names.
MAX_NAMES = 3
#: Round and agent of a row in its episode.
RowPlace = tuple[int, int]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Rescored:
    """What a rescoring changed.

    Args:
        changes: (reading as played, reading now) -> number of rows.
        differing: rows, by episode, that were not read again, because their prompt is another one now.
    """

    rows: int
    changes: Mapping[tuple[str, str], int]
    differing: Mapping[str, int]

    def __str__(self) -> str:
        left, changed = sum(self.differing.values()), sum(self.changes.values())
        lines = [f"{self.rows - left} of {self.rows} decisions read again, {changed} changed"]
        changes = sorted(self.changes.items(), key=lambda change: -change[1])
        lines += [f"  {before} -> {now}: {count}" for (before, now), count in changes]
        if left:
            names = ", ".join(list(self.differing)[:MAX_NAMES])
            more = ", …" if len(self.differing) > MAX_NAMES else ""
            lines.append(
                f"{left} decisions of {len(self.differing)} episodes as played, because their prompts or tool results "
                f"are not the stored ones: {names}{more}"
            )
        return "\n".join(lines)


@dataclass
class _Replay:
    """A replayed episode: its prompts and turns, and the rows in which a reply was asked for that is not stored."""

    prompts: dict[RowPlace, Prompt] = field(default_factory=dict)
    turns: dict[RowPlace, Turn] = field(default_factory=dict)
    unanswered: set[RowPlace] = field(default_factory=set)


def rescore_stage(turns: Path, scenarios: Path, overrides: Mapping[str, Any], out: Path) -> Rescored:
    """Read stored replies again and write turns.parquet with what they state now.

    Args:
        scenarios: the scenarios of the turns.
        overrides: settings of the testbed that differ from those of the turns.

    Raises:
        AtpError: turns that are no rollout, unknown scenarios, or impossible settings.
    """
    check_file(out, turns, scenarios)
    provenance = read_provenance(turns)
    params = provenance.get("params", {})
    if provenance.get("stage") != RolloutJob.stage:
        writer = provenance.get("stage", "no stage")
        raise AtpError(f"{turns}: was written by '{writer}', only turns of a rollout can be read again")
    table = read_turns(turns)
    if not len(table):
        raise AtpError(f"{turns}: no turns")
    testbed = find_testbed(table["testbed"][0].as_py())
    variants = {label: _settings(testbed, values, overrides) for label, values in params["variants"].items()}
    code = [__name__, *sources(testbed.name, RolloutJob.stage), *origins("tools")]
    changed_params = {RESCORED: {"columns": READ_AGAIN, "settings": dict(overrides)}}
    stage = Stage("rescore", code, {**params, **changed_params}, [turns, scenarios])
    known = {scenario.scenario_id: scenario for scenario in read_scenarios(scenarios, testbed.name)}
    rows, read = table.to_pylist(), dict[int, Turn]()
    progress = Progress(str(out), len({row["episode"] for row in rows}), "episodes")
    for _, group in groupby(enumerate(rows), key=lambda numbered: numbered[1]["episode"]):
        numbers, episode = zip(*group, strict=True)
        first = episode[0]
        if first["scenario_id"] not in known:
            raise AtpError(f"{turns}: its scenario '{first['scenario_id']}' is not among those of {scenarios}")
        planned = PlannedEpisode(known[first["scenario_id"]], first["variant"], variants[first["variant"]], 0)
        again = _read_episode(planned, testbed, episode)
        places = [(row["round"], row["agent"]) for row in episode]
        read |= {number: again[place] for number, place in zip(numbers, places, strict=True) if place in again}
        progress.advance(1, steps=len(episode))
    with blame("testbeds", testbed.name):
        rescored = _rescored(table, rows, read, testbed)
    write_table(rescored, out, stage.provenance(turns=len(rows), rescored=len(read)))
    changes = Counter(
        (_reading(rows[number]["decision"], rows[number]["violation"]), _reading(turn.decision, turn.violation))
        for number, turn in read.items()
    )
    differing = Counter(row["episode"] for number, row in enumerate(rows) if number not in read)
    return Rescored(len(rows), {each: count for each, count in changes.items() if each[0] != each[1]}, differing)


def _settings(testbed: Testbed, values: Mapping[str, Any], overrides: Mapping[str, Any]) -> Settings:
    try:
        return testbed.settings(**{**values, **overrides})
    except ValidationError as error:
        raise AtpError(f"--set {explain(error, testbed.settings)}") from error


def _reading(decision: str, violation: bool | None) -> str:
    """Return a decision, and whether it is a violation where its name does not tell."""
    words = {True: " (violation)", False: " (no violation)", None: ""}
    return f"{decision}{words[violation]}"


def _read_episode(planned: PlannedEpisode, testbed: Testbed, rows: Sequence[Row]) -> dict[RowPlace, Turn]:
    """Return the turns of an episode whose prompts are the stored ones."""
    first = rows[0]
    seed = sampling_seed(first["seed"], first["scenario_id"], first["sample"], first["generation"], (0, 0, 0))
    stored = {(row["round"], row["agent"]): row for row in rows}
    given = {(*place, step): reply for place, row in stored.items() for step, reply in enumerate(recorded_replies(row))}
    read: dict[RowPlace, Turn] = {}
    replaced: set[RowPlace] = set()
    while True:
        replay = _replay(planned, testbed, seed, given)
        again = {place: replay.turns[place] for place, row in stored.items() if _is_same(row, place, replay)}
        read = {**again, **read}
        changed = [place for place in read if read[place].decision != stored[place]["decision"]]
        replies = {
            place: reply
            for place in changed
            if place not in replaced and (reply := _stating(stored[place]["decision"], replay.prompts[place]))
        }
        if len(read) == len(stored) or not replies:
            return read
        replaced |= replies.keys()
        given |= {(*place, 0): reply for place, reply in replies.items()}


def _stating(decision: str, prompt: Prompt) -> Reply | None:
    """Return a reply that states a decision; None if no example of one is known."""
    text = "" if decision == INVALID else prompt.observation.answers.get(decision)
    return None if text is None else Reply(text)


def _replay(planned: PlannedEpisode, testbed: Testbed, seed: int, given: Mapping[Place, Reply]) -> _Replay:
    """Play an episode again with given replies; where there is none, an empty one goes on."""
    replay = _Replay()
    with blame("testbeds", testbed.name):
        game = planned.start(testbed, seed)
        opened = next(game)
        while True:
            answers: list[Any] = []
            if not isinstance(opened[0], Prompt):
                answers = list(run_calls(opened))
            else:
                for prompt in opened:
                    place = (prompt.round, prompt.agent)
                    replay.prompts.setdefault(place, prompt)
                    if (*place, prompt.step) not in given:
                        replay.unanswered.add(place)
                    answers.append(given.get((*place, prompt.step), Reply("")))
            try:
                opened = game.send(answers)
            except StopIteration as end:
                replay.turns = {(turn.round, turn.agent): turn for turn in end.value}
                return replay


def _is_same(row: Row, place: RowPlace, replay: _Replay) -> bool:
    """Return whether a row's prompt is the stored one, and its later replies follow the same results of tools."""
    if place not in replay.turns or place in replay.unanswered:
        return False
    results = [list(each) for each in replay.turns[place].tool_results]
    same_results = results == row["tool_results"][: len(results)]
    return same_results and _facts(replay.prompts[place].messages) == _facts(row["messages"])


def _facts(messages: Sequence[Message]) -> list[tuple[str, str]]:
    """Return all of a prompt but the agent's own replies, some of which may be replaced."""
    return [(each["role"], "" if each["role"] == "assistant" else each["content"]) for each in messages]


def _rescored(table: pa.Table, rows: Sequence[Row], read: Mapping[int, Turn], testbed: Testbed) -> pa.Table:
    """Return the table with what was read again."""
    columns: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in READ_AGAIN if name in rows[0]}
    for number, turn in read.items():
        same = turn.decision == rows[number]["decision"]
        columns["p_violation"][number] = rows[number]["p_violation"] if same else None
        for name in ("decision", "invalid_reason", "violation"):
            columns[name][number] = getattr(turn, name)
    if testbed.columns and read:
        structs = to_arrow([turn.details for turn in read.values()], testbed.columns).to_pylist()
        for number, struct in zip(read, structs, strict=True):
            columns[DETAILS][number] = struct
    for name, values in columns.items():
        column = table.schema.field(name)
        table = table.set_column(table.schema.get_field_index(name), column, pa.array(values, column.type))
    marks = pa.array([number in read for number in range(len(rows))])
    return table.append_column(pa.field(RESCORED, pa.bool_(), nullable=False), marks)
