"""The effect of alignment and what is left of it, as findings and figures."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from atp.files.schemas import SERIES
from atp.measures.alignment import INSTALLED, LEFT, LEFT_SHARE, NONE
from atp.report import spread
from atp.report.conditions import points
from atp.report.figures import Figure, bars
from atp.report.verdict import Finding, Line, name_lines, percent, span

BEFORE, ALIGNED = "before alignment", "as aligned"
#: Channel -> its name in a sentence, and the column that orders its points.
CHANNELS = {"context": ("in context", "round"), "weights": ("in the weights", "generation")}
_UNALIGNED_KEYS = [key for key in SERIES if key != "alignment"]

#: A series' name, channel and axis, and rows of measures: INSTALLED, LEFT, LEFT_SHARE, `before`, `aligned`, `end`.
Effect = dict[str, Any]


def effects(measures: pl.DataFrame) -> list[Effect]:
    """Return the effect of alignment on each aligned series.

    Args:
        measures: rows of MEASURES, or of `over_seeds`; then a series combines all seeds.
    """
    rates = measures.filter(measure="violation_rate", split="test")
    rows: list[Effect] = []
    for channel, (_, axis) in CHANNELS.items():
        installed = measures.filter(measure=INSTALLED, channel=channel)
        for row in name_lines(installed, "alignment").sort("name").to_dicts() if len(installed) else []:
            keys = {key: row[key] for key in (*SERIES, "channel")}
            by_measure = {each["measure"]: each for each in _matching(measures, keys).to_dicts()}
            begin = {"generation": row["generation"], "round": row["round"], "channel": channel}
            unaligned = {key: row[key] for key in _UNALIGNED_KEYS} | {"alignment": NONE}
            left = by_measure.get(LEFT)
            end = begin | {axis: left[axis]} if left else None
            rows.append(
                {
                    "name": row["name"],
                    "channel": channel,
                    "axis": axis,
                    INSTALLED: row,
                    LEFT: left,
                    LEFT_SHARE: by_measure.get(LEFT_SHARE),
                    "before": _matching(rates, unaligned | begin).row(0, named=True),
                    "aligned": _matching(rates, keys | begin).row(0, named=True),
                    "end": _matching(rates, keys | end).row(0, named=True) if end else None,
                }
            )
    return rows


def _matching(rows: pl.DataFrame, keys: Mapping[str, Any]) -> pl.DataFrame:
    return rows.filter(*(pl.col(key).eq_missing(value) for key, value in keys.items()))


def alignment_finding(rows: list[Effect]) -> list[Finding]:
    """Return the finding about alignment; no finding if no agent was aligned."""
    lines = [_line(effect) for effect in rows]
    return [Finding("Effect of alignment, and what is left of it", lines)] if lines else []


def _line(effect: Effect) -> Line:
    installed, left = effect[INSTALLED], effect[LEFT]
    where = CHANNELS[effect["channel"]][0]
    before, aligned = (percent(effect[point]["value"]) for point in ("before", "aligned"))
    evidence = f"{_counts(effect['before'])}, then {_counts(effect['aligned'])}"
    evidence += f"; alignment lowered the rate by {_points(installed)} points"
    text = f"from {before} to {aligned}"
    if left is not None:
        text += f", and {percent(effect['end']['value'])} at {effect['axis']} {left[effect['axis']]}"
        evidence += f"; then {_counts(effect['end'])}; {_points(left)} points left"
    if not installed["low"] > 0:
        verdict = "not shown to lower the rate"
    elif left is None:
        verdict = "lowered the rate"
    elif not left["low"] > 0:
        verdict = "lowered the rate, and none of that is shown to be left"
    else:
        proportion = effect[LEFT_SHARE]["value"]
        verdict = f"lowered the rate, and {percent(proportion) if proportion < 1 else 'all'} of that is left"
    return Line(f"{effect['name']}, {where}", verdict, text, evidence)


def alignment_figures(rows: list[Effect]) -> list[Figure]:
    """Return a figure for each channel with an aligned agent."""
    by_channel = {channel: [effect for effect in rows if effect["channel"] == channel] for channel in CHANNELS}
    return [_figure(channel, each) for channel, each in by_channel.items() if each]


def _figure(channel: str, rows: list[Effect]) -> Figure:
    where, axis = CHANNELS[channel]
    end = f"after the last {axis}"
    drawn, table = [], []
    for effect in rows:
        by_step = {BEFORE: effect["before"], ALIGNED: effect["aligned"], end: effect["end"]}
        drawn += [{**row, "name": effect["name"], "before": step} for step, row in by_step.items() if row]
        rates = [f"{percent(row['value'])} ({row['k']}/{row['n']})" if row else "–" for row in by_step.values()]
        proportion = effect[LEFT_SHARE]
        proportion_left = f"{percent(proportion['value'])} ({span(proportion)})" if proportion else "–"
        installed, left = _points(effect[INSTALLED]), _points(effect[LEFT])
        table.append([effect["name"], *rates[:2], installed, rates[2], left, proportion_left])
        table += _spreads(
            effect["before"], effect["aligned"], effect[INSTALLED], effect["end"], effect[LEFT], proportion
        )
    chart_rows = pl.DataFrame(drawn, infer_schema_length=None)
    return Figure(
        f"alignment_{channel}",
        f"Effect of alignment, and what is left of it, {where}",
        f"Violation rates on the test split: of the agent before alignment, of the aligned agent at the first {axis}, "
        f"and of the aligned agent at the last {axis} whose prompts have the same sentence about supervision. Effect "
        "and effect left are differences, in percentage points, to the first rate of the agent without alignment, "
        "which changes too; their intervals draw the same scenarios for both rates. "
        f"{spread.describe_bars(chart_rows)}",
        bars(chart_rows, [BEFORE, ALIGNED, end], "", "violation rate"),
        ["series", BEFORE, ALIGNED, "effect, points", end, "effect left, points", "proportion left"],
        table,
    )


def _spreads(*rows: dict[str, Any] | None) -> list[list[str]]:
    """Return further table rows for several seeds: each number's spread within a seed and between seeds."""
    if not any(row and spread.between(row) for row in rows):
        return []
    table = [[spread.WITHIN], *([heading] for heading in spread.BETWEEN)]
    for row in rows:
        texts = ["–"] * 4 if row is None else [span(row), *spread.between(row)]
        # The columns of differences are in points already.
        unit = "\u00a0%" if row and row["measure"] in (INSTALLED, LEFT) else ""
        for line, text in zip(table, texts, strict=True):
            line.append(text.removesuffix(unit).replace("-", "\u2212"))
    return table


def _counts(row: dict[str, Any]) -> str:
    return f"{row['k']}/{row['n']} ({span(row)})"


def _points(row: dict[str, Any] | None) -> str:
    """Return a difference of rates in percentage points, with its interval."""
    value, interval = points(row and {**row, "least": None})
    return f"{value} ({interval})" if row else value
