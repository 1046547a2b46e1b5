"""Measures -> what they say in plain words. Knows rates and verdicts; knows nothing of pages or of what was replied.

What a line shows is the verdict of `atp/measures/tipping.py`. Rounds are compared only where their prompts say the same
about supervision: between a round announced as checked and one announced as unchecked, the announcement is the
difference.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from atp.artifacts import CELL
from atp.measures.lines import LINE, in_context, in_weights
from atp.measures.tipping import ALPHA, DRIFT, TIPPING, UNDECIDED
from atp.measures.tipping_lines import VERDICT

MANY = 12
#: Keys whose values are drawn side by side rather than one over the other.
PANEL = ("model", "testbed", "alignment")
ROSE, FELL = "rose", "fell"


@dataclass(frozen=True)
class Line:
    """One line of evidence: what it is called, what it shows, between which rates, what these rest on, and whether it
    ROSE or FELL, where it is shown to. by_seed holds each seed's verdict where there are several.
    """

    name: str
    verdict: str
    text: str
    evidence: str
    way: str = ""
    by_seed: tuple[str, ...] = ()


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
        counts = Counter(verdict for line in self.lines for verdict in line.by_seed or (line.verdict,))
        said = "; ".join(f"{verdict} in {count}" for verdict, count in counts.most_common())
        return f"Of {counts.total()} lines of evidence: {said}."


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
    testbeds, said = sorted(rates["testbed"].unique()), _said_of(measures)
    found = []
    for where, channel, rows, axis, by in (
        ("In context", "context", context, "round", "variant"),
        ("Over generations, in the weights", "weights", weights, "generation", "arm"),
    ):
        for testbed in testbeds:
            named = f", in {testbed.replace('_', ' ')}" if len(testbeds) > 1 else ""
            lines: dict[str, list[_Seed]] = {}
            for key, line in (
                name_lines(rows.filter(testbed=testbed).with_columns(own="seed", seed=0), by)
                .sort(axis, "own")
                .group_by([*LINE, "own"], maintain_order=True)
            ):
                if line[axis][0] != line[axis][-1]:
                    shown = said[(*key[: len(CELL) - 1], key[-1], key[len(CELL)], channel)]
                    ends = (line.row(0, named=True), line.row(-1, named=True))
                    lines.setdefault(line["name"][0], []).append(_Seed(*ends, *_shown(*ends, shown)))
            if lines:
                heading = f"{where}{named}: the violation rate"
                made = [_line(axis, name, seeds) for name, seeds in sorted(lines.items())]
                found.append(Finding(heading, made))
    return found


def _ends(rows: pl.DataFrame, axis: str) -> pl.DataFrame:
    """Adds `end`: how far a line goes, whether or not its end can be compared with its beginning."""
    return rows.with_columns(end=pl.col(axis).max().over(LINE))


def name_lines(rows: pl.DataFrame, by: str, panels: bool = False) -> pl.DataFrame:
    """Adds `name`: `by` (the arm, where there is no variant but `default`), then whichever of the cell's other keys
    differ among the rows.

    With `panels` those of model, testbed and alignment that differ make a column `panel`, and are not in the name.
    """
    by = "arm" if by == "variant" and (rows["variant"] == "default").all() else by
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


@dataclass(frozen=True)
class _Seed:
    """A line of one seed: rows of its first and last rate, its verdict, which way it went if that is shown, and why."""

    first: dict[str, Any]
    last: dict[str, Any]
    verdict: str
    way: str
    why: str


def _said_of(measures: pl.DataFrame) -> dict[tuple[Any, ...], dict[str, dict[str, Any]]]:
    """The verdict and its p-values, by LINE and the channel; of held-out scenarios in the weights."""
    rows = measures.filter(pl.col("measure").is_in([VERDICT, "rise_p", "fall_p"]), split="test")
    found: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for row in rows.iter_rows(named=True):
        found.setdefault((*(row[key] for key in (*LINE, "channel")),), {})[row["measure"]] = row
    return found


def _shown(
    first: Mapping[str, Any], last: Mapping[str, Any], said: Mapping[str, Mapping[str, Any]]
) -> tuple[str, str, str]:
    """(verdict, way, why) of a line. Where its shape is undecided, which way it goes may be shown all the same."""
    word, _, why = said[VERDICT]["method"].partition(": ")
    why = re.sub(r"^from [\d.]+ % to [\d.]+ %[,;] ", "", why)  # which the line says itself
    rises, falls = (
        (said[name]["value"] is not None and said[name]["value"] <= ALPHA / 2) for name in ("rise_p", "fall_p")
    )
    if word in (DRIFT, TIPPING):
        up = last["value"] > first["value"]
        return f"{word} {'up' if up else 'down'}", ROSE if up else FELL, why
    if word == UNDECIDED and rises != falls:
        return f"{'rises' if rises else 'falls'}, drift or tipping undecided", ROSE if rises else FELL, why
    return word, "", why


def _line(axis: str, name: str, seeds: list[_Seed]) -> Line:
    values = [[seed.first["value"] for seed in seeds], [seed.last["value"] for seed in seeds]]
    first, last = (percent(sum(rates) / len(rates)) for rates in values)
    one = seeds[0]
    text = f"from {first} at {axis} {one.first[axis]} to {last} at {axis} {one.last[axis]}"
    counts = [
        ", then ".join(f"{row['k']}/{row['n']} ({span(row)})" for row in (seed.first, seed.last)) for seed in seeds
    ]
    end = one.last["end"]
    noted = f"; {axis} {end} announces supervision differently" if one.last[axis] < end else ""
    if len(seeds) == 1:
        return Line(name, one.verdict, text, f"{counts[0]}{noted}. {sentence(one.why)}.", one.way)
    verdicts = Counter(seed.verdict for seed in seeds)
    word = "; ".join(f"{verdict} in {count} of {len(seeds)} seeds" for verdict, count in verdicts.most_common())
    ways = {seed.way for seed in seeds}
    way = ways.pop() if len(ways) == 1 else ""
    evidence = "; ".join(f"seed {seed.first['own']}: {count}" for seed, count in zip(seeds, counts, strict=True))
    return Line(name, word, f"{text}, means of seeds", evidence + noted, way, tuple(seed.verdict for seed in seeds))


def sentence(text: str) -> str:
    """A text with a capital letter."""
    return f"{text[:1].upper()}{text[1:]}"


def span(row: dict[str, Any]) -> str:
    """An interval of a share in words; a dash where there is none."""
    return "–" if row["low"] is None else f"{100 * row['low']:.1f} to {percent(row['high'])}"


def percent(value: float | None) -> str:
    """A share in per cent; a dash where there is none."""
    return "–" if value is None else f"{100 * value:.1f}\u00a0%"
