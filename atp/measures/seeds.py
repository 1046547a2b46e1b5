"""Combine the measures of several seeds into one row, with separate spreads between seeds and within a seed."""

import polars as pl

SEED = "seed"
#: Columns of MEASURES that hold results; the other columns are keys.
RESULTS = ("value", "k", "n", "invalid", "low", "high", "method", "label", "reason")


def over_seeds(measures: pl.DataFrame) -> pl.DataFrame:
    """Return one row for all seeds of the same keys; its `seed` is null.

    Two spreads are reported separately, because they measure different sources of variation:

    - **Between seeds** (`least`, `most`, `deviation`): training and sampling repeated with other random numbers on the
      same scenarios; says nothing about other scenarios. The range from smallest to largest value is not an interval,
      and it grows with the number of seeds. The standard deviation (Bessel's, with seeds - 1) does not.
    - **Within a seed** (`low`, `high`): other scenarios could have been drawn; says nothing about another training run.
      It is the average of the seeds' 95 % intervals, as distances below and above their values, so it is as wide as one
      seed's. It is not divided by the root of the number of seeds, because all seeds play the same scenarios.

    Chance in sampling replies affects both, so they are not added, and no interval of the mean is computed. The mean
    gives every seed the same weight, however many valid replies it has, so it may differ from k / n.

    Args:
        measures: the columns of MEASURES for a whole study; additional columns count as keys.

    Returns:
        The columns of `measures`, rows in order of first appearance: `value` is the mean over seeds with a value, `k`
        and `n` are sums over all seeds, `low` and `high` are means of the seeds' bounds (null if a seed with a value
        has none), `method`, `label` and `reason` list the seeds' own. Additional columns: `least` and `most`;
        `deviation`, null with fewer than two values; `seeds`, the number of seeds with a value; `of`, the number of
        seeds in `measures`. Units are those of the measure. With a single seed the columns of `measures` are unchanged,
        except for `seed`.
    """
    measures = measures.filter(pl.col(SEED).is_not_null())  # rows for all seeds have no spread between seeds
    keys = [key for key in measures.columns if key not in (SEED, *RESULTS)]
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
    complete = combined.with_columns(
        pl.lit(None, dtype=measures.schema[SEED]).alias(SEED), of=pl.lit(measures[SEED].n_unique())
    )
    return complete.select(*measures.columns, "least", "most", "deviation", "seeds", "of")


def _list_of(column: str) -> pl.Expr:
    """Return the distinct texts of a column, joined by commas; null if there are none."""
    texts = pl.col(column).drop_nulls().unique().sort()
    return pl.when(texts.len() > 0).then(texts.str.join(", "))


def _mean_bound(bound: str) -> pl.Expr:
    """Return the mean of a bound; null if a seed with a value lacks it, for example because it was not observed."""
    bounds = pl.col(bound).filter(pl.col("value").is_not_null())
    return pl.when(bounds.null_count() == 0).then(bounds.mean())
