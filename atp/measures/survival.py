"""Times to an event that some never reach: Kaplan and Meier's curve, its median, and the restricted mean.

A mean over those that reached the event ignores the others, and so reverses the order of two groups if the slower one
has few fast members (Kaplan and Meier 1958, JASA 53:457; restricted mean: Royston and Parmar 2013, BMC Medical Research
Methodology 13:152). The cluster of an interval is the scenario.
"""

import numpy as np

from atp.measures.intervals import Interval, mean, share


def kaplan_meier(times: np.ndarray, reached: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rounds 1, 2, … up to the largest time, and the proportion that has not reached the event after each.

    Args:
        times: round of the event, or the last round observed [units].
        reached: whether the event was reached [units]; those that were not are at risk in their last round.
    """
    rounds = np.arange(1, times.max() + 1)
    at_risk = (times >= rounds[:, None]).sum(axis=1)
    events = ((times == rounds[:, None]) & reached).sum(axis=1)
    return rounds, np.cumprod(1 - events / at_risk)


def restricted_mean(times: np.ndarray, reached: np.ndarray, scenarios: np.ndarray) -> Interval:
    """Return the mean round of the event, where that of units that do not reach it counts as the last round.

    It is the area under Kaplan and Meier's curve up to the last round. The interval is t over the jackknife's
    pseudo-values of the scenarios (Andersen, Klein and Rosthøj 2003, Biometrika 90:15).
    """
    last = int(times.max())

    def area(chosen: np.ndarray) -> float:
        survival = np.ones(last)
        curve = kaplan_meier(times[chosen], reached[chosen])[1][: last - 1]
        survival[1 : 1 + len(curve)] = curve
        survival[1 + len(curve) :] = curve[-1] if len(curve) else 1.0
        return float(survival.sum())

    value, names = area(np.ones(len(times), bool)), np.unique(scenarios)
    if len(names) < 2:
        return Interval(value, None, None, "none: one scenario")
    pseudo = np.array([len(names) * value - (len(names) - 1) * area(scenarios != name) for name in names])
    interval = mean(pseudo, np.ones(len(names)))
    method = "kaplan-meier, jackknife" if interval.low is not None else interval.method
    low, high = (None if bound is None else float(np.clip(bound, 1, last)) for bound in (interval.low, interval.high))
    return Interval(value, low, high, method)


def median(times: np.ndarray, reached: np.ndarray, scenarios: np.ndarray) -> Interval:
    """Return the first round after which half or fewer have not reached the event; None if it is after the last round.

    The bounds are those rounds at which an interval of the proportion that has not reached it includes one half
    (Brookmeyer and Crowley 1982, Biometrics 38:29). Units are observed for the same number of rounds.
    """
    rounds, survival = kaplan_meier(times, reached)
    _, cluster = np.unique(scenarios, return_inverse=True)
    units = np.bincount(cluster)
    left = [
        share(np.bincount(cluster, weights=(times > round) | ~reached, minlength=len(units)).astype(int), units)
        for round in rounds
    ]
    curves = ([each.low or 0.0 for each in left], survival, [1.0 if each.high is None else each.high for each in left])
    low, value, high = (next((int(r) for r, s in zip(rounds, c, strict=True) if s <= 0.5), None) for c in curves)
    return Interval(value, low, high, "kaplan-meier" if value is not None else "none: half do not reach it")
