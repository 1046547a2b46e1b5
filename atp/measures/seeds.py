"""Several seeds of one cell as one row, with what differs between seeds apart from what is uncertain within each.

Knows the columns of MEASURES; knows neither games nor what a measure says.
"""

import polars as pl

SEED = "seed"
#: What a row of MEASURES says; its other columns say what that is of.
SAID = ("value", "k", "n", "low", "high", "method")


def over_seeds(measures: pl.DataFrame) -> pl.DataFrame:
    """One row for all seeds of what is else the same; `seed` is null in it, as `round` is in what is of all rounds.

    Two spreads stand apart, because they are evidence of two things, and neither holds the other:

    - **between seeds** (`least`, `most`, `deviation`): what comes of training and sampling again with other random
      numbers, on the same scenarios. It says nothing of other scenarios. The smallest and the largest value are all
      there is to see of three seeds, and no interval; they lie further apart the more seeds there are. The standard
      deviation does not grow so; it is Bessel's (the sum of squares over seeds - 1).
    - **within a seed** (`low`, `high`): other scenarios could have been drawn. It is the average of the seeds' own
      95 % intervals, as widths below and above their values, so it is as wide as that of one seed. It is not divided
      by the root of the number of seeds: all seeds play the same scenarios, so that more seeds do not make these more.
      It says nothing of a training that might have gone another way.

    The chance in sampling replies is in both. So they are not added up, and no interval of the mean is made of them.
    The mean gives every seed the same weight, however many of its replies are valid, since seeds are what was repeated;
    so it may differ from k / n.

    Args:
        measures: the columns of MEASURES, of a whole study; other columns count as keys.

    Returns:
        The columns of `measures`, in the order of first appearance: `value` the mean over seeds that have one, `k` and
        `n` sums over all, `low` and `high` the means of the seeds' bounds (null where a seed with a value has
        none), `method` the seeds' methods. Then `least` and `most`; `deviation`, null with fewer than
        two values; `seeds`, how many have a value; `of`, how many `measures` has. Units are those of the measure. With
        one seed the first columns are as they were, but for `seed`.
    """
    measures = measures.filter(pl.col(SEED).is_not_null())  # what is of all seeds already has no spread between them
    keys = [key for key in measures.columns if key not in (SEED, *SAID)]
    value, k = pl.col("value"), pl.col("k")
    found = measures.group_by(keys, maintain_order=True).agg(
        value=value.mean(),
        k=pl.when(k.count() > 0).then(k.sum()),
        n=pl.col("n").sum(),
        low=_moved("low"),
        high=_moved("high"),
        method=pl.col("method").unique().sort().str.join(", "),
        least=value.min(),
        most=value.max(),
        deviation=value.std(ddof=1),
        seeds=value.count(),
    )
    whole = found.with_columns(
        pl.lit(None, dtype=measures.schema[SEED]).alias(SEED), of=pl.lit(measures[SEED].n_unique())
    )
    return whole.select(*measures.columns, "least", "most", "deviation", "seeds", "of")


def _moved(bound: str) -> pl.Expr:
    """The mean of a bound. None where a seed with a value lacks it, as where it lies beyond what was seen."""
    having = pl.col(bound).filter(pl.col("value").is_not_null())
    return pl.when(having.null_count() == 0).then(having.mean())
