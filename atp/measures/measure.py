"""What a measure is: how rows that turns make add up to a number. Knows turns' columns."""

from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

from atp.artifacts import CELL, REPLAYED, TESTED

GROUP = (*CELL, "channel", "generation", "variant", "split")
EPISODE = (*GROUP, "scenario_id", "episode")
VIOLATED = pl.col("violation")
#: Of an agent that is tested beside what it lives through, tests say what it does, and what follows from what is to be
#: seen in what it lives through. Where nobody is tested, all turns count.
TELLING = (pl.col("role") == TESTED) | ~(pl.col("role") == TESTED).any().over(GROUP)
LASTING = ~pl.col("role").is_in([TESTED, REPLAYED])


@dataclass(frozen=True)
class Measure:
    """How rows add up to a number.

    hit and of say what one row adds to the sum and to the count; a null, or a hit whose `of` is false, adds nothing.
    by_round gives a number a round, else one over all rounds. A share has k and n, a mean n alone.
    """

    name: str
    hit: pl.Expr
    of: pl.Expr
    by_round: bool = True
    is_share: bool = True


@dataclass(frozen=True)
class Rows:
    """Measures of one kind of row, and how turns are made into such rows."""

    of: Callable[[pl.LazyFrame], pl.LazyFrame]
    measures: tuple[Measure, ...]


def after(name: str, previous: pl.Expr, hit: pl.Expr = VIOLATED) -> Measure:
    """P(`hit` | `previous` held in the round before), of valid replies of an agent that was asked in that round."""
    agent = [*EPISODE, "agent"]
    follows = pl.col("round").shift(1).over(agent, order_by="round") == pl.col("round") - 1
    met = previous.shift(1).over(agent, order_by="round")
    return Measure(name, hit, follows & met & VIOLATED.is_not_null() & LASTING, by_round=False)
