"""95 % intervals of shares and means. Knows counts and clusters, not turns.

Samples of one scenario are not independent. Where no cluster has more than one value a share's interval is Wilson's
(Wilson 1927); else it is the percentile interval of a bootstrap that draws whole clusters (Davison and Hinkley 1997,
section 3.8), or, where all clusters have the same share and a bootstrap has no width, Wilson's with the clusters as n.
"""

from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
#: Standard normal quantile of (1 + LEVEL) / 2.
Z = 1.959963984540054


@dataclass(frozen=True)
class Interval:
    """A value with its bounds and how they were found; all None where there is nothing to count."""

    value: float | None
    low: float | None
    high: float | None
    method: str


def share(hits: np.ndarray, totals: np.ndarray, seed: int) -> Interval:
    """Share of hits. hits and totals hold one integer a cluster."""
    hits, totals = hits[totals > 0], totals[totals > 0]
    k, n = int(hits.sum()), int(totals.sum())
    if n == 0:
        return Interval(None, None, None, "none")
    if (totals == 1).all():
        return Interval(k / n, *wilson(k, n), "wilson")
    if (hits * n == k * totals).all():
        return Interval(k / n, *wilson(k / n * len(totals), len(totals)), "wilson over clusters")
    return Interval(k / n, *_bootstrap(hits, totals, seed), "cluster bootstrap")


def mean(sums: np.ndarray, totals: np.ndarray, seed: int) -> Interval:
    """Mean of values. sums and totals hold one number a cluster: the sum and count of its values."""
    sums, totals = sums[totals > 0], totals[totals > 0]
    if not len(totals):
        return Interval(None, None, None, "none")
    return Interval(float(sums.sum() / totals.sum()), *_bootstrap(sums, totals, seed), "cluster bootstrap")


def wilson(k: float, n: int) -> tuple[float, float]:
    """Wilson's score interval of k of n, the formula written out: scipy would cost each job a second to import."""
    centre = (k + Z**2 / 2) / (n + Z**2)
    half = Z / (n + Z**2) * (k * (n - k) / n + Z**2 / 4) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


def _bootstrap(sums: np.ndarray, totals: np.ndarray, seed: int) -> tuple[float, float]:
    drawn = np.random.default_rng(seed).integers(len(totals), size=(RESAMPLES, len(totals)))
    ratios = sums[drawn].sum(axis=1) / totals[drawn].sum(axis=1)
    low, high = np.quantile(ratios, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
