"""Measure whether the players of a game tend to decide alike: the bimodality of the proportion of violators per game.

A proportion of one half may mean that half of the players violate in every game, or that all players violate in half of
the games. The model gives each game its own probability that a player violates, drawn from a beta distribution (Skellam
1948, JRSS B 10:257). Let m be the proportion of violators and r the correlation of two players of a game. The
distribution's parameters are m * (1 / r - 1) and (1 - m) * (1 / r - 1). It has two peaks, at 0 and 1, if both are below
1 (Johnson, Kotz and Balakrishnan 1995, Continuous Univariate Distributions 2, chapter 25), that is if

    bimodality = r * (1 + M) / M,  M = max(m, 1 - m)

is above 1. It is about 0 if players decide independently, and 2 to 3 if all players of a game do the same. r is the
analysis-of-variance estimate (Ridout, Demétrio and Firth 1999, Biometrics 55:137). Measures for smooth distributions,
such as Hartigan's dip or Sarle's coefficient, are not used: with eight players the proportion has only nine values, and
for ten games without a violator and four games with one violator both report two peaks.
"""

import numpy as np
import polars as pl

from atp.measures.intervals import Interval, resampled
from atp.measures.measure import EPISODE, GROUP, VIOLATED, Evidence, measure_rows
from atp.registry import find_testbed

BIMODALITY = "bimodality"


def population_measures(evidence: Evidence) -> pl.DataFrame:
    """Return rows of MEASURES, one per group and round of games with several players.

    `n` counts the games with a valid reply.
    """
    keys = [*GROUP, "round"]
    several = [testbed for testbed in evidence.testbeds if find_testbed(testbed).several_players]
    games = (
        evidence.turns.filter(pl.col("testbed").is_in(several))
        .group_by(*EPISODE, "round")
        .agg(k=VIOLATED.sum(), n=VIOLATED.count())
        .filter(pl.col("n") > 0)
        .sort(*EPISODE, "round")
        .collect()
    )
    rows = []
    for group, played in games.sort(keys).group_by(keys, maintain_order=True):
        violators, players, scenarios = (played[name].to_numpy() for name in ("k", "n", "scenario_id"))
        interval = bimodality(violators, players, scenarios, evidence.seed)
        rows.append(dict(zip(keys, group, strict=True)) | {"measure": BIMODALITY, "n": len(played)} | vars(interval))
    return measure_rows(rows)


def bimodality(violators: np.ndarray, players: np.ndarray, scenarios: np.ndarray, seed: int) -> Interval:
    """Return the bimodality of games with its interval, for which the bootstrap draws whole scenarios.

    Args:
        violators, players: integers [games].
        scenarios: the scenario of each game [games].

    Returns:
        The value is None if no game has two players, if there is only one game, or if all players or none violate.
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
    """Return bimodality [resamples] from sums over games [resamples, 5] of 1, n, n^2, k and k^2 / n."""
    games, players, squares, violators, squared_rates = sums.T
    rate = violators / players
    between = (squared_rates - violators * rate) / (games - 1)
    within = (violators - squared_rates) / (players - games)
    size = (players - squares / players) / (games - 1)
    correlation = (between - within) / (between + (size - 1) * within)
    larger = np.maximum(rate, 1 - rate)
    values: np.ndarray = correlation * (1 + larger) / larger
    return values
