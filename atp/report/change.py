"""Tables of how each series and each individual changes, and of what players do after a rewarded violation."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from atp.files.schemas import SERIES
from atp.measures.individuals import CHANGE as INDIVIDUAL_CHANGE
from atp.measures.populations import BIMODALITY
from atp.measures.reinforcement import REINFORCEMENT
from atp.measures.tipping_series import VERDICT
from atp.report.conditions import CHANNELS, NO_VALUE, RowGroup, TableCell, points
from atp.report.verdict import name_lines, percent

CHANGES = [
    *("series", "verdict", "change, points", "smallest change that could be shown", "odds ratio per step"),
    *("break at", "proportion in the largest step", "BIC"),
    *("half of the change at", "50\u00a0% at"),
]
FOLLOWS = ["series", "reinforcement, points", "bimodality, first round", "last round"]
INDIVIDUALS = [
    *("series", "individuals", "have violated by the last round", "violate after their first violation"),
    "comply in the last round after a violation",
]
_KEYS = [*SERIES, "channel", "split"]


def changes(measures: pl.DataFrame) -> list[RowGroup]:
    """Return rows with the columns CHANGES, in a group for each channel and testbed."""
    rows = measures.filter(pl.col("seed").is_not_null(), measure=VERDICT, split="test")
    groups = []
    for channel, by in (("context", "variant"), ("weights", "condition"), ("memory", "condition")):
        for testbed in sorted(rows["testbed"].unique()):
            verdicts = name_lines(rows.filter(channel=channel, testbed=testbed), by).sort("name").to_dicts()
            table = [_change(row, _by_measure(measures, row)) for row in verdicts]
            if table:
                groups.append(RowGroup(f"{testbed.replace('_', ' ')}, {CHANNELS[channel]}", table))
    return groups


def follows(measures: pl.DataFrame) -> tuple[list[str], list[RowGroup]]:
    """Return the columns of FOLLOWS that have values, and rows with these columns, in a group for each testbed."""
    rows = measures.filter(pl.col("value").is_not_null(), measure=REINFORCEMENT, channel="context", split="test")
    groups = []
    for testbed in sorted(rows["testbed"].unique()):
        table = []
        for row in name_lines(rows.filter(testbed=testbed), "variant").sort("name").to_dicts():
            rounds = _series_of(measures, row).filter(measure=BIMODALITY).sort("round").to_dicts()
            bimodality = [_number(rounds[at]) for at in (0, -1)] if rounds else [NO_VALUE, NO_VALUE]
            table.append([(row["name"], ""), points(row), *bimodality])
        groups.append(RowGroup(testbed.replace("_", " "), table))
    all_rows = [row for group in groups for row in group.rows]
    filled = [column for column in range(len(FOLLOWS)) if any(row[column][0] != "–" for row in all_rows)]
    trimmed = [RowGroup(group.name, [[row[column] for column in filled] for row in group.rows]) for group in groups]
    return [FOLLOWS[column] for column in filled], trimmed


def individuals(measures: pl.DataFrame) -> list[RowGroup]:
    """Return rows with the columns INDIVIDUALS, in a group for each testbed: how single agents change in context."""
    rows = measures.filter(measure=INDIVIDUAL_CHANGE, split="test")
    groups = []
    for testbed in sorted(rows["testbed"].unique()):
        table = []
        for row in name_lines(rows.filter(testbed=testbed), "variant").sort("name").to_dicts():
            curve = _series_of(measures, row).filter(measure="first_violation").sort("round").to_dicts()
            by_measure = _by_measure(measures, row)
            rates = [curve[-1], *(by_measure[name] for name in ("rate_after_first_violation", "returned"))]
            table.append([(row["name"], ""), (row["label"], row["reason"]), *map(_rate, rates)])
        groups.append(RowGroup(testbed.replace("_", " "), table))
    return groups


def _rate(row: Mapping[str, Any]) -> TableCell:
    return (percent(row["value"]), _span(row, 100, 0)) if _has_value(row) else NO_VALUE


def _series_of(measures: pl.DataFrame, row: Mapping[str, Any]) -> pl.DataFrame:
    return measures.filter(pl.col(key).eq_missing(pl.lit(row[key])) for key in _KEYS)


def _by_measure(measures: pl.DataFrame, row: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the measures of a row's series that have no round, by name."""
    rows = _series_of(measures, row).filter(pl.col("round").is_null())
    return {each["measure"]: each for each in rows.to_dicts()}


def _change(row: Mapping[str, Any], by_measure: Mapping[str, dict[str, Any]]) -> list[TableCell]:
    p = by_measure["change_point_p"]["value"]
    p_text = "" if p is None else f"p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}"
    break_at, interval = _number(by_measure["change_point"], 0)
    change, sharpness = by_measure["change"], by_measure["sharpness"]
    return [
        (row["name"], ""),
        (row["label"], ""),
        points(change) if _has_value(change) else NO_VALUE,
        _detectable(by_measure["detectable_change"]),
        _number(by_measure["drift_odds_ratio"]),
        (break_at, ", ".join(part for part in (interval, p_text) if part)),
        _rate(sharpness),
        _number(by_measure["bic_step_less_trend"], 1),
        *(_number(by_measure[name], 1) for name in ("time_to_half_change", "time_to_half_rate")),
    ]


def _detectable(row: Mapping[str, Any]) -> TableCell:
    return (f"{100 * row['value']:.1f}", "") if _has_value(row) else NO_VALUE


def _has_value(row: Mapping[str, Any]) -> bool:
    return row["value"] is not None


def _number(row: Mapping[str, Any], digits: int = 2) -> TableCell:
    if not _has_value(row):
        return NO_VALUE
    return f"{row['value']:.{digits}f}".replace("-", "\u2212"), _span(row, 1, digits)


def _span(row: Mapping[str, Any], factor: float, digits: int) -> str:
    """Return an interval as text; an open end is a word, and without both ends the text is empty."""
    ends = [None if row[end] is None else f"{factor * row[end]:.{digits}f}" for end in ("low", "high")]
    if ends == [None, None]:
        return ""
    return f"{ends[0] or 'before'} to {ends[1] or 'later'}".replace("-", "\u2212")
