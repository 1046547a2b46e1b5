"""Turns -> how each line of evidence changes: over rounds in context, over generations in the weights."""

from typing import Any

import polars as pl

from atp.artifacts import MEASURES
from atp.measures.intervals import Interval
from atp.measures.lines import FIRST, LINE, comparable
from atp.measures.measure import TELLING
from atp.measures.shapes import Counts, count
from atp.measures.tipping import (
    change,
    change_point,
    drift_slope,
    sharpness,
    time_to_half_change,
    time_to_half_rate,
    verdict,
)

VERDICT = "verdict"
_KEYS = [*LINE, "channel", "split"]


def tipping_measures(turns: pl.LazyFrame, seed: int) -> pl.DataFrame:
    """Rows of MEASURES for every line of two points or more; n counts scenarios, and round is null.

    A line in context is of the rounds whose prompts say of supervision what the first one's say; one in the weights of
    held-out scenarios without history, and its generation is the last. `method` of the row `verdict` holds the verdict,
    a colon, and why. turns has the columns of `rates.scan_turns`.
    """
    played = (
        turns.filter(TELLING)
        .filter((pl.col("channel") == "context") | (FIRST & (pl.col("split") == "test")))
        .with_columns(at=pl.when(pl.col("channel") == "context").then("round").otherwise("generation"))
        .group_by(*_KEYS, "at", "round", "scenario_id")
        .agg(k=pl.col("violation").sum(), n=pl.col("violation").count(), generation=pl.col("generation").max())
    )
    counts = comparable(played, turns).collect()
    rows: list[dict[str, Any]] = []
    for keys, line in counts.sort(_KEYS).group_by(_KEYS, maintain_order=True):
        found = _counts(line)
        if found.shape[1] > 1:
            place = dict(zip(_KEYS, keys, strict=True)) | {"generation": line["generation"].max(), "n": found.shape[0]}
            rows += [place | {"measure": name} | vars(value) for name, value in line_measures(found, seed).items()]
    return pl.DataFrame(rows, schema=pl.DataFrame(MEASURES.empty_table()).schema)


def line_measures(counts: Counts, seed: int) -> dict[str, Interval]:
    """The measures of one line by name, the verdict last. p-values have no interval."""
    point, sharp, said = change_point(counts, seed), sharpness(counts, seed), verdict(counts, seed)
    assert point is not None

    def number(value: float | None, method: str) -> Interval:
        return Interval(value, None, None, "none" if value is None else method)

    return {
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
        "rise_p": number(said.p_rise, "wild cluster bootstrap"),
        "fall_p": number(said.p_fall, "wild cluster bootstrap"),
        VERDICT: Interval(None, None, None, f"{said.word}: {said.why}"),
    }


def _counts(line: pl.DataFrame) -> Counts:
    """Counts of a line's rows: scenarios by points, 0 of 0 where a scenario was not played."""
    points = line["at"].unique().sort()
    tables = [
        line.pivot("at", index="scenario_id", values=values, aggregate_function="sum")
        .sort("scenario_id")
        .select(pl.col(str(at)).fill_null(0) for at in points)
        .to_numpy()
        for values in ("k", "n")
    ]
    return count(tables[0], tables[1], points.to_numpy())
