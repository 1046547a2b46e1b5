"""The slope of a logistic trend over the points of a series."""

import numpy as np

from atp.measures.intervals import LEVEL, Interval
from atp.measures.shapes import MAX_SLOPE, Counts, trend

NO_SPREAD = "none: no spread"


def drift_slope(counts: Counts) -> Interval:
    """Return the odds ratio per round: exp(b) of the logistic regression log(p / (1 - p)) = a + b * round.

    The interval is exp(b ± t * s) with the cluster-robust jackknife standard error s: s^2 is (C - 1) / C times the sum
    of squared changes of b when each of the C clusters is left out (MacKinnon, Nielsen and Webb 2023, Journal of
    Econometrics 232:272). With C - 1 degrees of freedom for t, coverage falls to 85 % if few clusters hold the
    violations, so t has as many as clusters carry s^2, (sum of changes^2)^2 / sum of changes^4, and at least 2.
    """
    from scipy.special import stdtrit

    clusters, _ = counts.shape
    if clusters < 2:
        return Interval(None, None, None, "none: too few clusters")
    if not 0 < counts.hits.sum() < counts.totals.sum():
        return Interval(None, None, None, NO_SPREAD)
    slope = float(trend(counts.rates, counts.weights, counts.positions)[1])
    if abs(slope) * np.diff(counts.positions).min() >= MAX_SLOPE / 2:
        return Interval(None, None, None, "none: no trend is steep enough")
    others = counts.weights - counts.totals
    without = np.divide(counts.hits.sum(axis=0) - counts.hits, others, out=np.zeros_like(others), where=others > 0)
    deviations = trend(without, others, counts.positions)[1] - slope
    variance = float((deviations**2).sum()) * (clusters - 1) / clusters
    if variance < 1e-24:
        return Interval(float(np.exp(slope)), None, None, NO_SPREAD)
    carrying = float((deviations**2).sum()) ** 2 / float((deviations**4).sum())
    margin = stdtrit(min(max(carrying, 2.0), max(clusters - 1, 1)), (1 + LEVEL) / 2) * variance**0.5
    low, value, high = (float(np.exp(slope + side * margin)) for side in (-1, 0, 1))
    return Interval(value, low, high, "cluster jackknife")
