"""Counts of clusters at successive points, resampling of clusters, and fits of simple shapes to their rates.

A cluster is a scenario: its replies are correlated at one point and between points. Clusters are therefore resampled
or flipped as a whole, with all their points:

- `redrawn`, for intervals: clusters drawn with replacement (Davison and Hinkley 1997, Bootstrap Methods, section 3.8).
- `flipped`, for p-values: the sign of each cluster's residuals from the null's fit is kept or flipped for all points at
  once, which preserves their correlation (the wild cluster bootstrap with the null imposed: Wu 1986, Annals of
  Statistics 14:1261; Cameron, Gelbach and Miller 2008, Review of Economics and Statistics 90:414). For symmetric
  residuals this is a randomisation test and exact with few clusters (Canay, Romano and Shaikh 2017, Econometrica
  85:1013). Points are not shuffled within a cluster: that assumes that neighbouring points are no more alike than
  distant ones, which is false for an agent with memory.

Fits take rates [.., points], any number of rows at once, and weights [points], the number of replies at each point.
They treat replies as independent; the clusters matter only in resampling and flipping.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

#: Maximum slope of a trend, in log-odds between adjacent points; steeper ones are indistinguishable from a step.
MAX_SLOPE = 20.0
_MAX_NEWTON_STEPS, _NEWTON_TOLERANCE = 60, 1e-8


@dataclass(frozen=True)
class Counts:
    """Numerators `hits` and denominators `totals` [clusters, points] at `positions` [points], rounds or generations.

    Created by `count`.
    """

    hits: np.ndarray
    totals: np.ndarray
    positions: np.ndarray

    @property
    def weights(self) -> np.ndarray:
        """Return the number of replies at each point."""
        replies: np.ndarray = self.totals.sum(axis=0)
        return replies

    @property
    def rates(self) -> np.ndarray:
        """Return the proportion at each point."""
        rates: np.ndarray = self.hits.sum(axis=0) / self.weights
        return rates

    @property
    def shape(self) -> tuple[int, int]:
        """Return the numbers of clusters and points."""
        clusters, points = self.totals.shape
        return clusters, points


def count(hits: np.ndarray, totals: np.ndarray, positions: np.ndarray) -> Counts:
    """Create Counts without empty clusters and points, with clusters sorted by their counts.

    Sorting makes every result independent of the order in which clusters arrive.

    Raises:
        ValueError: mismatched shapes, hits outside 0 to totals, or positions that do not increase.
    """
    hits, totals, positions = (np.asarray(values, dtype=float) for values in (hits, totals, positions))
    if hits.ndim != 2 or hits.shape != totals.shape or positions.shape != hits.shape[1:]:
        raise ValueError(f"hits {hits.shape}, totals {totals.shape}, positions {positions.shape}: shapes do not match")
    if (hits < 0).any() or (hits > totals).any() or (np.diff(positions) <= 0).any():
        raise ValueError("hits must be between 0 and totals, and positions must increase")
    clusters, points = totals.any(axis=1), totals.any(axis=0)
    hits, totals, positions = hits[clusters][:, points], totals[clusters][:, points], positions[points]
    order = np.lexsort(np.hstack([hits, totals]).T) if hits.size else slice(None)
    return Counts(hits[order], totals[order], positions)


def counts_of(rows: pl.DataFrame) -> Counts:
    """Return the counts `k` of `n` of each `scenario_id` and point `at`; 0 of 0 where a scenario was not played."""
    tables = [
        rows.sort("at")
        .pivot("at", index="scenario_id", values=values, aggregate_function="sum")
        .sort("scenario_id")
        .drop("scenario_id")
        .fill_null(0)
        .to_numpy()
        for values in ("k", "n")
    ]
    return count(tables[0], tables[1], rows["at"].unique().sort().to_numpy())


def redrawn(counts: Counts, seed: int, resamples: int) -> np.ndarray:
    """Return rates [resamples, points] of clusters drawn with replacement; NaN at a point without replies."""
    clusters, _ = counts.shape
    indices = np.random.default_rng(seed).integers(clusters, size=(resamples, clusters))
    indices += np.arange(resamples)[:, None] * clusters
    repeats = np.bincount(indices.ravel(), minlength=resamples * clusters).reshape(resamples, clusters).astype(float)
    with np.errstate(invalid="ignore"):
        rates: np.ndarray = (repeats @ counts.hits) / (repeats @ counts.totals)
    return rates


def flipped(counts: Counts, fitted: np.ndarray, seed: int | list[int], resamples: int) -> np.ndarray:
    """Return deviations [resamples, points] of the rates from `fitted` [points], under the null hypothesis that it is
    true: the sign of each cluster's residuals is flipped at random.
    """
    clusters, _ = counts.shape
    signs = np.random.default_rng(seed).integers(2, size=(resamples, clusters), dtype=np.int8) * 2.0 - 1.0
    deviations: np.ndarray = signs @ (counts.hits - counts.totals * fitted) / counts.weights
    return deviations


def likelihood(rates: np.ndarray, fitted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the binomial log-likelihood [..] of rates, in nats, without the term common to all fits."""
    from scipy.special import xlogy  # takes a second to import

    log_likelihood: np.ndarray = ((xlogy(rates, fitted) + xlogy(1 - rates, 1 - fitted)) * weights).sum(axis=-1)
    return log_likelihood


def flat(rates: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Fit one rate for all points."""
    return np.broadcast_to((rates @ weights / weights.sum())[..., None], rates.shape)


def step(rates: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit one rate before a break and another from it on, with the break of maximum likelihood.

    Returns (fit [.., points], index of the first point after the break [..]).
    """
    points = rates.shape[-1]
    breaks = np.arange(1, points)
    after = np.arange(points) >= breaks[:, None]  # [breaks, points]
    fits = np.empty((*rates.shape[:-1], len(breaks), points))
    for side in (after, ~after):
        level = rates @ (side * weights).T / (side @ weights)
        fits = np.where(side, level[..., None], fits)
    best_break = likelihood(rates[..., None, :], fits, weights).argmax(axis=-1)
    return np.take_along_axis(fits, best_break[..., None, None], axis=-2)[..., 0, :], breaks[best_break]


def trend(rates: np.ndarray, weights: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit log-odds that are linear in position: logistic regression by Newton's method with damped steps.

    Weights may be [.., points] here. Returns (fit [.., points], slope [..] in log-odds per unit of position). The slope
    is capped at MAX_SLOPE between the two closest positions, because it diverges when rates jump from 0 to 1.
    """
    from scipy.special import expit, logit

    gap = np.diff(positions).min()
    x = (positions - positions.mean()) / gap
    limits = np.array([MAX_SLOPE * np.abs(x).max(), MAX_SLOPE])
    params = np.zeros((*rates.shape[:-1], 2))  # level and slope
    overall = (rates * weights).sum(axis=-1) / weights.sum(axis=-1)
    params[..., 0] = logit(np.clip(overall, 1e-6, 1 - 1e-6))
    fitted, scale = expit(params[..., :1] + params[..., 1:] * x), np.ones(rates.shape[:-1])
    best = likelihood(rates, fitted, weights)
    for _ in range(_MAX_NEWTON_STEPS):
        score, spread = (rates - fitted) * weights, fitted * (1 - fitted) * weights + 1e-9
        s0, s1, h0, h1, h2 = score.sum(axis=-1), score @ x, spread.sum(axis=-1), spread @ x, spread @ x**2
        newton = np.stack([h2 * s0 - h1 * s1, h0 * s1 - h1 * s0], axis=-1) / (h0 * h2 - h1**2)[..., None]
        trial = np.clip(params + scale[..., None] * newton, -limits, limits)
        trial_fit = expit(trial[..., :1] + trial[..., 1:] * x)
        trial_value = likelihood(rates, trial_fit, weights)
        better = trial_value >= best
        moved = np.abs(trial - params).max()
        params, fitted = np.where(better[..., None], trial, params), np.where(better[..., None], trial_fit, fitted)
        best, scale = np.where(better, trial_value, best), np.where(better, np.minimum(2 * scale, 1), scale / 4)
        if moved < _NEWTON_TOLERANCE:
            break
    return fitted, params[..., 1] / gap


def rising(rates: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the non-decreasing rates closest to `rates` by weighted least squares (isotonic regression).

    At point j: the maximum over i <= j of the minimum over k >= j of the mean of points i to k (Robertson, Wright and
    Dykstra 1988, Order Restricted Statistical Inference, theorem 1.4.4).
    """
    points = rates.shape[-1]
    zero = np.zeros((*rates.shape[:-1], 1))
    sums = np.concatenate([zero, np.cumsum(rates * weights, axis=-1)], axis=-1)
    replies = np.concatenate([[0.0], np.cumsum(weights)])
    i, k = np.triu_indices(points)
    means = np.full((*rates.shape[:-1], points, points), np.nan)
    means[..., i, k] = (sums[..., k + 1] - sums[..., i]) / (replies[k + 1] - replies[i])
    fitted = [means[..., : j + 1, j:].min(axis=-1).max(axis=-1) for j in range(points)]
    return np.stack(fitted, axis=-1)
