"""What alignment installed and what is left of it, in words and as figures.

Knows measures and what trainings wrote about themselves; knows nothing of pages.
"""

from collections.abc import Mapping
from typing import Any

import polars as pl

from atp.measures.alignment import INSTALLED, LEFT, LEFT_SHARE, NONE
from atp.measures.lines import LINE
from atp.report import spread
from atp.report.figures import Figure, bars
from atp.report.verdict import Finding, Line, name_lines, percent, span

BEFORE, ALIGNED = "before alignment", "as aligned"
WHERE = {"context": ("in context", "round"), "weights": ("in the weights", "generation")}
_SAME = [key for key in LINE if key != "alignment"]


def effects(measures: pl.DataFrame) -> list[dict[str, Any]]:
    """One row for each aligned line: its name, its rates before, as aligned and at the end, and what that comes to.

    measures may be those of `over_seeds`: then a line is one of all seeds.
    """
    rates = measures.filter(measure="violation_rate", split="test")
    found: list[dict[str, Any]] = []
    for channel, (_, axis) in WHERE.items():
        installed = measures.filter(measure=INSTALLED, channel=channel)
        for row in name_lines(installed, "alignment").sort("name").to_dicts() if len(installed) else []:
            keys = {key: row[key] for key in (*LINE, "channel")}
            mine = {each["measure"]: each for each in _at(measures, keys).to_dicts()}
            begin = {"generation": row["generation"], "round": row["round"], "channel": channel}
            unaligned = {key: row[key] for key in _SAME} | {"alignment": NONE}
            left = mine.get(LEFT)
            end = begin | {axis: left[axis]} if left else None
            found.append(
                {
                    "name": row["name"],
                    "channel": channel,
                    "axis": axis,
                    INSTALLED: row,
                    LEFT: left,
                    LEFT_SHARE: mine.get(LEFT_SHARE),
                    "before": _at(rates, unaligned | begin).row(0, named=True),
                    "aligned": _at(rates, keys | begin).row(0, named=True),
                    "end": _at(rates, keys | end).row(0, named=True) if end else None,
                }
            )
    return found


def _at(rows: pl.DataFrame, keys: Mapping[str, Any]) -> pl.DataFrame:
    return rows.filter(*(pl.col(key).eq_missing(value) for key, value in keys.items()))


def alignment_finding(found: list[dict[str, Any]]) -> list[Finding]:
    """What alignment did, in words; nothing where nothing was aligned."""
    lines = [_line(effect) for effect in found]
    return [Finding("Alignment, and what is left of it", lines)] if lines else []


def _line(effect: dict[str, Any]) -> Line:
    installed, left, share = effect[INSTALLED], effect[LEFT], effect[LEFT_SHARE]
    where = WHERE[effect["channel"]][0]
    before, aligned = (percent(effect[point]["value"]) for point in ("before", "aligned"))
    evidence = f"{_counted(effect['before'])}, then {_counted(effect['aligned'])}"
    evidence += f"; installed {_points(installed)} points"
    text = f"from {before} to {aligned}"
    if left is not None:
        text += f", and by {effect['axis']} {left[effect['axis']]} to {percent(effect['end']['value'])}"
        evidence += f"; then {_counted(effect['end'])}; left {_points(left)} points"
    if not installed["low"] > 0:
        verdict = "not shown to lower the rate"
    elif left is None:
        verdict = "lowered the rate"
    else:
        verdict = "lowered the rate, and "
        verdict += _held(share["value"]) if left["low"] > 0 else "none of that is shown to be left"
    return Line(f"{effect['name']}, {where}", verdict, text, evidence)


def _held(share: float) -> str:
    return f"{percent(share)} of that is left" if share < 1 else "all of that is left"


def alignment_figures(found: list[dict[str, Any]]) -> list[Figure]:
    """A figure for each channel in which something aligned was played."""
    by_channel = {channel: [each for each in found if each["channel"] == channel] for channel in WHERE}
    return [_figure(channel, rows) for channel, rows in by_channel.items() if rows]


def _figure(channel: str, found: list[dict[str, Any]]) -> Figure:
    where, axis = WHERE[channel]
    end = f"after the last {axis}"
    points, table = [], []
    for effect in found:
        named = {BEFORE: effect["before"], ALIGNED: effect["aligned"], end: effect["end"]}
        points += [{**row, "name": effect["name"], "before": step} for step, row in named.items() if row]
        said = [f"{percent(row['value'])} ({row['k']}/{row['n']})" if row else "–" for row in named.values()]
        share = effect[LEFT_SHARE]
        kept = f"{percent(share['value'])} ({span(share)})" if share else "–"
        table.append([effect["name"], *said[:2], _points(effect[INSTALLED]), said[2], _points(effect[LEFT]), kept])
        table += _spreads(effect["before"], effect["aligned"], effect[INSTALLED], effect["end"], effect[LEFT], share)
    drawn = pl.DataFrame(points, infer_schema_length=None)
    return Figure(
        f"alignment_{channel}",
        f"What alignment installed, and what is left, {where}",
        "Violation rates on the test split: of the agent without alignment, of the aligned one at the first "
        f"{axis}, and of the aligned one at the last {axis} whose prompts say the same about supervision. Installed "
        "and left are differences to where the agent without alignment began, which moves on, too, in percentage "
        f"points; their intervals draw the same scenarios for both. {spread.bars_said(drawn)}",
        bars(drawn, [BEFORE, ALIGNED, end], "", "violation rate"),
        ["line", BEFORE, ALIGNED, "installed, points", end, "left, points", "share left"],
        table,
    )


def _spreads(*found: dict[str, Any] | None) -> list[list[str]]:
    """With several seeds, rows below a line's: of each number the spread within a seed, and between seeds."""
    if not any(row and spread.between(row) for row in found):
        return []
    rows = [[spread.WITHIN], *([heading] for heading in spread.BETWEEN)]
    for row in found:
        said = ["–"] * 4 if row is None else [span(row), *spread.between(row)]
        unit = "\u00a0%" if row and row["measure"] in (INSTALLED, LEFT) else ""  # which the column says
        for line, text in zip(rows, said, strict=True):
            line.append(text.removesuffix(unit).replace("-", "\u2212"))
    return rows


def _counted(row: dict[str, Any]) -> str:
    return f"{row['k']}/{row['n']} ({span(row)})"


def _points(row: dict[str, Any] | None) -> str:
    """A difference of rates in percentage points, with its interval."""
    if row is None:
        return "–"
    value, low, high = (f"{100 * row[name]:.1f}" for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})".replace("-", "\u2212")
