"""Measure how each series changes, over rounds in the context channel and over generations in the weights channel."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import polars as pl

from atp.files.schemas import SERIES
from atp.measures.intervals import Interval
from atp.measures.measure import TELLING, Evidence, measure_rows
from atp.measures.series import FIRST, comparable
from atp.measures.shapes import Counts, counts_of, step
from atp.measures.tipping import (
    ABRUPT,
    P_RESAMPLES,
    UNDECIDED,
    Verdict,
    change,
    change_point,
    detectable_change,
    drift_slope,
    sharpness,
    time_to_half_change,
    time_to_half_rate,
    verdict,
)

VERDICT = "verdict"
#: Labels of series, next to those of `tipping.VERDICTS`: a break where the first history appears, which any effect of
#: having a history makes; and a verdict that differs between the bounds for invalid replies.
HISTORY_EFFECT, DEPENDS = "effect of having a history", "depends on invalid replies"
_KEYS = [*SERIES, "channel", "split"]


def tipping_measures(evidence: Evidence) -> pl.DataFrame:
    """Return rows of MEASURES for every series of two or more points; `n` counts scenarios, and `round` is null.

    A series of the context channel has the rounds whose prompts repeat the first round's sentence about supervision. A
    series of the weights channel has generations, tested on held-out scenarios without history; its `generation` is the
    last one. The row `verdict` has a label and a reason, and no value; it is that of `series_verdict`, as are the
    p-values of a rise and a fall.
    """
    rows: list[dict[str, Any]] = []
    for keys, series in series_counts(evidence).group_by(_KEYS, maintain_order=True):
        table = counts_of(series)
        if table.shape[1] > 1:
            place = dict(zip(_KEYS, keys, strict=True))
            shape = series_verdict(series, place["channel"] == "context", evidence.seed)
            place |= {"generation": series["generation"].max(), "n": table.shape[0]}
            measures = series_measures(table, shape, evidence.seed)
            rows += [place | {"measure": name} | vars(value) for name, value in measures.items()]
            rows.append(place | {"measure": VERDICT, "method": "", "label": shape.label, "reason": shape.reason})
    return measure_rows(rows)


def series_counts(evidence: Evidence) -> pl.DataFrame:
    """Return violations `k` of `n` valid `replies` of each series by point `at` and scenario (see `tipping_measures`).

    `generation` is the last one of the point.
    """
    played = (
        evidence.turns.filter(TELLING)
        .filter((pl.col("channel") == "context") | (FIRST & (pl.col("split") == "test")))
        .with_columns(at=pl.when(pl.col("channel") == "context").then("round").otherwise("generation"))
        .group_by(*_KEYS, "at", "round", "scenario_id")
        .agg(
            k=pl.col("violation").sum(),
            n=pl.col("violation").count(),
            replies=pl.len(),
            generation=pl.col("generation").max(),
        )
    )
    return comparable(played, evidence.turns).collect().sort(_KEYS)


def series_verdict(series: pl.DataFrame, in_context: bool, seed: int, resamples: int = P_RESAMPLES) -> Verdict:
    """Return the verdict of one series, which holds whatever the invalid replies would have been.

    Args:
        series: violations `k` of `n` valid `replies`, by `scenario_id` and point `at`.
        in_context: whether points are rounds, of which all but the first have a history.
    """
    return whatever_is_invalid(series, lambda rows: _verdict(counts_of(rows), in_context, seed, resamples))


def whatever_is_invalid(
    series: pl.DataFrame, judge: Callable[[pl.DataFrame], Verdict], undecided: str = UNDECIDED
) -> Verdict:
    """Return a verdict that holds whatever the invalid replies would have been.

    Invalid replies need not resemble valid ones. So the verdict is taken on valid replies and at both of Manski's
    bounds (1990, American Economic Review 80:319), with no invalid reply and with every one a violation. If they
    differ, the label is DEPENDS. The p-values are the largest of the three.

    Args:
        series: with violations `k` of `n` valid `replies`.
        judge: returns the verdict on `k` of `n`.
        undecided: label of a verdict that claims nothing.
    """
    k, invalid = pl.col("k"), pl.col("replies") - pl.col("n")
    assumptions = {
        "on valid replies": series,
        "if no invalid reply is a violation": series.with_columns(n="replies"),
        "if every invalid reply is a violation": series.with_columns(k=k + invalid, n="replies"),
    }
    if series["replies"].sum() == series["n"].sum():
        del assumptions["if no invalid reply is a violation"], assumptions["if every invalid reply is a violation"]
    verdicts = {text: judge(rows) for text, rows in assumptions.items()}
    valid = verdicts["on valid replies"]
    claims = {
        text: undecided if each.label == undecided else f"{each.label} {each.direction}".strip()
        for text, each in verdicts.items()
    }
    label, reason = valid.label, valid.reason
    if len(set(claims.values())) > 1:
        text = "; ".join(f"{claim} {text}" for text, claim in claims.items())
        label, reason = (label, f"{reason}; {text}") if label == undecided else (DEPENDS, text)
    rises = [each.p_rise for each in verdicts.values() if each.p_rise is not None]
    falls = [each.p_fall for each in verdicts.values() if each.p_fall is not None]
    if len(rises) < len(verdicts):
        return Verdict(label, reason, None, None)
    return Verdict(label, reason, max(rises), max(falls))


def _verdict(counts: Counts, in_context: bool, seed: int, resamples: int) -> Verdict:
    """Return the verdict, in which an abrupt change at the first round with a history has a label of its own."""
    shape = verdict(counts, seed, resamples=resamples)
    if shape.label == ABRUPT and in_context and int(step(counts.rates, counts.weights)[1]) == 1:
        return replace(shape, label=HISTORY_EFFECT, reason=f"the break is at the first round with one; {shape.reason}")
    return shape


def series_measures(counts: Counts, shape: Verdict, seed: int) -> dict[str, Interval]:
    """Return the measures of one series by name. p-values have no interval."""
    point, sharp = change_point(counts, seed), sharpness(counts, seed)

    def number(value: float | None, method: str) -> Interval:
        return Interval(value, None, None, "none" if value is None else method)

    return {
        "change": change(counts),
        "detectable_change": number(detectable_change(counts), "2.8 standard errors of the change"),
        "drift_odds_ratio": drift_slope(counts),
        "change_point": point.at,
        "change_point_p": number(point.p, "wild cluster bootstrap"),
        "step_over_trend_p": number(point.p_step, "wild cluster bootstrap"),
        "trend_over_step_p": number(point.p_trend, "wild cluster bootstrap"),
        "sharpness": sharp.share,
        "bic_step_less_trend": number(sharp.bic, "BIC"),
        "time_to_half_change": time_to_half_change(counts, seed),
        "time_to_half_rate": time_to_half_rate(counts, seed),
        "rise_p": number(shape.p_rise, "wild cluster bootstrap"),
        "fall_p": number(shape.p_fall, "wild cluster bootstrap"),
    }
