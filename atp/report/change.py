"""How every line of evidence changes, and what players do after what came of it, as rows of two tables.

Knows measures (docs/measures.md says what each is); knows nothing of pages.
"""

from collections.abc import Mapping
from typing import Any

import polars as pl

from atp.measures.lines import LINE
from atp.measures.populations import BIMODALITY
from atp.measures.reinforcement import RECOLLUDE, REINFORCEMENT
from atp.measures.tipping_lines import VERDICT
from atp.report.arms import CHANNELS, Cell, Lines, points
from atp.report.verdict import name_lines, percent

CHANGES = [
    *("line", "verdict", "change, points", "odds ratio a step", "break at", "share in one step", "BIC"),
    *("half-way at", "50\u00a0% at"),
]
FOLLOWS = ["line", "reinforcement, points", "recollude, points", "bimodality, first round", "last round"]
_KEYS = [*LINE, "channel", "split"]


def changes(measures: pl.DataFrame) -> list[Lines]:
    """The rows of CHANGES, a group for each channel and testbed."""
    rows = measures.filter(measure=VERDICT, split="test")
    found = []
    for channel, by in (("context", "variant"), ("weights", "arm")):
        for testbed in sorted(rows["testbed"].unique()):
            mine = rows.filter(channel=channel, testbed=testbed)
            lines = [_change(row, _of(measures, row)) for row in name_lines(mine, by).sort("name").to_dicts()]
            if lines:
                found.append(Lines(f"{testbed.replace('_', ' ')}, {CHANNELS[channel]}", lines))
    return found


def follows(measures: pl.DataFrame) -> tuple[list[str], list[Lines]]:
    """The columns of FOLLOWS that hold something, and their rows, a group for each testbed: what players in context do
    after what came of it.
    """
    rows = measures.filter(pl.col("value").is_not_null(), measure=REINFORCEMENT, channel="context", split="test")
    found = []
    for testbed in sorted(rows["testbed"].unique()):
        lines = []
        for row in name_lines(rows.filter(testbed=testbed), "variant").sort("name").to_dicts():
            rounds = _lines_of(measures, row).filter(measure=BIMODALITY).sort("round").to_dicts()
            peaks = [_number(rounds[at]) for at in (0, -1)] if rounds else [("–", ""), ("–", "")]
            again = _of(measures, row).get(RECOLLUDE)
            lines.append([(row["name"], ""), points(row), points(again if again and _has(again) else None), *peaks])
        if lines:
            found.append(Lines(testbed.replace("_", " "), lines))
    every = [row for lines in found for row in lines.rows]
    held = [at for at in range(len(FOLLOWS)) if any(row[at][0] != "–" for row in every)]
    trimmed = [Lines(lines.name, [[row[at] for at in held] for row in lines.rows]) for lines in found]
    return [FOLLOWS[at] for at in held], trimmed


def _lines_of(measures: pl.DataFrame, row: Mapping[str, Any]) -> pl.DataFrame:
    return measures.filter(pl.col(key).eq_missing(pl.lit(row[key])) for key in _KEYS)


def _of(measures: pl.DataFrame, row: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """A line's measures without a round, by name."""
    return {each["measure"]: each for each in _lines_of(measures, row).filter(pl.col("round").is_null()).to_dicts()}


def _change(row: Mapping[str, Any], mine: Mapping[str, dict[str, Any]]) -> list[Cell]:
    at, p = mine["change_point"], mine["change_point_p"]["value"]
    broken = _number(at, 0) if _has(at) else ("–", "")
    tested = "" if p is None else f"p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}"
    sharp = mine["sharpness"]
    share = (percent(sharp["value"]), _span(sharp, 100, 0)) if _has(sharp) else ("–", "")
    return [
        (row["name"], ""),
        (row["method"].partition(":")[0], ""),
        points(mine["change"] if _has(mine["change"]) else None),
        _number(mine["drift_odds_ratio"]),
        (broken[0], ", ".join(part for part in (broken[1], tested) if part)),
        share,
        _number(mine["bic_step_less_trend"], 1),
        *(_number(mine[name], 1) for name in ("time_to_half_change", "time_to_half_rate")),
    ]


def _has(row: Mapping[str, Any]) -> bool:
    return row["value"] is not None


def _number(row: Mapping[str, Any], digits: int = 2) -> Cell:
    if not _has(row):
        return ("–", "")
    return f"{row['value']:.{digits}f}".replace("-", "\u2212"), _span(row, 1, digits)


def _span(row: Mapping[str, Any], times: float, digits: int) -> str:
    """An interval, whose open end has no number; nothing where there is none."""
    ends = [None if row[end] is None else f"{times * row[end]:.{digits}f}" for end in ("low", "high")]
    if ends == [None, None]:
        return ""
    return f"{ends[0] or 'before'} to {ends[1] or 'later'}".replace("-", "\u2212")
