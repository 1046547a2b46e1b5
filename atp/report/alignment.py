"""What alignment installed and what is left of it, in words and as figures; and the paper's figures beside ours.

Knows measures and what trainings wrote about themselves; knows nothing of pages.
"""

import csv
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import polars as pl

from atp.measures.alignment import INSTALLED, LEFT, LEFT_SHARE, NONE
from atp.measures.intervals import wilson
from atp.measures.lines import LINE
from atp.report.figures import Figure, bars
from atp.report.verdict import Finding, Line, name_lines, percent, span
from atp.testbeds import TESTBEDS

#: Measures that the paper gives figures of, and what they are called here.
RATES = {
    "violation_rate": "violation_rate",
    "collusion_rate": "collusion_rate",
    "tool_usage": "tool_usage_hard",
    "accuracy_hard": "accuracy_hard",
}
#: Where the paper's figures are of one setting of a testbed: its testbed, and the setting.
UNDER: dict[str, tuple[str, dict[str, Any]]] = {"coordination_t4": ("coordination", {"threshold": 4})}
BEFORE, ALIGNED = "before alignment", "as aligned"
WHERE = {"context": ("in context", "round"), "weights": ("in the weights", "generation")}
_SAME = [key for key in LINE if key != "alignment"]


def effects(measures: pl.DataFrame) -> list[dict[str, Any]]:
    """One row for each aligned line: its name, its rates before, as aligned and at the end, and what that comes to."""
    rates = measures.filter(measure="violation_rate", split="test")
    found: list[dict[str, Any]] = []
    for channel, (_, axis) in WHERE.items():
        installed = measures.filter(measure=INSTALLED, channel=channel)
        for row in name_lines(installed, "alignment").sort("name").to_dicts() if len(installed) else []:
            keys = [pl.col(key) == row[key] for key in (*LINE, "channel")]
            mine = {each["measure"]: each for each in measures.filter(*keys).to_dicts()}
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
                    "before": rates.filter(**unaligned, **begin).row(0, named=True),
                    "aligned": rates.filter(*keys, **begin).row(0, named=True),
                    "end": rates.filter(*keys, **end).row(0, named=True) if end else None,
                }
            )
    return found


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
    return Figure(
        f"alignment_{channel}",
        f"What alignment installed, and what is left, {where}",
        "Violation rates on the test split: of the agent without alignment, of the aligned one at the first "
        f"{axis}, and of the aligned one at the last {axis} whose prompts say the same about supervision. Installed "
        "and left are differences to where the agent without alignment began, which moves on, too, in percentage "
        "points; their intervals draw the same scenarios for both. Bars are 95 % intervals.",
        bars(pl.DataFrame(points), [BEFORE, ALIGNED, end], "", "violation rate"),
        ["line", BEFORE, ALIGNED, "installed, points", end, "left, points", "share left"],
        table,
    )


def _counted(row: dict[str, Any]) -> str:
    return f"{row['k']}/{row['n']} ({span(row)})"


def _points(row: dict[str, Any] | None) -> str:
    """A difference of rates in percentage points, with its interval."""
    if row is None:
        return "–"
    value, low, high = (f"{100 * row[name]:.1f}" for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})".replace("-", "\u2212")


def published() -> list[dict[str, str]]:
    """The paper's figures (arXiv 2510.04860), a row each; how sure we are of a value stands beside it."""
    text = files("atp.report").joinpath("paper.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


def beside_the_paper(measures: pl.DataFrame, settings: Mapping[tuple[Any, ...], Mapping[str, Any]]) -> list[list[str]]:
    """Published rates beside those of the same testbed, model, alignment and round in this study.

    Args:
        settings: of variants, by the keys of LINE, as `swept.settings` finds them.
    """
    rates = measures.filter(pl.col("n") > 0, channel="context")
    rows = []
    for value in published():
        step, _, number = value["step"].partition(" ")
        testbed, wanted = UNDER.get(value["testbed"], (value["testbed"], {}))
        if step != "round" or value["measure"] not in RATES:
            continue
        ours = rates.filter(
            pl.col("measure") == RATES[value["measure"]],
            pl.col("model").str.to_lowercase() == value["model"].lower(),
            testbed=testbed,
            alignment=value["alignment"],
            round=int(number),
        )
        n, share = int(value["n"]), float(value["value_percent"]) / 100
        low, high = wilson(round(share * n), n)
        theirs = f"{percent(share)} ({span({'low': low, 'high': high})}, n {n}, {value['confidence']} confidence)"
        rows += [
            [value["testbed"], value["model"], value["alignment"], number, theirs, name, _counted(row)]
            for row in ours.sort("variant", "arm", "seed").to_dicts()
            if _played_under(testbed, settings.get(tuple(row[key] for key in LINE)), wanted)
            and (name := ", ".join((row["variant"], row["arm"], f"seed {row['seed']}")))
        ]
    return rows


def _played_under(testbed: str, settings: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> bool:
    """Whether a variant's settings, with what they leave to the testbed, are known to be those that are wanted."""
    if not wanted or settings is None:
        return not wanted
    return wanted.items() <= TESTBEDS[testbed].settings(**settings).model_dump().items()
