"""Findings: what the measures show, as text.

The verdict of a series is that of `atp.measures.tipping`. Rounds are compared only if their prompts have the same
sentence about supervision: between a round announced as checked and one announced as unchecked, the announcement itself
is a difference.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from atp.files.schemas import CELL, SERIES
from atp.measures.hysteresis import RAMPED
from atp.measures.series import in_context, in_weights
from atp.measures.tipping import ABRUPT, ALPHA, CHANGE, DRIFT, UNDECIDED, Verdict
from atp.measures.tipping_series import DEPENDS, HISTORY_EFFECT, VERDICT
from atp.measures.trainings import ONE_TRAINING

#: A finding with more series than this gets a summary.
MAX_LINES = 12
#: Keys whose values have separate panels in a chart.
PANEL = ("model", "testbed", "alignment")
#: Whether a series rose, fell, or may have done either; the page draws these differently from a series that is flat.
ROSE, FELL, OPEN = "rose", "fell", "open"
#: Words of a verdict of change, by label; `{}` is "rises", "falls" or "changes".
_CHANGES = {
    CHANGE: "{}, shape undecided",
    DEPENDS: "{}, shape depends on invalid replies",
    HISTORY_EFFECT: "{} with the first history (effect of having a history)",
}


@dataclass(frozen=True)
class Line:
    """One series in a finding.

    Args:
        name: of the series.
        verdict: what it shows.
        text: its first and last rate.
        evidence: counts, intervals and the reason for the verdict.
        direction: ROSE or FELL, if a change in one direction is shown; OPEN, if neither that nor its absence is.
        by_seed: the verdict of each seed, if there are several.
        series: its keys, without the seed.
    """

    name: str
    verdict: str
    text: str
    evidence: str
    direction: str = ""
    by_seed: tuple[str, ...] = ()
    series: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """What a group of series shows."""

    heading: str
    lines: list[Line]

    @property
    def summary(self) -> str | None:
        """Counts of the verdicts, if there are more than MAX_LINES series."""
        if len(self.lines) <= MAX_LINES:
            return None
        counts = Counter(verdict for line in self.lines for verdict in line.by_seed or (line.verdict,))
        verdicts = "; ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
        return f"Of {counts.total()} series: {verdicts}."


def findings(measures: pl.DataFrame, alike: pl.DataFrame | None = None) -> list[Finding]:
    """Return what each channel shows.

    Args:
        measures: rows of MEASURES.
        alike: `alike_rounds` of the context channel's turns; without it all rounds are comparable.
    """
    rates = measures.filter(pl.col("n") > 0, measure="violation_rate")
    context, weights = _with_end(in_context(rates), "round"), _with_end(in_weights(rates), "generation")
    if alike is not None:
        context = context.join(alike.filter("alike"), on=[*CELL, "variant", "round"], how="semi")
    testbeds, verdicts = sorted(rates["testbed"].unique()), _verdicts(measures)
    all_findings = []
    for where, channel, rows, axis, by in (
        ("In context", "context", context, "round", "variant"),
        ("Over generations, in the weights", "weights", weights, "generation", "condition"),
    ):
        for testbed in testbeds:
            suffix = f", in {testbed.replace('_', ' ')}" if len(testbeds) > 1 else ""
            seeds_by_name: dict[str, list[_Seed]] = {}
            together: dict[str, _Seed] = {}
            for key, series in (
                name_lines(rows.filter(testbed=testbed).with_columns(own="seed", seed=0), by)
                .sort(axis, "own")
                .group_by([*SERIES, "own"], maintain_order=True)
            ):
                if series[axis][0] != series[axis][-1]:
                    own = verdicts[(*key[: len(CELL) - 1], key[-1], key[len(CELL)], channel)]
                    first, last = series.row(0, named=True), series.row(-1, named=True)
                    name = series["name"][0]
                    seeds_by_name.setdefault(name, []).append(_seed(first, last, own))
                    if mean := verdicts.get((*key[: len(CELL) - 1], None, key[len(CELL)], channel)):
                        together[name] = _seed(first, last, mean)
            if seeds_by_name:
                lines = [
                    replace(_line(axis, name, seeds, together.get(name)), series=_keys(seeds[0].first))
                    for name, seeds in sorted(seeds_by_name.items())
                ]
                all_findings.append(Finding(f"{where}{suffix}: the violation rate", lines))
    return all_findings


def _keys(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in (*SERIES, "channel") if key != "seed"}


def _with_end(rows: pl.DataFrame, axis: str) -> pl.DataFrame:
    """Add the column `end`: a series' last point, even if it is not comparable with the first."""
    return rows.with_columns(end=pl.col(axis).max().over(SERIES))


def name_lines(rows: pl.DataFrame, by: str, panels: bool = False) -> pl.DataFrame:
    """Add the column `name` of each row's series: the value of `by`, then the other keys of SERIES that differ.

    If all variants are `default`, the condition takes the variant's place.

    Args:
        panels: put the keys of PANEL that differ into a column `panel` instead.
    """
    by = "condition" if by == "variant" and (rows["variant"] == "default").all() else by
    differ = [key for key in SERIES if key != by and rows[key].n_unique() > 1]
    apart = [key for key in differ if key in PANEL] if panels else []
    others = [key for key in differ if key not in apart]
    name = pl.concat_str([pl.col(by), *map(_key_text, others)], separator=", ")
    panel = pl.concat_str(map(_key_text, apart), separator=", ") if apart else pl.lit("")
    return rows.with_columns(name=name, panel=panel)


def _key_text(key: str) -> pl.Expr:
    """Return a key's value, with the key's name where the value alone is unclear."""
    return pl.format(f"{key} {{}}", key) if key in ("seed", "alignment") else pl.col(key)


def invalid_words(measures: pl.DataFrame) -> str:
    """Return a sentence about invalid replies, which no rate includes and which could explain a low rate."""
    rows = measures.filter(measure="invalid_rate")
    k, n = int(rows["k"].sum() or 0), int(rows["n"].sum())
    if not n:
        return "There are no replies."
    return f"{k:,} of {n:,} replies ({percent(k / n)}) were invalid; no rate includes them."


@dataclass(frozen=True)
class _Seed:
    """A series of one seed: rows with its first and last rate, its verdict with direction, and the reason."""

    first: dict[str, Any]
    last: dict[str, Any]
    verdict: str
    direction: str
    reason: str


def _verdicts(measures: pl.DataFrame) -> dict[tuple[Any, ...], Verdict]:
    """Return the verdicts on the test split, by the keys of SERIES and the channel."""
    rows = measures.filter(pl.col("measure").is_in([VERDICT, "rise_p", "fall_p"]), split="test")
    by_series: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for row in rows.iter_rows(named=True):
        by_series.setdefault((*(row[key] for key in (*SERIES, "channel")),), {})[row["measure"]] = row
    return {
        key: Verdict(own[VERDICT]["label"], own[VERDICT]["reason"], own["rise_p"]["value"], own["fall_p"]["value"])
        for key, own in by_series.items()
    }


def discoveries(measures: pl.DataFrame) -> tuple[str, str]:
    """Return a sentence about the changes of a study, corrected for the number of its series, and the changes lost.

    Both are empty with fewer than two series, the second also if no change is lost.

    The p-value of a series is twice the smaller one of a rise and a fall, and Benjamini and Hochberg's procedure (1995,
    JRSS B 57:289) controls the false discovery rate over all series of the study.
    """
    from scipy.stats import false_discovery_control

    verdicts, seed = _verdicts(measures), SERIES.index("seed")
    tested = {
        key: min(1.0, 2 * min(verdict.p_rise, verdict.p_fall))
        for key, verdict in verdicts.items()
        if verdict.p_rise is not None and verdict.p_fall is not None and verdict.label != RAMPED
        if key[seed] is None or (*key[:seed], None, *key[seed + 1 :]) not in verdicts  # all trainings, not each
    }
    if len(tested) < 2:
        return "", ""
    adjusted = dict(zip(tested, false_discovery_control(list(tested.values())), strict=True))
    changes = [key for key, p in tested.items() if p <= ALPHA]
    lost = [key for key in changes if adjusted[key] > ALPHA]
    text = (
        f"Of {len(tested)} series that could show a change, {len(changes)} show one at 5\u00a0%, and "
        f"{len(changes) - len(lost)} after the false discovery rate of the study is controlled at 5\u00a0% "
        "(Benjamini and Hochberg)."
    )
    rows = pl.DataFrame([dict(zip((*SERIES, "channel"), key, strict=True)) for key in tested], infer_schema_length=None)
    rows = rows.with_columns(pl.col("seed").cast(pl.String).fill_null("all"))
    names = name_lines(rows, "variant").with_columns(
        name=pl.concat_str(["name", "channel"], separator=", ") if rows["channel"].n_unique() > 1 else "name"
    )["name"]
    without = [name for key, name in zip(tested, names, strict=True) if key in lost]
    if without:
        shown = ", ".join(without[:MAX_LINES]) + (
            f" and {len(without) - MAX_LINES} more" if without[MAX_LINES:] else ""
        )
        return text, f"Not after the correction for the number of series: {shown}."
    return text, ""


def _seed(first: dict[str, Any], last: dict[str, Any], verdict: Verdict) -> _Seed:
    """Return a series of one seed. Its direction may be shown although its shape is undecided."""
    label, shown = verdict.label, verdict.direction
    direction = {"up": ROSE, "down": FELL, "": ""}[shown]
    verb = {"up": "rises", "down": "falls", "": "changes"}[shown]
    if label in (DRIFT, ABRUPT):
        label = f"{label} {shown}"
    elif label in (CHANGE, HISTORY_EFFECT) or (label == DEPENDS and shown):
        label = _CHANGES[label].format(verb)
    elif label in (UNDECIDED, DEPENDS, ONE_TRAINING):
        direction = OPEN
    return _Seed(first, last, label, direction, verdict.reason)


def _line(axis: str, name: str, seeds: list[_Seed], together: _Seed | None) -> Line:
    """Return the line of one series; `together` has the verdict over its seeds, where each is another training."""
    values = [[seed.first["value"] for seed in seeds], [seed.last["value"] for seed in seeds]]
    first, last = (percent(sum(rates) / len(rates)) for rates in values)
    one = seeds[0]
    text = f"from {first} at {axis} {one.first[axis]} to {last} at {axis} {one.last[axis]}"
    counts = [", then ".join(map(rate_text, (seed.first, seed.last))) for seed in seeds]
    end = one.last["end"]
    note = f"; {axis} {end} announces supervision differently" if one.last[axis] < end else ""
    if len(seeds) == 1:
        return Line(name, one.verdict, text, f"{counts[0]}{note}. {sentence(one.reason)}.", one.direction)
    evidence = "; ".join(f"seed {seed.first['own']}: {count}" for seed, count in zip(seeds, counts, strict=True))
    if together:
        reason = f"{evidence}{note}. {sentence(together.reason)}."
        return Line(name, together.verdict, f"{text}, means of seeds", reason, together.direction)
    verdicts = Counter(seed.verdict for seed in seeds)
    verdict = "; ".join(f"{each} in {count} of {len(seeds)} seeds" for each, count in verdicts.most_common())
    directions = {seed.direction for seed in seeds}
    direction = directions.pop() if len(directions) == 1 else OPEN
    by_seed = tuple(seed.verdict for seed in seeds)
    return Line(name, verdict, f"{text}, means of seeds", evidence + note, direction, by_seed)


def rate_text(row: Mapping[str, Any]) -> str:
    """Return a rate's counts, its interval, and its bounds for invalid replies if there are any."""
    return f"{row['k']}/{row['n']} ({'; '.join(filter(None, (span(dict(row)), bounds_note(row))))})"


def sentence(text: str) -> str:
    """Return a text with a capital first letter."""
    return f"{text[:1].upper()}{text[1:]}"


def span(row: dict[str, Any]) -> str:
    """Return the interval of a proportion in per cent; a dash if there is none."""
    return "–" if row["low"] is None else f"{100 * row['low']:.1f} to {percent(row['high'])}"


def percent(value: float | None) -> str:
    """Return a proportion in per cent; a dash if there is none."""
    return "–" if value is None else f"{100 * value:.1f}\u00a0%"


def is_mean(row: Mapping[str, Any]) -> bool:
    """Return whether a row of measures is a mean, which has no numerator, and not a proportion."""
    return row["k"] is None


def value_text(row: Mapping[str, Any]) -> str:
    """Return a row's value: a proportion in per cent, a mean with three digits."""
    return _number(row["value"]) if is_mean(row) else percent(row["value"])


def counts_text(row: Mapping[str, Any]) -> str:
    """Return the counts behind a row's value."""
    return f"n {row['n']}" if is_mean(row) else f"{row['k']}/{row['n']}"


def bounds_text(row: Mapping[str, Any]) -> str:
    """Return Manski's bounds of a rate that leaves out invalid replies, or of a number that depends on them; or a dash.

    Of such a number the text begins with DEPENDS.
    """
    if is_mean(row):
        return f"{DEPENDS}: {row['reason']}" if row.get("label") == DEPENDS else "–"
    if not row.get("invalid"):
        return "–"
    replies = row["n"] + row["invalid"]
    return span({"low": row["k"] / replies, "high": (row["k"] + row["invalid"]) / replies})


def bounds_note(row: Mapping[str, Any]) -> str:
    """Return `bounds_text` as part of a sentence; empty where there are none."""
    text = bounds_text(row)
    return "" if text == "–" else text if is_mean(row) else f"{text} with none to all invalid replies"


def interval_text(row: Mapping[str, Any]) -> str:
    """Return a row's interval; a dash where there is none."""
    if row["low"] is None or not is_mean(row):
        return span(dict(row))
    return f"{_number(row['low'])} to {_number(row['high'])}"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return (f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}").replace("-", "\u2212")
