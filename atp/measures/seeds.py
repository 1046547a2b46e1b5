"""Combine the measures of several seeds into one row. Each seed of a trained agent is another training."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from atp.files.schemas import GIVEN

SEED = "seed"
#: Quantile of the standard normal distribution that a 95 % interval has.
NORMAL = 1.959964
#: Rows of agents that the study has trained before deployment.
ALIGNED_HERE = (pl.col("alignment") != "none") & ~pl.col("alignment").str.starts_with(GIVEN)
#: Rows about an agent that the study has trained, by alignment or over generations.
TRAINED = ALIGNED_HERE | ((pl.col("channel") != "context") & (pl.col("generation") > 0))
#: Columns of MEASURES that hold results; the other columns are keys.
RESULTS = ("value", "k", "n", "invalid", "low", "high", "method", "label", "reason")
#: Columns that `over_seeds` adds.
SPREAD = ("least", "most", "deviation", "seeds", "planned", "of", "trainings", "between", "within")
#: Those of them that an interval over trainings is computed from.
SPREAD_OF_MEAN = ("between", "within", "seeds")
#: Measures that are differences of rates, and differences of such differences.
_DIFFERENCES = (
    *(
        "change",
        "change_in_condition",
        "change_in_baseline",
        "change_from_start",
        "memory_effect",
        "repair_gap",
        "change_before_reset",
        "change_after_reset",
    ),
    *("end_difference", "alignment_gap", "below_unaligned_start", "unseen_minus_seen_templates", "reinforcement"),
    *("recollude", "loop_area", "loop_area_of_control", "change_after_ramp", "change_after_ramp_of_control"),
)
_OF_DIFFERENCES = (
    *("alignment_gap_change", "change_removed", "loop_area_over_control", "change_after_ramp_over_control"),
)
#: Keys of what is played with the same seeds.
_CELL = ("model", "testbed", "alignment", "condition", "channel")


def over_seeds(measures: pl.DataFrame) -> pl.DataFrame:
    """Return one row for all seeds of the same keys; its `seed` is null.

    `value` is the mean over seeds, each with the same weight, so it may differ from k / n. What `low` and `high` are
    depends on the agent:

    - **Not trained by the study**: the mean of the seeds' 95 % intervals, as distances below and above their values. It
      is about other scenarios. It is not divided by the root of the number of seeds, because all seeds play the same
      scenarios.
    - **Trained, two or more seeds**: an interval for other trainings and other scenarios. Half of its width is the root
      of the sum of two squares (Zou and Donner 2008, Statistics in Medicine 27:1693): of Student's t with seeds - 1
      degrees of freedom times the standard error of the mean over seeds, and of half of one seed's interval. A
      proportion's interval is computed on log-odds; other intervals are cut at the limits of their measure.
    - **Trained, one seed**: that seed's interval, which is about other scenarios for this one training. `trainings` is
      1.

    `least`, `most` and `deviation` describe the seeds: the range grows with their number, the standard deviation
    (Bessel's, with seeds - 1) does not.

    Args:
        measures: the columns of MEASURES for a whole study; additional columns count as keys.

    Returns:
        The columns of `measures`, rows in order of first appearance: `value` is the mean over seeds with a value, `k`
        and `n` are sums over all seeds, `low` and `high` are null if a seed with a value has none, `method` lists the
        seeds' own, as do `label` and `reason` if `measures` has no row for all seeds. Additional columns: `least` and
        `most`; `deviation`, null with fewer than two values; `seeds`, the number of seeds with a value; `planned`, the
        number of seeds of the cell and channel; `of`, the number of seeds in `measures`; `trainings`, the number of
        trainings that the row is about, null if it is about none; `between` and `within`, of an interval over trainings
        the standard errors of the mean over seeds and of one seed's value. Units are those of the measure. With a
        single seed the columns of `measures` are unchanged, except for `seed`.
    """
    keys = [key for key in measures.columns if key not in (SEED, *RESULTS)]
    judged = measures.filter(pl.col(SEED).is_null()).select(*keys, together=pl.struct("label", "reason"))
    measures = measures.filter(pl.col(SEED).is_not_null())  # rows for all seeds have no spread between seeds
    value, k = pl.col("value"), pl.col("k")
    combined = measures.group_by(keys, maintain_order=True).agg(
        value=value.mean(),
        k=pl.when(k.count() > 0).then(k.sum()),
        n=pl.col("n").sum(),
        invalid=pl.when(pl.col("invalid").count() > 0).then(pl.col("invalid").sum()),
        low=_mean_bound("low"),
        high=_mean_bound("high"),
        method=_list_of("method"),
        label=_list_of("label"),
        reason=_list_of("reason"),
        least=value.min(),
        most=value.max(),
        deviation=value.std(ddof=1),
        seeds=value.count(),
    )
    if len(judged):
        combined = combined.join(judged, on=keys, how="left", nulls_equal=True, maintain_order="left").with_columns(
            pl.when(pl.col("together").is_null()).then(name).otherwise(pl.col("together").struct[name]).alias(name)
            for name in ("label", "reason")
        )
    complete = combined.with_columns(
        pl.lit(None, dtype=measures.schema[SEED]).alias(SEED), of=pl.lit(measures[SEED].n_unique())
    )
    own = measures.group_by(_CELL).agg(planned=pl.col(SEED).n_unique())
    complete = _over_trainings(complete).join(own, on=_CELL, how="left", nulls_equal=True, maintain_order="left")
    return complete.select(*measures.columns, *SPREAD)


def add_means(rows: pl.DataFrame) -> pl.DataFrame:
    """Return rows of MEASURES and, of cells with several seeds, those of `over_seeds`, whose seed is null."""
    return pl.concat([rows, over_seeds(rows).filter(pl.col("planned") > 1).select(rows.columns)])


def at_level(row: Mapping[str, Any], level: float) -> tuple[float, float]:
    """Return a row's 95 % interval at another level: the distances of its bounds change as those of its t or z do.

    Args:
        row: of `over_seeds`, or of one seed.
    """
    between, within, seeds = (row.get(name) or other for name, other in zip(SPREAD_OF_MEAN, (0.0, 1.0, 1), strict=True))
    value, is_proportion = row["value"], row.get("k") is not None
    half, half_of_95 = (float(half_width(between, within, seeds, each_level)) for each_level in (level, 0.95))
    low, high = value - half / half_of_95 * (value - row["low"]), value + half / half_of_95 * (row["high"] - value)
    if between and not is_proportion:  # the row's own ends may be cut
        low, high = value - half, value + half
    lowest, highest = limits(row.get("measure", ""), is_proportion)
    return max(low, lowest), min(high, highest)


def limits(measure: str, is_proportion: bool) -> tuple[float, float]:
    """Return the smallest and the largest possible value of a measure."""
    if is_proportion or measure == "p_violation":
        return 0.0, 1.0
    if measure in (*_DIFFERENCES, *_OF_DIFFERENCES):
        return (-1.0, 1.0) if measure in _DIFFERENCES else (-2.0, 2.0)
    return (0.0 if measure.endswith("odds_ratio") else -np.inf), np.inf


def _over_trainings(rows: pl.DataFrame) -> pl.DataFrame:
    """Return rows whose intervals are about other trainings where there are several, with the columns of that."""
    several = TRAINED & pl.col("low").is_not_null() & (pl.col("seeds") > 1)
    rows = rows.with_columns(
        trainings=pl.when(TRAINED).then("seeds"),
        between=pl.when(several).then(pl.col("deviation") / pl.col("seeds").sqrt()),
        within=pl.when(several).then((pl.col("high") - pl.col("low")) / (2 * NORMAL)),
    )
    if not rows["between"].count():
        return rows
    between, within, seeds = (rows[name].cast(pl.Float64).to_numpy() for name in SPREAD_OF_MEAN)
    half = pl.Series(half_width(between, within, seeds)).fill_nan(None)
    value, count = pl.col("value"), pl.col("k")
    inside = count.is_not_null() & value.is_between(0, 1, closed="none")
    new = (half > 0) & (inside | count.is_null())
    pairs = [limits(*pair) for pair in rows.select("measure", count.is_not_null()).iter_rows()]
    limit = [pl.Series(ends, dtype=pl.Float64) for ends in zip(*pairs, strict=True)]
    bounds = {
        name: pl.when(new & inside)
        .then(_on_log_odds(value, end))
        .when(new)
        .then((value + end).clip(*limit))
        .otherwise(name)
        for name, end in (("low", -half), ("high", half))
    }
    return rows.with_columns(
        **bounds, method=pl.when(new).then(pl.lit("t over trainings and scenarios")).otherwise("method")
    )


def half_width(between: Any, within: Any, seeds: Any, level: float = 0.95) -> Any:
    """Return half of the width of an interval over trainings and scenarios, from numbers or arrays.

    Args:
        between: standard error of the mean over seeds.
        within: standard error of one seed's value over scenarios.
    """
    from scipy.special import ndtri, stdtrit

    tail = (1 + level) / 2
    return np.hypot(stdtrit(np.maximum(seeds - 1, 1), tail) * between, ndtri(tail) * within)


def t_test(value: float, between: float, within: float, seeds: int) -> float:
    """Return the two-sided p-value: 1 - the level of the interval (see `half_width`) that ends at 0."""
    from scipy.optimize import brentq

    def excess(p: float) -> float:
        return float(half_width(between, within, seeds, 1 - p)) - abs(value)

    smallest = 1e-12
    if excess(smallest) <= 0:
        return smallest if value else 1.0
    return float(brentq(excess, smallest, 1.0)) if value else 1.0


def _on_log_odds(rate: pl.Expr, distance: pl.Series) -> pl.Expr:
    """Return a rate's bound at a distance that is added to its log-odds, in units of their slope at the rate."""
    log_odds = (rate / (1 - rate)).log() + distance / (rate * (1 - rate))
    return 1 / (1 + (-log_odds).exp())


def _list_of(column: str) -> pl.Expr:
    """Return the distinct texts of a column, joined by commas; null if there are none."""
    texts = pl.col(column).drop_nulls().unique().sort()
    return pl.when(texts.len() > 0).then(texts.str.join(", "))


def _mean_bound(bound: str) -> pl.Expr:
    """Return the mean of a bound; null if a seed with a value lacks it, for example because it was not observed."""
    bounds = pl.col(bound).filter(pl.col("value").is_not_null())
    return pl.when(bounds.null_count() == 0).then(bounds.mean())
