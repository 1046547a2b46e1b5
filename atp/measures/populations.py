"""Whether the games of a population go one way or two.

The order parameter of a round is the share of violators, `violation_rate` (in the coordination game `collusion_rate`).
Half may mean that in every game half violate, or that in half of the games all do. So each game is taken to have a
chance of its own, with which each of its players violates, drawn from a beta distribution (Skellam 1948, JRSS B
10:257). With m the share of violators and r the correlation of two players of a game, its parameters are
m * (1 / r - 1) and (1 - m) * (1 / r - 1). It has two peaks, at none and at all, where both are below 1 (Johnson, Kotz
and Balakrishnan 1995, Continuous Univariate Distributions 2, chapter 25), which is where

    bimodality = r * (1 + M) / M,  M = max(m, 1 - m)

is above 1. It is about 0 where players decide each for themselves, and 2 to 3 where all players of a game do the same.
r is the analysis of variance's estimate (Ridout, Demétrio and Firth 1999, Biometrics 55:137). Measures made for smooth
distributions, such as Hartigan's dip or Sarle's coefficient, are not used: of eight players the share has nine values,
and of ten games without a violator and four with one both say that they have two peaks.
"""

import numpy as np
import polars as pl

from atp.artifacts import MEASURES
from atp.measures import bargaining, coordination
from atp.measures.intervals import Interval, resampled
from atp.measures.measure import EPISODE, GROUP, VIOLATED

BIMODALITY = "bimodality"
TESTBEDS = (coordination.TESTBED, bargaining.TESTBED)


def population_measures(turns: pl.LazyFrame, seed: int) -> pl.DataFrame:
    """Rows of MEASURES, one a group and round of games of several players; n counts games with a valid reply."""
    keys = [*GROUP, "round"]
    games = (
        turns.filter(pl.col("testbed").is_in(TESTBEDS))
        .group_by(*EPISODE, "round")
        .agg(k=VIOLATED.sum(), n=VIOLATED.count())
        .filter(pl.col("n") > 0)
        .sort(*EPISODE, "round")
        .collect()
    )
    rows = []
    for group, played in games.sort(keys).group_by(keys, maintain_order=True):
        violators, players, scenarios = (played[name].to_numpy() for name in ("k", "n", "scenario_id"))
        found = bimodality(violators, players, scenarios, seed)
        rows.append(dict(zip(keys, group, strict=True)) | {"measure": BIMODALITY, "n": len(played)} | vars(found))
    return pl.DataFrame(rows, schema=pl.DataFrame(MEASURES.empty_table()).schema)


def bimodality(violators: np.ndarray, players: np.ndarray, scenarios: np.ndarray, seed: int) -> Interval:
    """Of games: violators among players, integers, and the scenario each is played in, which is drawn whole.

    None where no game has two players, there is but one game, or all violate or none.
    """
    k, n = violators[players > 0].astype(float), players[players > 0].astype(float)
    if not len(n):
        return Interval(None, None, None, "none")
    sums = np.stack([np.ones_like(n), n, n**2, k, k**2 / n], axis=1)
    _, cluster = np.unique(scenarios[players > 0], return_inverse=True)
    clusters = np.zeros((cluster.max() + 1, sums.shape[1]))
    np.add.at(clusters, cluster, sums)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(_bimodality(clusters.sum(axis=0)[None])[0])
    if not np.isfinite(value):
        return Interval(None, None, None, "none: no spread")
    low, high = resampled(clusters, _bimodality, seed)
    if low is None or high is None:
        return Interval(value, None, None, "none: no spread")
    return Interval(value, min(low, value), max(high, value), "cluster bootstrap")


def _bimodality(sums: np.ndarray) -> np.ndarray:
    """From sums over games [resamples, 5] of 1, n, n^2, k and k^2 / n."""
    games, players, squares, violators, shares = sums.T
    rate = violators / players
    between = (shares - violators * rate) / (games - 1)
    within = (violators - shares) / (players - games)
    size = (players - squares / players) / (games - 1)
    alike = (between - within) / (between + (size - 1) * within)
    larger = np.maximum(rate, 1 - rate)
    found: np.ndarray = alike * (1 + larger) / larger
    return found
