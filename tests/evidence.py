"""Evidence for tests of measures, made from rows that give only the columns that matter."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import pyarrow as pa

from atp.files.schemas import TURNS, turns_schema
from atp.measures.measure import Evidence
from atp.measures.rates import measure_evidence
from atp.measures.swept import Settings
from atp.registry import resolve
from atp.testbed import Testbed

CELL: dict[str, Any] = dict(model="m", alignment="none", condition="baseline", seed=0, channel="context", generation=0)
_BLANKS = {"string": "", "int32": 0, "int64": 0, "double": 0.0, "bool": None}


def turn_row(testbed: str, scenario: str, round: int, agent: int = 0, **values: Any) -> dict[str, Any]:
    """Return a row of turns.parquet, with blank values in the columns that are not given."""
    blank = {field.name: _BLANKS.get(str(field.type), []) for field in TURNS}
    place = {"testbed": testbed, "scenario_id": scenario, "round": round, "agent": agent}
    return blank | CELL | place | {"variant": "v", "split": "test", "episode": scenario, **values}


def turn_table(testbed: Testbed, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return rows as the table that a rollout of the testbed writes."""
    return pa.Table.from_pylist([dict(row) for row in rows], schema=turns_schema(testbed.columns))


def evidence(testbed: Testbed, rows: Sequence[Mapping[str, Any]], played: Settings | None = None) -> Evidence:
    """Return turns as measures see them; `played` has the settings of series in context, where they matter."""
    turns: Any = pl.from_arrow(turn_table(testbed, rows))
    common = turns.lazy().select(TURNS.names)
    return Evidence(common, {"context": played or {}, "weights": {}}, {testbed.name: turns.lazy()})


def own_measures(testbed: Testbed, rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Return a testbed's own measures of turns."""
    own = evidence(testbed, rows).of(testbed.name)
    return pl.concat([measure(own) for measure in resolve(testbed.measures)])


def all_measures(testbed: Testbed, rows: Sequence[Mapping[str, Any]], played: Settings | None = None) -> pl.DataFrame:
    """Return all measures of turns: those of every testbed, and the testbed's own."""
    return measure_evidence(evidence(testbed, rows, played))
