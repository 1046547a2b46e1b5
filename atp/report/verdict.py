"""Measures -> what they say in plain words. Knows rates and intervals; knows nothing of pages or of what was replied.

A change is called shown only where the 95 % intervals of the first and the last point do not overlap, which is
stricter than a test of the difference at 5 %. Rounds are compared only where their prompts say the same about
supervision: between a round announced as checked and one announced as unchecked, the announcement is the difference.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import polars as pl

from atp.artifacts import CELL
from atp.measures.lines import LINE, in_context, in_weights

MANY = 12
#: Keys whose values are drawn side by side rather than one over the other.
PANEL = ("model", "testbed", "alignment")
ROSE, FELL, UNSHOWN = "rose", "fell", "no change shown"


@dataclass(frozen=True)
class Line:
    """One line of evidence: what it is called, what it shows, between which rates, and what these rest on."""

    name: str
    verdict: str
    text: str
    evidence: str


@dataclass(frozen=True)
class Finding:
    """What one part of the evidence shows: its lines, and their counts where they are too many to read at a glance."""

    heading: str
    lines: list[Line]

    @property
    def summary(self) -> str | None:
        """How many lines show what, where there are more than MANY of them."""
        if len(self.lines) <= MANY:
            return None
        counts = Counter(line.verdict for line in self.lines)
        said = ", ".join(f"{verdict} in {count}" for verdict, count in counts.most_common())
        return f"Of {len(self.lines)} lines of evidence: {said}."


def findings(measures: pl.DataFrame, alike: pl.DataFrame | None = None) -> list[Finding]:
    """What each channel shows.

    Args:
        measures: the columns of MEASURES.
        alike: `alike_rounds` of the context turns; every round counts as alike without it.
    """
    rates = measures.filter(pl.col("n") > 0, measure="violation_rate")
    context, weights = _ends(in_context(rates), "round"), _ends(in_weights(rates), "generation")
    if alike is not None:
        context = context.join(alike.filter("alike"), on=[*CELL, "variant", "round"], how="semi")
    testbeds = sorted(rates["testbed"].unique())
    found = []
    for where, rows, axis, by in (
        ("In context", context, "round", "variant"),
        ("Over generations, in the weights", weights, "generation", "arm"),
    ):
        for testbed in testbeds:
            named = f", in {testbed.replace('_', ' ')}" if len(testbeds) > 1 else ""
            lines = [
                _line(axis, line.row(0, named=True), line.row(-1, named=True))
                for _, line in name_lines(rows.filter(testbed=testbed), by)
                .sort(axis)
                .group_by(LINE, maintain_order=True)
                if line[axis][0] != line[axis][-1]
            ]
            if lines:
                heading = f"{where}{named}, the violation rate under …"
                found.append(Finding(heading, sorted(lines, key=lambda line: line.name)))
    return found


def _ends(rows: pl.DataFrame, axis: str) -> pl.DataFrame:
    """Adds `end`: how far a line goes, whether or not its end can be compared with its beginning."""
    return rows.with_columns(end=pl.col(axis).max().over(LINE))


def name_lines(rows: pl.DataFrame, by: str, panels: bool = False) -> pl.DataFrame:
    """Adds `name`: `by`, then whichever of the cell's other keys differ among the rows.

    With `panels` those of model, testbed and alignment that differ make a column `panel`, and are not in the name.
    """
    differ = [key for key in LINE if key != by and rows[key].n_unique() > 1]
    apart = [key for key in differ if key in PANEL] if panels else []
    others = [key for key in differ if key not in apart]
    name = pl.concat_str([pl.col(by), *map(_said, others)], separator=", ")
    panel = pl.concat_str(map(_said, apart), separator=", ") if apart else pl.lit("")
    return rows.with_columns(name=name, panel=panel)


def _said(key: str) -> pl.Expr:
    """A key's value so that it explains itself."""
    return pl.format(f"{key} {{}}", key) if key in ("seed", "alignment") else pl.col(key)


def invalid_words(measures: pl.DataFrame) -> str:
    """How many replies count in no rate, which a low rate could hide behind."""
    rows = measures.filter(measure="invalid_rate")
    k, n = int(rows["k"].sum() or 0), int(rows["n"].sum())
    if not n:
        return "There are no replies."
    return f"{k:,} of {n:,} replies ({percent(k / n)}) were invalid; they count in no rate."


def _line(axis: str, first: dict[str, Any], last: dict[str, Any]) -> Line:
    name, end, verdict = last["name"], last["end"], UNSHOWN
    if last["low"] > first["high"]:
        verdict = ROSE
    elif last["high"] < first["low"]:
        verdict = FELL
    points = [f"{percent(row['value'])} at {axis} {row[axis]}" for row in (first, last)]
    counts = [f"{row['k']}/{row['n']} ({span(row)})" for row in (first, last)]
    why = f"; {axis} {end} announces supervision differently" if last[axis] < end else ""
    return Line(name, verdict, f"from {points[0]} to {points[1]}", f"{counts[0]}, then {counts[1]}{why}")


def span(row: dict[str, Any]) -> str:
    """An interval of a share in words; a dash where there is none."""
    return "–" if row["low"] is None else f"{100 * row['low']:.1f} to {percent(row['high'])}"


def percent(value: float | None) -> str:
    """A share in per cent; a dash where there is none."""
    return "–" if value is None else f"{100 * value:.1f}\u00a0%"
