"""95 % intervals of proportions and means, from counts per cluster.

Samples of one scenario are not independent, so a cluster is a scenario. If no cluster has more than one value, a
proportion gets Wilson's interval (Wilson 1927, JASA 22:209). Otherwise it gets the percentile interval of a bootstrap
that resamples whole clusters (Davison and Hinkley 1997, section 3.8; Cameron, Gelbach and Miller 2008). If all clusters
have the same proportion (including 0 of n and n of n), that bootstrap has zero width and would claim certainty; then
Wilson's interval with n = number of clusters is used, as wide as if each cluster were one reply. A mean without spread
gets no interval.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, floor, hypot, sqrt

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A value, its bounds, and the method they come from; None where there are no counts or no spread."""

    value: float | None
    low: float | None
    high: float | None
    method: str


def share(hits: np.ndarray, totals: np.ndarray, seed: int) -> Interval:
    """Return the proportion sum(hits) / sum(totals), integers per cluster [clusters]; empty clusters are ignored."""
    hits, totals = hits[totals > 0], totals[totals > 0]
    k, n = int(hits.sum()), int(totals.sum())
    if n == 0:
        return Interval(None, None, None, "none")
    if (totals == 1).all():
        return Interval(k / n, *wilson(k, n), "wilson")
    if alike(hits, totals):
        # Counts of clusters, rounded outwards so that the interval is never too narrow.
        clusters = len(totals)
        low, _ = wilson(floor(k * clusters / n), clusters)
        _, high = wilson(ceil(k * clusters / n), clusters)
        return Interval(k / n, low, high, "wilson over clusters")
    return Interval(k / n, *_bootstrap(hits, totals, seed), "cluster bootstrap")


def alike(hits: np.ndarray, totals: np.ndarray) -> bool:
    """Return whether all clusters have the same proportion, including 0 of n and n of n."""
    return bool((hits * totals.sum() == hits.sum() * totals).all())


def difference(one: np.ndarray, other: np.ndarray, seed: int) -> Interval:
    """Return the proportion of `one` minus that of `other`, counted in the same clusters.

    The bootstrap draws the same clusters for both, so that shared variation cancels out. If either proportion is equal
    in all clusters, or the difference has no spread, it would claim certainty; then the interval is Newcombe's hybrid
    of the two separate intervals, which assumes independence (Newcombe 1998, Statistics in Medicine 17:873, method 10).

    Args:
        one, other: [clusters, 2], numerator and denominator of each cluster.
    """
    first, second = share(one[:, 0], one[:, 1], seed), share(other[:, 0], other[:, 1], seed)
    if first.value is None or second.value is None:
        return Interval(None, None, None, "none")
    value = first.value - second.value
    if not alike(one[:, 0], one[:, 1]) and not alike(other[:, 0], other[:, 1]):
        low, high = resampled(np.hstack([one, other]), lambda s: s[:, 0] / s[:, 1] - s[:, 2] / s[:, 3], seed)
        if low is not None:
            return Interval(value, low, high, "cluster bootstrap")
    return Interval(value, *apart(first, second), "newcombe")


def apart(one: Interval, other: Interval) -> tuple[float, float]:
    """Return bounds of `one` minus `other`, assuming independence, from the bounds of each (Zou and Donner 2008,
    Statistics in Medicine 27:1693; for two proportions this is Newcombe's method 10).
    """
    (a, low_a, high_a), (b, low_b, high_b) = _bounds(one), _bounds(other)
    return a - b - hypot(a - low_a, high_b - b), a - b + hypot(high_a - a, b - low_b)


def ratio(one: Interval, other: Interval) -> tuple[float, float]:
    """Return bounds of `one` / `other`, assuming independence; the bounds of `other` must exclude 0.

    They enclose the factors s for which the bounds of one - s * other include 0 (Donner and Zou 2012, Statistical
    Methods in Medical Research 21:347).
    """
    (a, low_a, high_a), (b, low_b, high_b) = _bounds(one), _bounds(other)
    if high_b < 0:
        a, low_a, high_a, b, low_b, high_b = -a, -high_a, -low_a, -b, -high_b, -low_b
    return _least(a, low_a, b, low_b, high_b), -_least(-a, -high_a, b, low_b, high_b)


def _least(a: float, low_a: float, b: float, low_b: float, high_b: float) -> float:
    """Return the smallest s for which the bounds of a - s * b include 0; b and its bounds are positive."""
    edge = high_b if low_a > 0 else low_b
    p, q = low_a * (2 * a - low_a), edge * (2 * b - edge)
    root = sqrt(max(a * a * b * b - p * q, 0.0))
    return p / (a * b + root) if low_a > 0 else (a * b - root) / q


def _bounds(interval: Interval) -> tuple[float, float, float]:
    assert interval.value is not None and interval.low is not None and interval.high is not None
    return interval.value, interval.low, interval.high


def mean(sums: np.ndarray, totals: np.ndarray, seed: int) -> Interval:
    """Return the mean sum(sums) / sum(totals), from sums and counts [clusters]; empty clusters are ignored."""
    sums, totals = sums[totals > 0], totals[totals > 0]
    if not len(totals):
        return Interval(None, None, None, "none")
    value = float(sums.sum() / totals.sum())
    if np.allclose(sums, value * totals):
        return Interval(value, None, None, "none: no spread")
    return Interval(value, *_bootstrap(sums, totals, seed), "cluster bootstrap")


def mean_difference(one: np.ndarray, other: np.ndarray, seed: int) -> Interval:
    """Return the mean of `one` minus that of `other`, both [clusters, 2]; the bootstrap draws the same clusters."""
    (first, first_count), (second, second_count) = one.sum(axis=0), other.sum(axis=0)
    if not first_count or not second_count:
        return Interval(None, None, None, "none")
    low, high = resampled(np.hstack([one, other]), lambda s: s[:, 0] / s[:, 1] - s[:, 2] / s[:, 3], seed)
    method = "none: no spread" if low is None else "cluster bootstrap"
    return Interval(float(first / first_count - second / second_count), low, high, method)


def wilson(k: int, n: int) -> tuple[float, float]:
    """Return Wilson's score interval of k / n."""
    from scipy.stats import binomtest  # takes a second to import

    interval = binomtest(k, n).proportion_ci(confidence_level=LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def resampled(
    clusters: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], seed: int
) -> tuple[float | None, float | None]:
    """Return the percentile interval of a statistic over resamples of clusters; (None, None) if it has no spread.

    Args:
        clusters: [clusters, columns], the contribution of each cluster to each sum.
        statistic: maps sums [resamples, columns] to values [resamples]; non-finite values are ignored.
    """
    indices = np.random.default_rng(seed).integers(len(clusters), size=(RESAMPLES, len(clusters)))
    with np.errstate(divide="ignore", invalid="ignore"):
        values = statistic(clusters[indices].sum(axis=1))
    values = values[np.isfinite(values)]
    if not len(values) or np.ptp(values) == 0:
        return None, None
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _bootstrap(sums: np.ndarray, totals: np.ndarray, seed: int) -> tuple[float, float]:
    """Return the percentile interval of sum / count, widened if needed to include the value itself."""
    low, high = resampled(np.stack([sums, totals], axis=1), lambda both: both[:, 0] / both[:, 1], seed)
    value = float(sums.sum() / totals.sum())
    return min(value if low is None else low, value), max(value if high is None else high, value)
