"""95 % intervals of shares and means. Knows counts and clusters, not turns.

Samples of one scenario are not independent. Where no cluster has more than one value, a share's interval is Wilson's
(Wilson 1927, JASA 22:209). Else it is the percentile interval of a bootstrap that draws whole clusters (Davison and
Hinkley 1997, section 3.8; Cameron, Gelbach and Miller 2008). Where all clusters have the same share (0 of n and n of n
among them) that bootstrap has no width, which would claim certainty: Wilson's interval with the number of clusters as
n, as wide as if each cluster were one answer, stands in its place. A mean without spread gets no interval.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, floor, hypot, sqrt

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A value with its bounds and how they were found; None where there is nothing to count, or no spread to go by."""

    value: float | None
    low: float | None
    high: float | None
    method: str


def share(hits: np.ndarray, totals: np.ndarray, seed: int) -> Interval:
    """Share of hits. hits and totals hold one integer a cluster; clusters without any count are left out."""
    hits, totals = hits[totals > 0], totals[totals > 0]
    k, n = int(hits.sum()), int(totals.sum())
    if n == 0:
        return Interval(None, None, None, "none")
    if (totals == 1).all():
        return Interval(k / n, *wilson(k, n), "wilson")
    if alike(hits, totals):
        # In whole clusters, rounded outwards, so that the interval is never too narrow.
        clusters = len(totals)
        low, _ = wilson(floor(k * clusters / n), clusters)
        _, high = wilson(ceil(k * clusters / n), clusters)
        return Interval(k / n, low, high, "wilson over clusters")
    return Interval(k / n, *_bootstrap(hits, totals, seed), "cluster bootstrap")


def alike(hits: np.ndarray, totals: np.ndarray) -> bool:
    """Whether all clusters have the same share, 0 of n and n of n among them."""
    return bool((hits * totals.sum() == hits.sum() * totals).all())


def difference(one: np.ndarray, other: np.ndarray, seed: int) -> Interval:
    """Share of hits of one minus that of another, counted in the same clusters.

    The interval is of a bootstrap that draws the same clusters for both, so that what they have in common cancels out.
    Where one share is the same in all clusters, that would take it for certain; there, and where the difference has no
    spread, it is Newcombe's hybrid of the two shares' own intervals, which takes them for independent (Newcombe 1998,
    Statistics in Medicine 17:873, method 10).

    Args:
        one, other: [clusters, 2], hits and totals of each cluster.
    """
    mine, theirs = share(one[:, 0], one[:, 1], seed), share(other[:, 0], other[:, 1], seed)
    if mine.value is None or theirs.value is None:
        return Interval(None, None, None, "none")
    value = mine.value - theirs.value
    if not alike(one[:, 0], one[:, 1]) and not alike(other[:, 0], other[:, 1]):
        low, high = resampled(np.hstack([one, other]), lambda s: s[:, 0] / s[:, 1] - s[:, 2] / s[:, 3], seed)
        if low is not None:
            return Interval(value, low, high, "cluster bootstrap")
    return Interval(value, *apart(mine, theirs), "newcombe")


def apart(one: Interval, other: Interval) -> tuple[float, float]:
    """Bounds of one value minus another from the bounds of each, taken for independent (Zou and Donner 2008, Statistics
    in Medicine 27:1693; of two shares it is Newcombe's method 10).
    """
    (a, low_a, high_a), (b, low_b, high_b) = _bounds(one), _bounds(other)
    return a - b - hypot(a - low_a, high_b - b), a - b + hypot(high_a - a, b - low_b)


def ratio(one: Interval, other: Interval) -> tuple[float, float]:
    """Bounds of one value over another whose bounds exclude 0, from the bounds of each, taken for independent: where
    the bounds of one minus so many times the other hold 0 (Donner and Zou 2012, Statistical Methods in Medical Research
    21:347).
    """
    (a, low_a, high_a), (b, low_b, high_b) = _bounds(one), _bounds(other)
    if high_b < 0:
        a, low_a, high_a, b, low_b, high_b = -a, -high_a, -low_a, -b, -high_b, -low_b
    return _least(a, low_a, b, low_b, high_b), -_least(-a, -high_a, b, low_b, high_b)


def _least(a: float, low_a: float, b: float, low_b: float, high_b: float) -> float:
    """The least s for which the bounds of a - s * b hold 0; b and its bounds are above 0."""
    edge = high_b if low_a > 0 else low_b
    p, q = low_a * (2 * a - low_a), edge * (2 * b - edge)
    root = sqrt(max(a * a * b * b - p * q, 0.0))
    return p / (a * b + root) if low_a > 0 else (a * b - root) / q


def _bounds(found: Interval) -> tuple[float, float, float]:
    assert found.value is not None and found.low is not None and found.high is not None
    return found.value, found.low, found.high


def mean(sums: np.ndarray, totals: np.ndarray, seed: int) -> Interval:
    """Mean of values. sums and totals hold one number a cluster: the sum and the count of its values."""
    sums, totals = sums[totals > 0], totals[totals > 0]
    if not len(totals):
        return Interval(None, None, None, "none")
    value = float(sums.sum() / totals.sum())
    if np.allclose(sums, value * totals):
        return Interval(value, None, None, "none: no spread")
    return Interval(value, *_bootstrap(sums, totals, seed), "cluster bootstrap")


def mean_difference(one: np.ndarray, other: np.ndarray, seed: int) -> Interval:
    """Mean of one minus that of another, [clusters, 2] of sums and totals; the same clusters are drawn for both."""
    (mine, count), (theirs, others) = one.sum(axis=0), other.sum(axis=0)
    if not count or not others:
        return Interval(None, None, None, "none")
    low, high = resampled(np.hstack([one, other]), lambda s: s[:, 0] / s[:, 1] - s[:, 2] / s[:, 3], seed)
    method = "none: no spread" if low is None else "cluster bootstrap"
    return Interval(float(mine / count - theirs / others), low, high, method)


def wilson(k: int, n: int) -> tuple[float, float]:
    """Wilson's score interval of k of n."""
    from scipy.stats import binomtest  # a second to import: paid by the job that measures, not by all that import atp

    interval = binomtest(k, n).proportion_ci(confidence_level=LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def resampled(
    clusters: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], seed: int
) -> tuple[float | None, float | None]:
    """Percentile interval of a statistic over resamples of whole clusters; (None, None) where it has no spread.

    Args:
        clusters: [clusters, columns], what each cluster adds to each sum.
        statistic: sums [resamples, columns] -> values [resamples]; resamples in which it is undefined are left out.
    """
    drawn = np.random.default_rng(seed).integers(len(clusters), size=(RESAMPLES, len(clusters)))
    with np.errstate(divide="ignore", invalid="ignore"):
        values = statistic(clusters[drawn].sum(axis=1))
    values = values[np.isfinite(values)]
    if not len(values) or np.ptp(values) == 0:
        return None, None
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _bootstrap(sums: np.ndarray, totals: np.ndarray, seed: int) -> tuple[float, float]:
    """Percentile interval of sum over count; it always holds the value itself."""
    low, high = resampled(np.stack([sums, totals], axis=1), lambda both: both[:, 0] / both[:, 1], seed)
    value = float(sums.sum() / totals.sum())
    return min(value if low is None else low, value), max(value if high is None else high, value)
