"""Measure how each series changes, over rounds in the context channel and over generations in the weights channel."""

from typing import Any

import polars as pl

from atp.files.schemas import SERIES
from atp.measures.intervals import Interval
from atp.measures.measure import TELLING, Evidence, measure_rows
from atp.measures.series import FIRST, comparable
from atp.measures.shapes import Counts, counts_of
from atp.measures.tipping import (
    Verdict,
    change,
    change_point,
    drift_slope,
    sharpness,
    time_to_half_change,
    time_to_half_rate,
    verdict,
)

VERDICT = "verdict"
_KEYS = [*SERIES, "channel", "split"]


def tipping_measures(evidence: Evidence) -> pl.DataFrame:
    """Return rows of MEASURES for every series of two or more points; `n` counts scenarios, and `round` is null.

    A series of the context channel has the rounds whose prompts repeat the first round's sentence about supervision. A
    series of the weights channel has generations, tested on held-out scenarios without history; its `generation` is the
    last one. The row `verdict` has a label and a reason, and no value.
    """
    played = (
        evidence.turns.filter(TELLING)
        .filter((pl.col("channel") == "context") | (FIRST & (pl.col("split") == "test")))
        .with_columns(at=pl.when(pl.col("channel") == "context").then("round").otherwise("generation"))
        .group_by(*_KEYS, "at", "round", "scenario_id")
        .agg(k=pl.col("violation").sum(), n=pl.col("violation").count(), generation=pl.col("generation").max())
    )
    counts = comparable(played, evidence.turns).collect()
    rows: list[dict[str, Any]] = []
    for keys, series in counts.sort(_KEYS).group_by(_KEYS, maintain_order=True):
        table = counts_of(series)
        if table.shape[1] > 1:
            place = dict(zip(_KEYS, keys, strict=True))
            place |= {"generation": series["generation"].max(), "n": table.shape[0]}
            measures, shape = series_measures(table, evidence.seed)
            rows += [place | {"measure": name} | vars(value) for name, value in measures.items()]
            rows.append(place | {"measure": VERDICT, "method": "", "label": shape.label, "reason": shape.reason})
    return measure_rows(rows)


def series_measures(counts: Counts, seed: int) -> tuple[dict[str, Interval], Verdict]:
    """Return the measures of one series by name, and its verdict. p-values have no interval."""
    point, sharp, shape = change_point(counts, seed), sharpness(counts, seed), verdict(counts, seed)

    def number(value: float | None, method: str) -> Interval:
        return Interval(value, None, None, "none" if value is None else method)

    measures = {
        "change": change(counts, seed),
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
    return measures, shape
