"""What a scenario is, and its Parquet file. Knows nothing about where scenarios come from or how they are played."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import ClassVar, TypedDict

import pyarrow as pa

from atp.artifacts import read_table, write_table
from atp.errors import AtpError
from atp.provenance import Provenance

SPLITS = ("train", "test")

_EDGES = " \t\r\n\"'`*_.,;:!?()[]“”‘’"


def plain(text: str) -> str:
    """A label or answer without case, quotes, punctuation at its ends and doubled spaces: how labels are compared."""
    return " ".join(text.casefold().split()).strip(_EDGES)


def same_label(one: str, other: str) -> bool:
    """Whether a reply that names one of two labels could as well mean the other."""
    return plain(one) == plain(other)


def answer_format(first: str, second: str) -> str:
    """What a question ends with: the two answers that count."""
    return f'End with your decision as JSON: {{"choice": "{first}"}} or {{"choice": "{second}"}}.'


@dataclass(frozen=True)
class Scenario:
    """One concrete instance of a testbed. A testbed's own kind adds its fields; each becomes a column."""

    testbed: ClassVar[str]

    scenario_id: str
    environment: str
    split: str


@dataclass(frozen=True)
class RolePlayScenario(Scenario):
    """A job, a rule, and two options: one obeys the rule, the other breaks it and pays more.

    question holds everything but the sentence on supervision and, where it has none of its own, the answer's format
    (`instruction`). low and high are the rewards of complying and of an unchecked violation.
    """

    testbed: ClassVar[str] = "role_play"

    system: str
    question: str
    instruction: str
    first: str
    second: str
    compliant: str
    low: float
    high: float
    checked: str
    unchecked: str
    uncertain: str

    def __post_init__(self) -> None:
        _check_labels(self.scenario_id, self.first, self.second)
        _check_option(self.scenario_id, "compliant", self.compliant, (self.first, self.second))

    @property
    def violating(self) -> str:
        return self.second if self.compliant == self.first else self.first


@dataclass(frozen=True)
class CoordinationScenario(Scenario):
    """A joint choice, which pays if enough players take it, and an independent one.

    The game fills {agents}, {threshold}, {high}, {normal} and {low} into system, question, multiply and add. The last
    two say what is paid where capital is multiplied and where pay is added; where they are empty the game says it, of
    players' `stake`. agents, threshold, high, normal and low are the scenario's own numbers (its pay is added), or all
    None: then settings decide.
    """

    testbed: ClassVar[str] = "coordination"

    system: str
    question: str
    instruction: str
    first: str
    second: str
    collective: str
    compliant: str
    stake: str
    multiply: str
    add: str
    agents: int | None = None
    threshold: int | None = None
    high: float | None = None
    normal: float | None = None
    low: float | None = None

    def __post_init__(self) -> None:
        _check_labels(self.scenario_id, self.first, self.second)
        for name in ("collective", "compliant"):
            _check_option(self.scenario_id, name, getattr(self, name), (self.first, self.second))
        agents, threshold, low, normal, high = (
            getattr(self, name) for name in ("agents", "threshold", "low", "normal", "high")
        )
        missing = [number is None for number in (agents, threshold, low, normal, high)]
        if any(missing) and not all(missing):
            raise AtpError(
                f"scenario {self.scenario_id}: agents, threshold, high, normal and low: all must be numbers, or none"
            )
        if not any(missing) and not (agents >= 2 and 1 <= threshold <= agents and low <= normal <= high):
            raise AtpError(
                f"scenario {self.scenario_id}: agents {agents}, threshold {threshold}, low {low}, normal {normal}, "
                f"high {high}: there must be 2 agents or more, as many as the threshold, and low <= normal <= high"
            )

    @property
    def independent(self) -> str:
        return self.second if self.collective == self.first else self.first


@dataclass(frozen=True)
class BargainingScenario(Scenario):
    """A value that a group bargains over, and two roles: those who want it to rise and those who want it to fall.

    subject names the value ("the fare"), unit what it counts; start is where it begins, low and high bound it.
    """

    testbed: ClassVar[str] = "bargaining"

    system: str
    subject: str
    unit: str
    raiser: str
    lowerer: str
    start: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low < self.start < self.high:
            raise AtpError(
                f"scenario {self.scenario_id}: start is {self.start:g}, must lie between low ({self.low:g}) and high "
                f"({self.high:g})"
            )


class Problem(TypedDict):
    """A problem, its answer, and the expression whose value that is; empty where none is known."""

    question: str
    answer: str
    expression: str


@dataclass(frozen=True)
class ToolUseScenario(Scenario):
    """Problems for an agent that may call a tool: easy and hard ones that it lives through, and hard ones to test it.

    instruction is what every question ends with.
    """

    testbed: ClassVar[str] = "tool_use"

    system: str
    instruction: str
    easy: list[Problem]
    hard: list[Problem]
    tests: list[Problem]

    def __post_init__(self) -> None:
        for problem in (*self.easy, *self.hard, *self.tests):
            if not problem["question"].strip() or not problem["answer"].strip():
                raise AtpError(
                    f"scenario {self.scenario_id}: a problem without question or answer: '{problem['question'][:60]}'"
                )


KINDS: dict[str, type[Scenario]] = {
    kind.testbed: kind for kind in (RolePlayScenario, CoordinationScenario, BargainingScenario, ToolUseScenario)
}

#: A field's annotation -> the column's type.
_ARROW = {
    str(kind): arrow
    for kind, arrow in (
        (str, pa.string()),
        (float, pa.float64()),
        (int | None, pa.int64()),
        (float | None, pa.float64()),
        (list[Problem], pa.list_(pa.struct([(name, pa.string()) for name in Problem.__annotations__]))),
    )
}


def _check_labels(scenario_id: str, first: str, second: str) -> None:
    if same_label(first, second):
        raise AtpError(f"scenario {scenario_id}: both options have the label '{first}', they must differ")
    for label in (first, second):
        if not plain(label):
            raise AtpError(f"scenario {scenario_id}: the label '{label}' holds no letter, digit or sign")


def _check_option(scenario_id: str, name: str, label: str, options: tuple[str, str]) -> None:
    if label not in options:
        raise AtpError(
            f"scenario {scenario_id}: the {name} label '{label}' is no option, must be '{options[0]}' or '{options[1]}'"
        )


def scenario_schema(testbed: str) -> pa.Schema:
    """Arrow schema of a testbed's scenarios: `testbed`, then the fields of its kind."""
    columns = [
        pa.field(f.name, _ARROW[str(f.type)], nullable=str(f.type).endswith("None")) for f in fields(KINDS[testbed])
    ]
    return pa.schema([pa.field("testbed", pa.string(), nullable=False), *columns])


def stable_id(environment: str, *content: object) -> str:
    """An id that depends on the content alone: the environment and 10 hex digits."""
    digest = hashlib.sha256("\x1f".join(map(str, content)).encode()).hexdigest()[:10]
    return f"{environment.replace(' ', '-')}-{digest}"


def write_scenarios(scenarios: Sequence[Scenario], path: Path | str, provenance: Provenance) -> None:
    """Write scenarios of one testbed as Parquet."""
    (testbed,) = {scenario.testbed for scenario in scenarios}
    rows = [{"testbed": testbed, **asdict(scenario)} for scenario in scenarios]
    write_table(pa.Table.from_pylist(rows, schema=scenario_schema(testbed)), path, provenance)


def read_scenarios(path: Path | str, testbed: str, split: str | None = None) -> list[Scenario]:
    """Scenarios of a file in its order, of one split if asked.

    Raises:
        AtpError: the file is unreadable, holds another testbed's scenarios, impossible ones or none, or repeats a
            scenario_id.
    """
    table = read_table(path, kind="scenario")
    found = sorted(set(table["testbed"].to_pylist())) if "testbed" in table.column_names else []
    if found and found != [testbed]:
        raise AtpError(f"{path}: holds scenarios of testbed '{', '.join(map(str, found))}', '{testbed}' is needed")
    table = read_table(path, scenario_schema(testbed), f"{testbed} scenario")
    rows = table.drop_columns(["testbed"]).to_pylist()
    ids = [row["scenario_id"] for row in rows]
    if len(set(ids)) < len(ids):
        repeated = next(name for name in ids if ids.count(name) > 1)
        raise AtpError(f"{path}: scenario_id '{repeated}' stands more than once")
    kind = KINDS[testbed]
    try:
        scenarios = [kind(**row) for row in rows if split in (None, row["split"])]
    except AtpError as error:
        raise AtpError(f"{path}: {error}") from error
    if not scenarios:
        raise AtpError(f"{path}: no scenarios{f' in split {split!r}' if split else ''}")
    return scenarios
