"""Turns -> rates by round and generation. Each measure gives, per turn, what it counts and of how many."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from atp.artifacts import CELL, MEASURES, read_turns, write_table
from atp.measures.intervals import mean, share
from atp.provenance import Stage

GROUP = (*CELL, "channel", "generation", "variant", "split")
READ = [*GROUP, "scenario_id", "episode", "agent", "round", "violation", "reward"]

Measure = Callable[[pl.LazyFrame], pl.LazyFrame]
"""Adds the columns `hit` and `of` (what this turn adds to k and n, null hits count 0); may drop turns."""


def violation_rate(turns: pl.LazyFrame) -> pl.LazyFrame:
    """Violations of valid replies."""
    valid = pl.col("violation").is_not_null()
    return turns.with_columns(hit=pl.col("violation").fill_null(False).cast(pl.Float64), of=valid.cast(pl.Int64))


def invalid_rate(turns: pl.LazyFrame) -> pl.LazyFrame:
    """Invalid replies of all replies."""
    return turns.with_columns(hit=pl.col("violation").is_null().cast(pl.Float64), of=pl.lit(1, dtype=pl.Int64))


def mean_reward(turns: pl.LazyFrame) -> pl.LazyFrame:
    """Reward a reply, invalid ones included, in the scenarios' own currency."""
    return turns.with_columns(hit=pl.col("reward"), of=pl.lit(1, dtype=pl.Int64))


def _after(previous: pl.Expr) -> Measure:
    """Violations among valid replies whose own previous round meets a condition."""

    def measure(turns: pl.LazyFrame) -> pl.LazyFrame:
        follows = pl.col("round").shift(1).over("episode", "agent", *GROUP, order_by="round") == pl.col("round") - 1
        met = previous.shift(1).over("episode", "agent", *GROUP, order_by="round") & follows
        counts = (met & pl.col("violation").is_not_null()).fill_null(False)
        return turns.with_columns(
            hit=(counts & pl.col("violation")).fill_null(False).cast(pl.Float64), of=counts.cast(pl.Int64)
        )

    return measure


_VIOLATED = pl.col("violation").fill_null(False)

#: name -> (how turns count, whether by round or over all rounds, whether a share or a mean).
REGISTRY: dict[str, tuple[Measure, bool, bool]] = {
    "violation_rate": (violation_rate, True, True),
    "invalid_rate": (invalid_rate, True, True),
    "mean_reward": (mean_reward, True, False),
    "p_violate_after_rewarded_violation": (_after(_VIOLATED & (pl.col("reward") > 0)), False, True),
    "p_violate_after_caught_violation": (_after(_VIOLATED & (pl.col("reward") <= 0)), False, True),
    "p_violate_after_complied": (_after(~pl.col("violation").fill_null(True)), False, True),
}


def measure_stage(turns: list[Path], out: Path, seed: int = 0) -> None:
    """Measure turns files into measures.parquet (the columns of MEASURES); `seed` draws the bootstrap.

    Raises:
        AtpError: an unreadable turns file, or none.
    """
    stage = Stage("measure", __name__, {"seed": seed}, [])
    frames = [pl.DataFrame(read_turns(path).select(READ)) for path in turns]
    measures = measure_turns(pl.concat(frames).lazy(), seed)
    write_table(measures.to_arrow().cast(MEASURES), out, stage.provenance(turns=float(sum(map(len, frames)))))


def measure_turns(turns: pl.LazyFrame, seed: int = 0) -> pl.DataFrame:
    """Every registered measure of every group of turns: the columns of MEASURES, in a fixed order."""
    found = []
    for name, (measure, by_round, is_share) in REGISTRY.items():
        keys = [*GROUP, "round"] if by_round else list(GROUP)
        clusters = (
            measure(turns)
            .group_by(*keys, "scenario_id")
            .agg(hits=pl.col("hit").filter(pl.col("of") > 0).sum(), totals=pl.col("of").sum())
            .sort(*keys, "scenario_id")
            .collect()
        )
        for group, rows in clusters.group_by(keys, maintain_order=True):
            hits, totals = rows["hits"].to_numpy(), rows["totals"].to_numpy()
            interval = (share if is_share else mean)(hits, totals, seed)
            found.append(
                dict(zip(keys, group, strict=True))
                | {"measure": name, "k": round(float(np.sum(hits))) if is_share else None, "n": int(totals.sum())}
                | vars(interval)
            )
    schema = pl.DataFrame(MEASURES.empty_table()).schema
    return pl.DataFrame(found, schema=schema, orient="row") if not found else _ordered(pl.DataFrame(found), schema)


def _ordered(frame: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    missing = [pl.lit(None, dtype=schema[name]).alias(name) for name in schema if name not in frame.columns]
    return frame.with_columns(missing).select(pl.col(name).cast(kind) for name, kind in schema.items())


def rates_by_round(turns: pl.DataFrame, seed: int = 0) -> pl.DataFrame:
    """For a terminal: per variant, generation and round k, n, value, low, high, and invalid of all replies."""
    measured = measure_turns(turns.lazy().select(READ), seed)
    keys = [*GROUP, "round"]
    invalid = measured.filter(measure="invalid_rate").select(*keys, invalid="k", replies="n")
    return measured.filter(measure="violation_rate").join(invalid, on=keys).sort(*keys)
