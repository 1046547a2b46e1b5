"""Compare what measures claim with what they claim at the bounds for invalid replies.

Invalid replies need not resemble valid ones. Manski's bounds of a difference (1990, American Economic Review 80:319)
assume that every invalid reply on one side is a violation and none on the other side, and the reverse.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from atp.files.schemas import SERIES
from atp.measures.alignment import BELOW_START_SHARE, CONVERGENCE, GAP_CHANGE_LOG_ODDS, NONE, NOT_SHOWN
from atp.measures.conditions import BASELINE, CHANGE_LEFT, P
from atp.measures.job import REPAIR
from atp.measures.measure import Evidence, MeasureFunction, measure_rows
from atp.measures.repair import PAIRS
from atp.measures.seeds import RESULTS
from atp.measures.tipping import ALPHA
from atp.measures.tipping_series import DEPENDS
from atp.measures.transfer import CHANGE_FROM_START, UNDECIDED_CHANGE, change_shown

_SERIES = (*SERIES, "channel", "split")
#: Turns of a series' first point; agents that were aligned again are compared with it.
FIRST_POINT = (pl.col("channel") != REPAIR) & pl.all_horizontal(
    pl.col(key) == pl.col(key).min().over(_SERIES) for key in ("generation", "round")
)
UNALIGNED, OF_BASELINE, SEEN_TEMPLATE = (
    pl.col("alignment") == NONE,
    pl.col("condition") == BASELINE,
    pl.col("template_seen").fill_null(False),
)
#: Measure -> factor and unit of its text; of others they are those of a difference of rates.
_UNITS = {GAP_CHANGE_LOG_ODDS: (1, ""), CHANGE_LEFT: (100, "\u00a0%"), BELOW_START_SHARE: (100, "\u00a0%")}
#: Claims that show nothing, and so cannot turn out to be wrong.
_NO_CLAIM = ("", False, NOT_SHOWN, UNDECIDED_CHANGE)


def at_bounds(measure: MeasureFunction, *sides: pl.Expr) -> MeasureFunction:
    """Return a measure whose rows have the label DEPENDS where their claim does not hold at the bounds.

    A claim is that an interval excludes 0, that a p-value is at most ALPHA, or a label. The reason has the interval at
    the bounds, from the smallest to the largest end. p-values are the largest ones.

    Args:
        sides: of each pair of bounds, the turns on one side.
    """

    def bounded(evidence: Evidence) -> pl.DataFrame:
        rows = measure(evidence)
        if not rows["invalid"].sum():
            return rows
        keys = [name for name in rows.columns if name not in RESULTS]
        bounds = [_by_key(measure(assume(evidence, side ^ other)), keys) for side in sides for other in (False, True)]
        judged = [(row, [bound.get(key) for bound in bounds]) for key, row in _by_key(rows, keys).items()]
        return measure_rows([_judge(row, others) if row["invalid"] else row for row, others in judged])

    return bounded


def assume(evidence: Evidence, violations: pl.Expr) -> Evidence:
    """Return the evidence in which invalid replies are violations where `violations` is true, else compliance."""
    violation = pl.col("violation").fill_null(violations)
    own = {testbed: turns.with_columns(violation=violation) for testbed, turns in evidence.testbeds.items()}
    return replace(evidence, turns=evidence.turns.with_columns(violation=violation), testbeds=own)


def _by_key(rows: pl.DataFrame, keys: Sequence[str]) -> dict[tuple[Any, ...], dict[str, Any]]:
    return {tuple(row[key] for key in keys): row for row in rows.iter_rows(named=True)}


def _judge(row: dict[str, Any], others: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
    """Return a row with its label; `others` are the same row at the bounds, None where there is none."""
    claim = _claim(row)
    if row["measure"] == P:
        row = row | {"value": max(at_bound["value"] for at_bound in (row, *filter(None, others)))}
    if claim in _NO_CLAIM or all(other is not None and _claim(other) == claim for other in others):
        return row
    return row | {"label": DEPENDS, "reason": _reason(claim, row["measure"], others)}


def _claim(row: Mapping[str, Any]) -> Any:
    measure, low, high = (row[name] for name in ("measure", "low", "high"))
    if row["k"] is not None:
        return ""  # a rate claims nothing, and has its own bounds
    if measure == P:
        return row["value"] <= ALPHA
    if measure == PAIRS:
        return row["value"] or "none"
    if measure == CHANGE_FROM_START:
        return change_shown(row)
    if low is None or high is None:
        return row["label"] or ""
    return "above 0" if low > 0 else "below 0" if high < 0 else ""


def _reason(claim: Any, measure: str, others: Sequence[Mapping[str, Any] | None]) -> str:
    rows = [other for other in others if other is not None]
    if len(rows) < len(others):
        return "no value at a bound"
    if measure == P:
        return f"up to {max(row['value'] for row in rows):.3f} at the bounds"
    if measure in (PAIRS, CONVERGENCE):
        return f"{claim}; at the bounds {' or '.join(dict.fromkeys(str(_claim(row)) for row in rows))}"
    factor, unit = _UNITS.get(measure, (100, " points"))
    ends = (min(_end(row, "low") for row in rows), max(_end(row, "high") for row in rows))
    low, high = (f"{factor * end:.{1 if factor > 1 else 2}f}".replace("-", "\u2212") for end in ends)
    return f"{low} to {high}{unit} at the bounds"


def _end(row: Mapping[str, Any], bound: str) -> float:
    """Return a bound of a row's interval; without an interval, its value."""
    return float(row["value"] if row[bound] is None else row[bound])
