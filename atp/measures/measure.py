"""What a measure is: a function of the evidence that returns rows of MEASURES, and the common kind, sums over rows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from atp.files.schemas import CELL, DETAILS, MEASURES
from atp.measures.intervals import mean, share
from atp.measures.swept import Settings
from atp.testbed import TESTED, TRANSPLANTED

GROUP = (*CELL, "channel", "generation", "variant", "split")
EPISODE = (*GROUP, "scenario_id", "episode")
VIOLATED = pl.col("violation")
#: Turns that rates count: where an agent is tested next to its deployment, only the tests; else all turns.
TELLING = (pl.col("role") == TESTED) | ~(pl.col("role") == TESTED).any().over(GROUP)
#: Turns that enter a history, and so can have consequences.
LASTING = ~pl.col("role").is_in([TESTED, TRANSPLANTED])


@dataclass(frozen=True)
class Evidence:
    """A study's turns, as measures see them.

    Args:
        turns: the common columns of all turns; of one testbed's evidence its own columns too.
        played: channel -> (cell and variant) -> testbed settings.
        testbeds: testbed -> turns with its own columns, under their own names.
        seed: of every random choice.
    """

    turns: pl.LazyFrame
    played: Mapping[str, Settings]
    testbeds: Mapping[str, pl.LazyFrame]
    seed: int = 0

    def of(self, testbed: str) -> "Evidence":
        """Return the evidence of one testbed."""
        turns = self.testbeds[testbed]
        own = turns.collect_schema().names()
        return replace(self, turns=turns.unnest(DETAILS) if DETAILS in own else turns)


#: What every measure is: it returns rows with the columns of MEASURES, of which those that it leaves out are null.
MeasureFunction = Callable[[Evidence], pl.DataFrame]


@dataclass(frozen=True)
class Measure:
    """A proportion or a mean: the sum of one expression over rows, divided by the sum of another.

    Args:
        name: in the column `measure`.
        numerator: a row's addend to the sum; a null adds nothing.
        denominator: whether a row counts; a row that does not count adds nothing to either sum.
        by_round: one number a round; else one over all rounds.
        is_proportion: whether the numerator is 0 or 1, so that the number has `k` and `n`; a mean has `n` alone.
        of_valid: whether only valid replies count. The row's `invalid` then counts the others that the denominator has;
            Manski's bounds of the proportion (1990, American Economic Review 80:319) are k / (n + invalid) and
            (k + invalid) / (n + invalid).
    """

    name: str
    numerator: pl.Expr
    denominator: pl.Expr
    by_round: bool = True
    is_proportion: bool = True
    of_valid: bool = False

    @property
    def counted(self) -> pl.Expr:
        """Whether a row counts."""
        among = self.denominator.fill_null(False)
        return among & VIOLATED.is_not_null() if self.of_valid else among

    def __call__(self, evidence: Evidence) -> pl.DataFrame:
        """Return rows of MEASURES, one for each group (and round). The cluster of an interval is the scenario."""
        keys = [*GROUP, "round"] if self.by_round else list(GROUP)
        among, counts = self.denominator.fill_null(False), self.counted
        numerator = pl.when(counts).then(self.numerator.cast(pl.Float64)).otherwise(0.0)
        addends = {"sum": numerator, "count": counts.cast(pl.Int64), "among": among.cast(pl.Int64)}
        rows = []
        for group, scenarios in sums_by_scenario(evidence.turns, keys, **addends):
            sums, totals = scenarios["sum"].to_numpy(), scenarios["count"].to_numpy()
            interval = (share if self.is_proportion else mean)(sums, totals)
            k = int(sums.sum()) if self.is_proportion else None
            invalid = int(scenarios["among"].sum() - totals.sum()) if self.of_valid else None
            counted = {"k": k, "n": int(totals.sum()), "invalid": invalid}
            rows.append(group | {"measure": self.name, **counted} | vars(interval))
        return measure_rows(rows)


@dataclass(frozen=True)
class Aggregate:
    """Measures of rows that are made from turns, such as one row a game."""

    rows: Callable[[pl.LazyFrame], pl.LazyFrame]
    measures: tuple[Measure, ...]

    def __call__(self, evidence: Evidence) -> pl.DataFrame:
        """Return rows of MEASURES."""
        made = replace(evidence, turns=self.rows(evidence.turns).collect().lazy())
        return pl.concat([measure(made) for measure in self.measures])


def sums_by_scenario(
    turns: pl.LazyFrame, keys: Sequence[str], **addends: pl.Expr
) -> Iterator[tuple[dict[str, Any], pl.DataFrame]]:
    """Yield each group's values of `keys`, and the sums of `addends` over its turns, one row a scenario."""
    clusters = turns.with_columns(**addends).group_by(*keys, "scenario_id").agg(pl.col(*addends).sum())
    for values, scenarios in clusters.sort(*keys, "scenario_id").collect().group_by(keys, maintain_order=True):
        yield dict(zip(keys, values, strict=True)), scenarios


def after(name: str, previous: pl.Expr, numerator: pl.Expr = VIOLATED) -> Measure:
    """Return P(numerator | `previous` held in the round before), among valid replies of an agent asked in both."""
    agent = [*EPISODE, "agent"]
    follows = pl.col("round").shift(1).over(agent, order_by="round") == pl.col("round") - 1
    met = previous.shift(1).over(agent, order_by="round")
    return Measure(name, numerator, follows & met & LASTING, by_round=False, of_valid=True)


def measure_rows(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Return rows as a table with the columns of MEASURES; what a row leaves out is null."""
    return pl.DataFrame(rows, schema=pl.DataFrame(MEASURES.empty_table()).schema)
