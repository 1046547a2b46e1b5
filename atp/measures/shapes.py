"""Counts of clusters at a row of points, and the shapes that their rates can have. Knows no turns.

A cluster is a scenario, whose replies are alike, at one point and from one point to the next. So clusters are drawn or
flipped whole, with all their points:

- `redrawn`, for intervals: clusters drawn with replacement (Davison and Hinkley 1997, Bootstrap Methods, section 3.8).
- `flipped`, for p-values: each cluster's residuals from the null's fit are kept or turned round, all at once, which
  leaves how its points hang together as it is (the wild cluster bootstrap with the null imposed: Wu 1986, Annals of
  Statistics 14:1261; Cameron, Gelbach and Miller 2008, Review of Economics and Statistics 90:414). Where residuals are
  symmetric this is a randomisation test, exact with few clusters too (Canay, Romano and Shaikh 2017, Econometrica
  85:1013). Shuffling points within a cluster is not used: it takes neighbouring points to be no more alike than others,
  which is false of an agent that remembers.

Fits are of rates [.., points], any number of rows at once, under weights [points], the replies at each point, as if
replies were independent: clusters enter by what is drawn or flipped, not by the fit.
"""

from dataclasses import dataclass

import numpy as np

#: Log-odds from a point to the next at which a trend is as good as infinitely steep.
STEEPEST = 20.0
_NEWTON_STEPS, _NEWTON_ENOUGH = 60, 1e-8


@dataclass(frozen=True)
class Counts:
    """hits of totals, both [clusters, points]; positions [points] are rounds or generations. Made by `count`."""

    hits: np.ndarray
    totals: np.ndarray
    positions: np.ndarray

    @property
    def weights(self) -> np.ndarray:
        """Replies at each point."""
        found: np.ndarray = self.totals.sum(axis=0)
        return found

    @property
    def rates(self) -> np.ndarray:
        """Share of hits at each point."""
        found: np.ndarray = self.hits.sum(axis=0) / self.weights
        return found

    @property
    def shape(self) -> tuple[int, int]:
        """Number of clusters and of points."""
        clusters, points = self.totals.shape
        return clusters, points


def count(hits: np.ndarray, totals: np.ndarray, positions: np.ndarray) -> Counts:
    """Counts without the clusters and the points that have none, clusters in an order that is their counts' own.

    So no result depends on the order in which clusters came.

    Raises:
        ValueError: shapes that do not fit, hits that are no part of totals, or positions that do not rise.
    """
    hits, totals, positions = (np.asarray(values, dtype=float) for values in (hits, totals, positions))
    if hits.ndim != 2 or hits.shape != totals.shape or positions.shape != hits.shape[1:]:
        raise ValueError(f"hits {hits.shape}, totals {totals.shape} and positions {positions.shape} do not fit")
    if (hits < 0).any() or (hits > totals).any() or (np.diff(positions) <= 0).any():
        raise ValueError("hits must lie between 0 and totals, and positions must rise")
    clusters, points = totals.any(axis=1), totals.any(axis=0)
    hits, totals, positions = hits[clusters][:, points], totals[clusters][:, points], positions[points]
    order = np.lexsort(np.hstack([hits, totals]).T) if hits.size else slice(None)
    return Counts(hits[order], totals[order], positions)


def redrawn(counts: Counts, seed: int, resamples: int) -> np.ndarray:
    """Rates [resamples, points] of whole clusters drawn with replacement; NaN where none has a reply at a point."""
    clusters, _ = counts.shape
    drawn = np.random.default_rng(seed).integers(clusters, size=(resamples, clusters))
    drawn += np.arange(resamples)[:, None] * clusters
    times = np.bincount(drawn.ravel(), minlength=resamples * clusters).reshape(resamples, clusters).astype(float)
    with np.errstate(invalid="ignore"):
        rates: np.ndarray = (times @ counts.hits) / (times @ counts.totals)
    return rates


def flipped(counts: Counts, fitted: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    """Deviations [resamples, points] of rates from `fitted` [points], were that true: each cluster's residuals from it,
    turned round by the toss of a coin.
    """
    clusters, _ = counts.shape
    signs = np.random.default_rng(seed).integers(2, size=(resamples, clusters), dtype=np.int8) * 2.0 - 1.0
    deviations: np.ndarray = signs @ (counts.hits - counts.totals * fitted) / counts.weights
    return deviations


def likelihood(rates: np.ndarray, fitted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Binomial log-likelihood [..] of rates, in nats, without the term that is the same for all fits."""
    from scipy.special import xlogy  # a second to import: paid by the job that measures, not by all that import atp

    found: np.ndarray = ((xlogy(rates, fitted) + xlogy(1 - rates, 1 - fitted)) * weights).sum(axis=-1)
    return found


def flat(rates: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """One rate at all points."""
    return np.broadcast_to((rates @ weights / weights.sum())[..., None], rates.shape)


def step(rates: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One rate before a break and another from it on, at the break of the largest likelihood.

    Returns the fit [.., points], and [..] the index of the first point after the break.
    """
    points = rates.shape[-1]
    first = np.arange(1, points)
    after = np.arange(points) >= first[:, None]  # [breaks, points]
    fits = np.empty((*rates.shape[:-1], len(first), points))
    for side in (after, ~after):
        level = rates @ (side * weights).T / (side @ weights)
        fits = np.where(side, level[..., None], fits)
    best = likelihood(rates[..., None, :], fits, weights).argmax(axis=-1)
    return np.take_along_axis(fits, best[..., None, None], axis=-2)[..., 0, :], first[best]


def trend(rates: np.ndarray, weights: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log-odds on a straight line over positions: logistic regression, by Newton's method with shortened steps.

    weights may be [.., points] here. Returns the fit [.., points], and [..] the slope, log-odds a unit of position. It
    ends at STEEPEST between the two nearest positions, where rates jump from 0 to 1 and no slope is steep enough.
    """
    from scipy.special import expit, logit

    gap = np.diff(positions).min()
    x = (positions - positions.mean()) / gap
    ends = np.array([STEEPEST * np.abs(x).max(), STEEPEST])
    line = np.zeros((*rates.shape[:-1], 2))  # level and slope
    overall = (rates * weights).sum(axis=-1) / weights.sum(axis=-1)
    line[..., 0] = logit(np.clip(overall, 1e-6, 1 - 1e-6))
    fitted, part = expit(line[..., :1] + line[..., 1:] * x), np.ones(rates.shape[:-1])
    reached = likelihood(rates, fitted, weights)
    for _ in range(_NEWTON_STEPS):
        score, spread = (rates - fitted) * weights, fitted * (1 - fitted) * weights + 1e-9
        s0, s1, h0, h1, h2 = score.sum(axis=-1), score @ x, spread.sum(axis=-1), spread @ x, spread @ x**2
        newton = np.stack([h2 * s0 - h1 * s1, h0 * s1 - h1 * s0], axis=-1) / (h0 * h2 - h1**2)[..., None]
        tried = np.clip(line + part[..., None] * newton, -ends, ends)
        fits = expit(tried[..., :1] + tried[..., 1:] * x)
        found = likelihood(rates, fits, weights)
        better = found >= reached
        moved = np.abs(tried - line).max()
        line, fitted = np.where(better[..., None], tried, line), np.where(better[..., None], fits, fitted)
        reached, part = np.where(better, found, reached), np.where(better, np.minimum(2 * part, 1), part / 4)
        if moved < _NEWTON_ENOUGH:
            break
    return fitted, line[..., 1] / gap


def rising(rates: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The nearest rates, by weighted least squares, that never fall from a point to the next.

    At point j the largest over i <= j of the smallest over k >= j of the mean of points i to k (Robertson, Wright and
    Dykstra 1988, Order Restricted Statistical Inference, theorem 1.4.4).
    """
    points = rates.shape[-1]
    nothing = np.zeros((*rates.shape[:-1], 1))
    hits = np.concatenate([nothing, np.cumsum(rates * weights, axis=-1)], axis=-1)
    replies = np.concatenate([[0.0], np.cumsum(weights)])
    i, k = np.triu_indices(points)
    means = np.full((*rates.shape[:-1], points, points), np.nan)
    means[..., i, k] = (hits[..., k + 1] - hits[..., i]) / (replies[k + 1] - replies[i])
    fitted = [means[..., : j + 1, j:].min(axis=-1).max(axis=-1) for j in range(points)]
    return np.stack(fitted, axis=-1)
