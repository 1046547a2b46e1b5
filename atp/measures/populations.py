"""Measure whether the players of a game tend to decide alike: the bimodality of the proportion of violators per game.

A proportion of one half may mean that half of the players violate in every game, or that all players violate in half of
the games. The model gives each game its own probability that a player violates, drawn from a beta distribution (Skellam
1948, JRSS B 10:257). Let m be the proportion of violators and r the correlation of two players of a game. The
distribution's parameters are m * (1 / r - 1) and (1 - m) * (1 / r - 1). It has two peaks, at 0 and 1, if both are below
1 (Johnson, Kotz and Balakrishnan 1995, Continuous Univariate Distributions 2, chapter 25), that is if

    bimodality = r * (1 + M) / M,  M = max(m, 1 - m)

is above 1. It is 0 if players decide independently, and 2 to 3 if all players of a game do the same. It is estimated by
maximum likelihood. Measures for smooth distributions,
such as Hartigan's dip or Sarle's coefficient, are not used: with eight players the proportion has only nine values, and
for ten games without a violator and four games with one violator both report two peaks.
"""

from functools import lru_cache

import numpy as np
import polars as pl

from atp.measures.intervals import LEVEL, Interval
from atp.measures.measure import EPISODE, GROUP, VIOLATED, Evidence, measure_rows
from atp.registry import find_testbed

BIMODALITY = "bimodality"
#: Grid of the profile likelihood.
BIMODALITIES, RATES = np.linspace(0, 3, 301), 1 / (1 + np.exp(-np.linspace(-6, 6, 81)))


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
        interval = bimodality(violators, players, scenarios)
        rows.append(dict(zip(keys, group, strict=True)) | {"measure": BIMODALITY, "n": len(played)} | vars(interval))
    return measure_rows(rows)


def bimodality(violators: np.ndarray, players: np.ndarray, scenarios: np.ndarray) -> Interval:
    """Return the bimodality of games of largest likelihood, with its profile likelihood interval.

    The interval has the values whose log-likelihood is within t^2 / 2 of the largest, where t is the quantile of
    scenarios - 1 degrees of freedom. If games of one scenario are alike, the log-likelihood is divided by their design
    effect: the variance of the score when scenarios count as units, over that when games do.

    Args:
        violators, players: integers [games].
        scenarios: the scenario of each game [games].

    Returns:
        The value is None if no game has two players, if there is only one game, or if all players or none violate.
    """
    from scipy.special import stdtrit

    counted = players > 0
    k, n = violators[counted].astype(int), players[counted].astype(int)
    if not len(n):
        return Interval(None, None, None, "none")
    if len(n) < 2 or n.max() < 2 or not 0 < k.sum() < n.sum():
        return Interval(None, None, None, "none: no spread")
    per_game = np.concatenate([_log_likelihoods(size)[..., k[n == size]] for size in np.unique(n)], axis=-1)
    order = np.concatenate([np.flatnonzero(n == size) for size in np.unique(n)])
    total = per_game.sum(axis=-1)
    profile = total.max(axis=1)
    best = int(profile.argmax())
    value = float(BIMODALITIES[best])
    _, scenario = np.unique(scenarios[counted][order], return_inverse=True)
    if scenario.max() < 1:
        return Interval(value, None, None, "none: one scenario")
    rate = int(total[best].argmax())
    before, after = (int(np.clip(best + side, 0, len(BIMODALITIES) - 1)) for side in (-1, 1))
    score = per_game[after, rate] - per_game[before, rate]
    by_scenario = np.bincount(scenario, weights=score)
    effect = float(by_scenario @ by_scenario / (score @ score)) if np.isfinite(score).all() and score.any() else 1.0
    drop = float(stdtrit(scenario.max(), (1 + LEVEL) / 2)) ** 2 / 2 * max(effect, 1.0)
    inside = np.flatnonzero(profile >= profile[best] - drop)
    low, high = (float(BIMODALITIES[end]) for end in (inside[0], inside[-1]))
    return Interval(value, low, high, "profile likelihood")


@lru_cache(maxsize=64)
def _log_likelihoods(players: int) -> np.ndarray:
    """Return the log-likelihoods [len(BIMODALITIES), len(RATES), players + 1] of 0, 1, … violators in a game.

    They are -inf where no distribution has the bimodality and the rate.
    """
    m, larger = RATES, np.maximum(RATES, 1 - RATES)
    r = np.minimum(BIMODALITIES[:, None] * larger / (1 + larger), 1 + 1e-9)
    possible, r = r <= 1, np.minimum(r, 1 - 1e-6)
    rising = [
        np.concatenate(
            [np.zeros((1, *r.shape)), np.cumsum(np.log(start + np.arange(players)[:, None, None] * r), axis=0)]
        )
        for start in (m * (1 - r), (1 - m) * (1 - r), 1 - r)
    ]
    log_likelihoods = rising[0] + rising[1][::-1] - rising[2][-1]
    return np.moveaxis(np.where(possible, log_likelihoods, -np.inf), 0, -1)
