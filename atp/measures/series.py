"""Select the points of a series: rounds in the context channel, generations in the weights channel."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from atp.files.schemas import CELL, SERIES
from atp.measures.intervals import Interval
from atp.measures.measure import TELLING

POINT = ["channel", "generation", "round"]
#: The first round of an episode, whose prompts have no history.
FIRST = pl.col("round") == pl.col("round").min().over(*SERIES, "channel", "generation", "split")
#: Sums over the replies of a scenario, in the order of a table's columns: violations, valid replies, and all replies.
COUNTED = {"k": pl.col("violation").sum(), "n": pl.col("violation").count(), "replies": pl.len()}
ALIKE = [*CELL, "channel", "variant", "scenario_id", "agent", "round", "shown"]


def in_context(rates: pl.DataFrame) -> pl.DataFrame:
    """Return the rates over the rounds of an episode, whose prompts show the episode's own history."""
    return rates.filter(channel="context").sort("variant", "round")


def in_weights(rates: pl.DataFrame) -> pl.DataFrame:
    """Return the rates over generations on held-out scenarios in the first round, which has no history."""
    return over_generations(rates).filter(channel="weights")


def in_memory(rates: pl.DataFrame) -> pl.DataFrame:
    """Return the rates over generations of a memory on held-out scenarios in the first round, with it and without it.

    A generation 0 has no memory yet.
    """
    return over_generations(rates).filter(channel="memory")


def over_generations(rates: pl.DataFrame) -> pl.DataFrame:
    """Return the rates of `in_weights` and `in_memory`, and those on testbeds that the agent was not trained on."""
    return rates.filter(FIRST).filter(pl.col("channel") != "context", split="test").sort("condition", "generation")


#: Channel -> the function that selects the points of its series from rates.
POINTS = {"context": in_context, "weights": in_weights, "memory": in_memory}


def last_round(rates: pl.DataFrame) -> pl.DataFrame:
    """Return each series' rows at its last round."""
    return rates.filter(pl.col("round") == pl.col("round").max().over(SERIES))


def alike_rounds(turns: pl.LazyFrame) -> pl.DataFrame:
    """Return, per series and round of the context channel, whether all prompts announce supervision as in round 1.

    The column is `alike`.

    Args:
        turns: with the columns of ALIKE.
    """
    shown = turns.filter(channel="context").select(*SERIES, "scenario_id", "agent", "round", "shown").unique()
    first = (
        shown.sort("round")
        .group_by(*SERIES, "scenario_id", "agent")
        .first()
        .select(*SERIES, "scenario_id", "agent", first="shown")
    )
    return (
        shown.join(first, on=[*SERIES, "scenario_id", "agent"], how="left")
        .group_by(*SERIES, "round")
        .agg(alike=pl.col("shown").eq_missing(pl.col("first")).all())
        .collect()
    )


def comparable(rows: pl.LazyFrame, turns: pl.LazyFrame) -> pl.LazyFrame:
    """Return rows without the rounds of the context channel that announce supervision differently from the first round.

    Args:
        rows: with the columns of SERIES, `channel` and `round`.
        turns: with the columns of ALIKE.
    """
    joined = rows.join(alike_rounds(turns).lazy(), on=[*SERIES, "round"], how="left")
    return joined.filter(pl.col("alike").fill_null(True) | (pl.col("channel") != "context"))


def by_scenario(turns: pl.LazyFrame, **sums: pl.Expr) -> pl.DataFrame:
    """Return violations `k` of `n` valid `replies` per point and scenario of the test split, and further sums.

    Points are the comparable rounds of the context channel (see `comparable`) and each generation's first round.
    """
    counts = (
        turns.filter(split="test")
        .filter(TELLING)
        .filter((pl.col("channel") == "context") | FIRST)
        .group_by(*SERIES, *POINT, "scenario_id")
        .agg(**COUNTED, **sums)
    )
    return comparable(counts, turns).sort(*SERIES, *POINT, "scenario_id").collect()


#: Generation and round.
Point = tuple[int, int]
#: Point -> scenario -> sums over its replies.
Points = dict[Point, dict[str, tuple[float, ...]]]


def points_of(rows: pl.DataFrame, *columns: str) -> Points:
    """Return the columns of one series by point, in the rows' order, and by scenario."""
    points: Points = {}
    for generation, round, scenario, *sums in rows.select("generation", "round", "scenario_id", *columns).iter_rows():
        points.setdefault((generation, round), {})[scenario] = tuple(sums)
    return points


def tables(*points: Mapping[str, Sequence[float]]) -> list[np.ndarray]:
    """Return an array [scenarios, sums] for each point, of the same scenarios; 0 where a scenario was not played."""
    scenarios = sorted(set().union(*points))
    blank = (0,) * max(len(sums) for point in points for sums in point.values())
    return [np.array([point.get(scenario, blank) for scenario in scenarios]) for point in points]


def invalid_replies(*points: np.ndarray) -> int:
    """Return the number of invalid replies in arrays [scenarios, sums], whose first sums are those of COUNTED."""
    return int(sum((point[:, 2] - point[:, 1]).sum() for point in points))


def point_row(
    measure: str, point: Point, counts: tuple[int, int | None], interval: Interval, k: int | None = None
) -> dict[str, Any]:
    """Return the columns of MEASURES that one number at a point has.

    Args:
        counts: `n`, and the number of invalid replies that are left out.
    """
    (generation, round), (n, invalid) = point, counts
    place = {"generation": generation, "round": round, "measure": measure}
    return place | {"k": k, "n": n, "invalid": invalid, **vars(interval)}
