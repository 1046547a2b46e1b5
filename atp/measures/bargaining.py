"""Measures of group bargaining: violations of those who are more, and of those who are fewer."""

import polars as pl

from atp.measures.measure import VIOLATED, Measure, Rows

TESTBED = "bargaining"
SIDES = {"majority": "violation_rate_majority", "minority": "violation_rate_minority"}


def proposals(turns: pl.LazyFrame) -> pl.LazyFrame:
    """Turns, with the `side` of who proposes: majority, minority, or even."""
    return turns.with_columns(side=pl.col("details").map.get("side")).drop("details")


MEASURES = (
    Rows(
        proposals,
        tuple(
            Measure(name, VIOLATED, VIOLATED.is_not_null() & (pl.col("side") == side)) for side, name in SIDES.items()
        ),
    ),
)
