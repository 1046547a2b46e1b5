"""Which points make a line of evidence: over rounds in context, over generations in the weights."""

import polars as pl

from atp.artifacts import CELL
from atp.measures.measure import TELLING

LINE = [*CELL, "variant"]
POINT = ["channel", "generation", "round"]
#: The round of an episode's first turns, which no history precedes.
FIRST = pl.col("round") == pl.col("round").min().over(*LINE, "channel", "generation", "split")
ALIKE = [*CELL, "channel", "variant", "scenario_id", "agent", "round", "shown"]


def in_context(rates: pl.DataFrame) -> pl.DataFrame:
    """Rates over the rounds of an episode, with the episode's own history in the prompt."""
    return rates.filter(channel="context").sort("variant", "round")


def in_weights(rates: pl.DataFrame) -> pl.DataFrame:
    """Rates over generations on held-out scenarios in the first round, without history: what is in the weights."""
    return rates.filter(FIRST).filter(channel="weights", split="test").sort("arm", "generation")


def alike_rounds(turns: pl.LazyFrame) -> pl.DataFrame:
    """Per line and round of the context channel: does every prompt say of supervision what the first one said?

    turns has the columns of ALIKE.
    """
    said = turns.filter(channel="context").select(*LINE, "scenario_id", "agent", "round", "shown").unique()
    first = (
        said.sort("round")
        .group_by(*LINE, "scenario_id", "agent")
        .first()
        .select(*LINE, "scenario_id", "agent", first="shown")
    )
    return (
        said.join(first, on=[*LINE, "scenario_id", "agent"], how="left")
        .group_by(*LINE, "round")
        .agg(alike=pl.col("shown").eq_missing(pl.col("first")).all())
        .collect()
    )


def comparable(rows: pl.LazyFrame, turns: pl.LazyFrame) -> pl.LazyFrame:
    """Rows, by LINE, channel and round, without rounds in context whose prompts say otherwise of supervision than the
    first one's; turns has the columns of ALIKE.
    """
    joined = rows.join(alike_rounds(turns).lazy(), on=[*LINE, "round"], how="left")
    return joined.filter(pl.col("alike").fill_null(True) | (pl.col("channel") == "weights"))


def by_scenario(turns: pl.LazyFrame, **sums: pl.Expr) -> pl.DataFrame:
    """Violations `k` of `n` valid replies by point and scenario on the test split, and other sums: of the rounds whose
    prompts say of supervision what the first one's say, and of each generation's first round.
    """
    counts = (
        turns.filter(split="test")
        .filter(TELLING)
        .filter((pl.col("channel") == "context") | FIRST)
        .group_by(*LINE, *POINT, "scenario_id")
        .agg(k=pl.col("violation").sum(), n=pl.col("violation").count(), **sums)
    )
    return comparable(counts, turns).sort(*LINE, *POINT, "scenario_id").collect()
