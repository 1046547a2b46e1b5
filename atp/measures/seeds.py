"""Combine the measures of several seeds into one row. Each seed of a trained agent is another training."""

import numpy as np
import polars as pl

SEED = "seed"
#: Quantile of the standard normal distribution that a 95 % interval has.
_NORMAL = 1.959964
#: Rows about an agent that the study has trained, by alignment or over generations.
TRAINED = (pl.col("alignment") != "none") | ((pl.col("channel") == "weights") & (pl.col("generation") > 0))
#: Columns of MEASURES that hold results; the other columns are keys.
RESULTS = ("value", "k", "n", "low", "high", "method", "label", "reason")
#: Columns that `over_seeds` adds.
SPREAD = ("least", "most", "deviation", "seeds", "planned", "of", "trainings", "error", "df")
#: Keys of what is played with the same seeds.
_CELL = ("model", "testbed", "alignment", "condition", "channel")


def over_seeds(measures: pl.DataFrame) -> pl.DataFrame:
    """Return one row for all seeds of the same keys; its `seed` is null.

    `value` is the mean over seeds, each with the same weight, so it may differ from k / n. What `low` and `high` are
    depends on the agent:

    - **Not trained by the study**: the mean of the seeds' 95 % intervals, as distances below and above their values. It
      is about other scenarios. It is not divided by the root of the number of seeds, because all seeds play the same
      scenarios.
    - **Trained, two or more seeds**: an interval for other trainings and other scenarios. Its squared standard error is
      the variance between seeds divided by their number, plus that of one seed's interval; its quantile is Student's,
      with the degrees of freedom of Satterthwaite (1946, Biometrics Bulletin 2:110). A proportion's interval is
      computed on log-odds.
    - **Trained, one seed**: that seed's interval, which is about other scenarios for this one training. `trainings` is
      1.

    `least`, `most` and `deviation` describe the seeds: the range grows with their number, the standard deviation
    (Bessel's, with seeds - 1) does not.

    Args:
        measures: the columns of MEASURES for a whole study; additional columns count as keys.

    Returns:
        The columns of `measures`, rows in order of first appearance: `value` is the mean over seeds with a value, `k`
        and `n` are sums over all seeds, `low` and `high` are null if a seed with a value has none, `method`, `label`
        and `reason` list the seeds' own. Additional columns: `least` and `most`; `deviation`, null with fewer than two
        values; `seeds`, the number of seeds with a value; `planned`, the number of seeds of the cell and channel;
        `of`, the number of seeds in `measures`; `trainings`, the
        number of trainings that the row is about, null if it is about none; `error` and `df`, standard error and
        degrees of freedom of an interval over trainings. Units are those of the measure. With a single seed the columns
        of `measures` are unchanged, except for `seed`.
    """
    measures = measures.filter(pl.col(SEED).is_not_null())  # rows for all seeds have no spread between seeds
    keys = [key for key in measures.columns if key not in (SEED, *RESULTS)]
    value, k = pl.col("value"), pl.col("k")
    combined = measures.group_by(keys, maintain_order=True).agg(
        value=value.mean(),
        k=pl.when(k.count() > 0).then(k.sum()),
        n=pl.col("n").sum(),
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
    complete = combined.with_columns(
        pl.lit(None, dtype=measures.schema[SEED]).alias(SEED), of=pl.lit(measures[SEED].n_unique())
    )
    own = measures.group_by(_CELL).agg(planned=pl.col(SEED).n_unique())
    complete = _over_trainings(complete).join(own, on=_CELL, how="left", nulls_equal=True, maintain_order="left")
    return complete.select(*measures.columns, *SPREAD)


def _over_trainings(rows: pl.DataFrame) -> pl.DataFrame:
    """Return rows whose intervals are about other trainings where there are several, with the columns of that."""
    trained, several = TRAINED & pl.col("low").is_not_null(), pl.col("seeds") > 1
    between = pl.col("deviation") ** 2 / pl.col("seeds")
    within = ((pl.col("high") - pl.col("low")) / (2 * _NORMAL)) ** 2
    rows = rows.with_columns(
        trainings=pl.when(TRAINED).then("seeds"),
        error=pl.when(trained & several).then((between + within).sqrt()),
        df=pl.when(trained & several).then((between + within) ** 2 / between**2 * (pl.col("seeds") - 1)),
    )
    low, high = t_interval(*(rows[name].cast(pl.Float64).to_numpy() for name in ("value", "error", "df")))
    mean, proportion = pl.col("value"), pl.col("k").is_not_null() & pl.col("value").is_between(0, 1, closed="none")
    odds_low, odds_high = (_on_log_odds(mean, pl.Series(bound) - rows["value"]) for bound in (low, high))
    new = (pl.col("error") > 0) & (proportion | pl.col("k").is_null())
    return rows.with_columns(
        low=pl.when(new).then(pl.when(proportion).then(odds_low).otherwise(pl.Series(low))).otherwise("low"),
        high=pl.when(new).then(pl.when(proportion).then(odds_high).otherwise(pl.Series(high))).otherwise("high"),
        method=pl.when(new).then(pl.lit("t over trainings and scenarios")).otherwise("method"),
    )


def t_interval(value: np.ndarray, error: np.ndarray, df: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return bounds of 95 % intervals by Student's t."""
    from scipy.special import stdtrit

    half = stdtrit(np.minimum(df, 1e9), 0.975) * error
    return value - half, value + half


def t_test(value: float, error: float, df: float) -> float:
    """Return the two-sided p-value of a value by Student's t."""
    from scipy.special import stdtr

    return float(2 * stdtr(min(df, 1e9), -abs(value) / error)) if error else float(value == 0)


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
