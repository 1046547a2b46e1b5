"""Cells, the jobs in which agents play, and the turns of a batch of episodes as an Arrow table."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from random import Random
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import PlainSerializer, model_validator

from atp.files.columns import to_arrow
from atp.files.provenance import Job
from atp.files.schemas import DETAILS, MESSAGE, TURNS, turns_schema
from atp.models.spec import ModelSpec
from atp.registry import find_testbed
from atp.testbed import Message, Reply, Scenario, Settings, Testbed, Turn

TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens")
SCENARIO_COLUMNS = ("scenario_id", "template", "template_seen", "split")
CONVERTED = ("messages", "reply", "later_replies", "details")
#: Columns that a turn has under the same name and in the same form.
TURN_COLUMNS = [field.name for field in fields(Turn) if field.name in TURNS.names and field.name not in CONVERTED]
#: Round, agent and step of a prompt -> its sampling seed.
Seeds = dict[tuple[int, int, int], int]


def _given(settings: Settings) -> dict[str, Any]:
    """Return the values that were given, so that reports tell what a study varies; 2.0 as 2, which studies write."""
    values = settings.model_dump(mode="json", exclude_unset=True)
    return {
        key: int(value) if isinstance(value, float) and value.is_integer() else value for key, value in values.items()
    }


#: A testbed's settings, of its own type. As JSON they are the values that were given.
TestbedSettings = Annotated[Settings, PlainSerializer(_given)]


@dataclass(frozen=True)
class Cell:
    """A cell of the design (model x testbed x alignment x condition x seed), and a point on one of its channels.

    `condition` is None before deployment: for preference pairs and alignment, which all conditions share.
    """

    model: str
    testbed: str
    alignment: str = "none"
    condition: str | None = "baseline"
    seed: int = 0
    channel: str = "context"
    generation: int = 0


class AgentJob(Job):
    """A job of an agent: its place in a study, and its model, None for an agent without one.

    Subclasses may have `settings` of the testbed, or `variants` with several of them, and take them as mappings too.
    """

    cell: Cell
    model: ModelSpec | None = None

    @model_validator(mode="before")
    @classmethod
    def _type_settings(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or "cell" not in values:
            return values
        cell = values["cell"]
        kind = find_testbed(cell["testbed"] if isinstance(cell, Mapping) else cell.testbed).settings

        def typed(settings: Any) -> Any:
            return kind(**settings) if isinstance(settings, Mapping) else settings

        if "settings" in values:
            values = {**values, "settings": typed(values["settings"])}
        if "variants" in values:
            values = {**values, "variants": {label: typed(each) for label, each in values["variants"].items()}}
        return values


@dataclass(frozen=True)
class PlannedEpisode:
    """An episode to play: a scenario in one variant of the testbed's settings, and the sample's number."""

    scenario: Scenario
    variant: str
    settings: Settings
    sample: int

    @property
    def name(self) -> str:
        """Name that is unique in a turns file."""
        return f"{self.scenario.scenario_id}/{self.variant}/{self.sample}"

    def start(self, testbed: Testbed, seed: int) -> Any:
        """Return the episode's generator, whose chance is decided by a seed."""
        return testbed.play(self.scenario, self.settings, Random(seed))


def count_tokens(replies: Iterable[Reply]) -> dict[str, float]:
    """Return the tokens that an agent read and wrote for replies, by their names in a stage's cost."""
    listed = list(replies)
    return {name: float(sum(getattr(reply, name) for reply in listed)) for name in TOKENS}


def turn_table(
    testbed: Testbed,
    cell: Cell,
    batch: Sequence[PlannedEpisode],
    turns: Sequence[Sequence[Turn]],
    seeds: Sequence[Seeds],
) -> pa.Table:
    """Return the rows of turns.parquet for a batch, episode by episode.

    Args:
        turns, seeds: of each episode of the batch.
    """
    for played, drawn in zip(turns, seeds, strict=True):
        decisions = sum(step == 0 for _, _, step in drawn)
        if not isinstance(played, list) or len(played) != decisions:
            count = len(played) if isinstance(played, list) else type(played).__name__
            raise ValueError(f"play must return a turn for each of {decisions} prompts with step 0, found {count}")
    rows = [(episode, turn) for episode, played in zip(batch, turns, strict=True) for turn in played]
    flat = [turn for _, turn in rows]
    columns: dict[str, Any] = {name: [getattr(turn, name) for turn in flat] for name in TURN_COLUMNS}
    columns |= {name: [value] * len(flat) for name, value in vars(cell).items()}
    columns |= {name: [getattr(episode.scenario, name) for episode, _ in rows] for name in SCENARIO_COLUMNS}
    columns |= {name: [getattr(episode, name) for episode, _ in rows] for name in ("variant", "sample")}
    names = [episode.name for episode in batch]
    columns["episode"] = [name for name, played in zip(names, turns, strict=True) for _ in played]
    columns["reply"] = [turn.reply.text for turn in flat]
    columns["p_violation"] = [turn.reply.p_violation if turn.reply.stated == turn.decision else None for turn in flat]
    columns["later_replies"] = [[reply.text for reply in turn.later_replies] for turn in flat]
    columns["later_finish_reasons"] = [[reply.finish_reason for reply in turn.later_replies] for turn in flat]
    columns["finish_reason"] = [turn.reply.finish_reason for turn in flat]
    columns |= {
        name: [sum([getattr(reply, name) for reply in (turn.reply, *turn.later_replies)]) for turn in flat]
        for name in TOKENS
    }
    columns["sampling_seed"] = [
        drawn[turn.round, turn.agent, 0] for played, drawn in zip(turns, seeds, strict=True) for turn in played
    ]
    columns["messages"] = _conversations([turn.messages for turn in flat])
    if testbed.columns:
        columns[DETAILS] = to_arrow([turn.details for turn in flat], testbed.columns)
    table = pa.table(columns, schema=turns_schema(testbed.columns))
    for field in table.schema:
        _check_nulls(field, table[field.name].combine_chunks())
    if not pc.all(pc.is_finite(table["reward"]), min_count=0).as_py():
        raise ValueError("Turn.reward must be a finite number")
    return table


def _check_nulls(field: pa.Field, column: pa.Array) -> None:
    """Raise ValueError for a missing value that the schema does not allow, which only writing the file would find."""
    if not field.nullable and column.null_count:
        raise ValueError(f"{field.name} is None in {column.null_count} of {len(column)} turns, it must have a value")
    if field.name == DETAILS:
        for child, values in zip(field.type, column.flatten(), strict=True):
            _check_nulls(child, values)


def _conversations(prompts: Sequence[list[Message]]) -> pa.ListArray:
    """Return messages in Arrow's own layout, end to end, which is four times as fast as from lists of dictionaries."""
    flat = [message for prompt in prompts for message in prompt]
    texts = [pa.array([message[name] for message in flat], pa.string()) for name in ("role", "content")]
    offsets = pa.array(itertools.accumulate(map(len, prompts), initial=0), pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(texts, fields=list(MESSAGE)))
