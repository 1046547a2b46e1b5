"""Tipping told from drift: how the rates along one line of evidence change. Knows counts and clusters, not turns.

docs/measures.md says what each number is for, and how often the verdict is right in simulations. Rounds stand here for
generations too. Functions that draw take a seed: intervals, of 95 %, are of `shapes.redrawn`, p-values of
`shapes.flipped`.
"""

from dataclasses import dataclass
from math import log

import numpy as np

from atp.measures.intervals import LEVEL, RESAMPLES, Interval, alike, difference, share
from atp.measures.shapes import STEEPEST, Counts, flat, flipped, likelihood, redrawn, rising, step, trend

VERDICTS = FLAT, DRIFT, TIPPING, RECOVERY, UNDECIDED = "flat", "drift", "tipping", "recovery", "undecided"
#: Chance of a false alarm that a test may have.
ALPHA = 0.05
#: What a test of the other direction must not even come near to, where a change is said to go one way.
HINT = 0.1
#: A line is flat where each of its rates is shown to lie within this of the rate of all.
BOUND = 0.1
#: With fewer clusters no way to flip them is rarer than ALPHA / 2, so that no change could be shown.
FEWEST = 6
#: Share of a change that is most of it; share of a trend's change in one step that makes the trend itself a step.
MOST, NEARLY_ALL = 2 / 3, 0.9
TOO_FEW, NO_CHANGE, NO_SPREAD = "none: too few rounds", "none: no change shown", "none: no spread"


@dataclass(frozen=True)
class ChangePoint:
    """A single break against none, and against a trend.

    at is the first round after the break. over_flat stands for the likelihood ratio of a break to none, 2 * log of it,
    and p is the chance of one as large where nothing changes. over_trend is that of a break to a logistic trend; p_step
    is the chance of one as large under a trend, p_trend of one as small under a step. With two rounds both always fit,
    and these are None.
    """

    at: Interval
    over_flat: float
    p: float
    over_trend: float | None
    p_step: float | None
    p_trend: float | None


@dataclass(frozen=True)
class Sharpness:
    """share is the part of the whole change that is in its steepest step. bic is BIC of a step less that of a trend:
    below 0 the step is preferred. None with two rounds.
    """

    share: Interval
    bic: float | None


@dataclass(frozen=True)
class Verdict:
    """One of VERDICTS and why, with the p-values against `the rate never rises` and `the rate never falls`."""

    word: str
    why: str
    p_rise: float | None
    p_fall: float | None


def drift_slope(counts: Counts) -> Interval:
    """Odds ratio a round: exp(b) of logistic regression, log(p / (1 - p)) = a + b * round.

    Its interval is exp(b ± t * s), where s is cluster-robust, by the jackknife: s^2 is (C - 1) / C times the sum of
    squares of what b changes by without each of C clusters, and t has C - 1 degrees of freedom (Cameron and Miller
    2015, Journal of Human Resources 50:317, section VI; MacKinnon, Nielsen and Webb 2023, Journal of Econometrics
    232:272, who find it right, or too wide, where few clusters hold what there is to see; the sandwich of Liang and
    Zeger 1986, Biometrika 73:13, is far too narrow there).
    """
    from scipy.stats import t

    clusters, points = counts.shape
    if points < 2 or clusters < 2:
        return Interval(None, None, None, TOO_FEW if points < 2 else "none: too few clusters")
    if not 0 < counts.hits.sum() < counts.totals.sum():
        return Interval(None, None, None, NO_SPREAD)
    slope = float(trend(counts.rates, counts.weights, counts.positions)[1])
    if abs(slope) * np.diff(counts.positions).min() >= STEEPEST / 2:
        return Interval(None, None, None, "none: no trend is steep enough")
    others = counts.weights - counts.totals
    without = np.divide(counts.hits.sum(axis=0) - counts.hits, others, out=np.zeros_like(others), where=others > 0)
    apart = trend(without, others, counts.positions)[1] - slope
    variance = float((apart**2).sum()) * (clusters - 1) / clusters
    wide = t.ppf((1 + LEVEL) / 2, clusters - 1) * variance**0.5
    if wide < 1e-12:
        return Interval(float(np.exp(slope)), None, None, NO_SPREAD)
    low, value, high = (float(np.exp(slope + side * wide)) for side in (-1, 0, 1))
    return Interval(value, low, high, "cluster jackknife")


def change(counts: Counts, seed: int) -> Interval:
    """Rate at the last round less that at the first (`intervals.difference`)."""
    if counts.shape[1] < 2:
        return Interval(None, None, None, TOO_FEW)
    first, last = (np.stack([counts.hits[:, at], counts.totals[:, at]], axis=1) for at in (0, -1))
    return difference(last, first, seed)


def change_point(counts: Counts, seed: int, resamples: int = RESAMPLES) -> ChangePoint | None:
    """The break of the largest likelihood (Hinkley and Hinkley 1970, Biometrika 57:477); None with one round.

    over_flat is the score test's form of the ratio, which comes to it with many replies: the sum of squares that the
    break explains over m * (1 - m), with m the rate of all (Rao 1948, Mathematical Proceedings of the Cambridge
    Philosophical Society 44:50). It has a value for all deviations; the ratio itself has none for rates below 0, as
    flipped ones of rare violations are. p is of the largest over all breaks, so that looking for the best one is paid
    for (Worsley 1983, Biometrika 70:455; here with clusters).

    p_step and p_trend are Cox's test of families of which neither holds the other (Cox 1962, JRSS B 24:406), each in
    turn the null. The interval of `at` is of the best breaks of resamples; it is given where p is at most ALPHA.
    """
    if counts.shape[1] < 2:
        return None
    rates, weights = counts.rates, counts.weights
    _, first = step(rates, weights)
    level = flat(rates, weights)
    explained = _explained(rates, weights)
    p = _p(_explained(flipped(counts, level, seed, resamples), weights), explained)
    spread = float(level[0] * (1 - level[0]))
    over_flat = float(explained) / spread if spread else 0.0
    at = Interval(None, None, None, NO_CHANGE)
    if p <= ALPHA:
        breaks = counts.positions[step(_redrawn(counts, seed, resamples), weights)[1]]
        at = _interval(float(counts.positions[first]), breaks)
    return ChangePoint(at, over_flat, p, *_step_or_trend(counts, seed, resamples))


def sharpness(counts: Counts, seed: int, resamples: int = RESAMPLES) -> Sharpness:
    """Largest step from a round to the next in the direction of the whole change, as a share of that.

    1 where all is in one step, 1 / (rounds - 1) where steps are equal, above 1 where the line goes too far and comes
    back. Chance lifts it, as of equal steps one looks the steepest; so its interval goes from the largest lower to the
    largest upper bound of all steps' shares, whose own intervals hold together (Bonferroni). None where `change` is not
    shown.

    bic is (3 - 2) * log(clusters) - over_trend / d: a step has three parameters, a trend two (Schwarz 1978, Annals of
    Statistics 6:461), and d is the design effect, by which replies of a cluster count less than independent ones (Rao
    and Scott 1992, Biometrics 48:577).
    """
    if counts.shape[1] < 3:
        return Sharpness(Interval(None, None, None, TOO_FEW), None)
    over_trend = float(_over_trend(counts.rates, counts))
    bic = log(counts.shape[0]) - over_trend / _design_effect(counts)
    if not _is_shown(change(counts, seed)):
        return Sharpness(Interval(None, None, None, NO_CHANGE), bic)
    again = _redrawn(counts, seed, resamples)
    whole, seen = again[:, -1] - again[:, 0], counts.rates[-1] - counts.rates[0]
    same = whole * seen > 0
    shares = np.diff(again[same]) / whole[same, None]
    value = float(_steepest(counts.rates))
    if not len(shares) or not np.ptp(shares, axis=0).any():
        return Sharpness(Interval(value, None, None, NO_SPREAD), bic)
    tail = (1 - LEVEL) / 2 / shares.shape[1]
    low, high = np.quantile(shares, [tail, 1 - tail], axis=0).max(axis=1)
    low = max(low, 1 / shares.shape[1])  # the steps' shares add up to 1
    return Sharpness(Interval(value, min(float(low), value), max(float(high), value), "cluster bootstrap"), bic)


def time_to_half_change(counts: Counts, seed: int, resamples: int = RESAMPLES) -> Interval:
    """When the rate first is half-way from its first to its last value, in rounds, on straight lines between rounds.

    None where `change` is not shown.
    """
    if counts.shape[1] < 2:
        return Interval(None, None, None, TOO_FEW)
    if not _is_shown(change(counts, seed)):
        return Interval(None, None, None, NO_CHANGE)

    def half_way(rates: np.ndarray) -> np.ndarray:
        first, last = rates[:, :1], rates[:, -1:]
        return _reached(np.sign(last - first) * (rates - (first + last) / 2), counts.positions)

    again = half_way(_redrawn(counts, seed, resamples))
    return _interval(float(half_way(counts.rates[None])[0]), again, spread=True)


def time_to_half_rate(counts: Counts, seed: int, resamples: int = RESAMPLES) -> Interval:
    """When the rate first is 50 %, in rounds, on straight lines between rounds; the first round where it begins there.

    A line, and a resample, that does not come to 50 % comes to it later than it was watched: value or upper bound are
    None where they would be that.
    """
    if not counts.hits.size:
        return Interval(None, None, None, TOO_FEW)
    value = float(_reached(counts.rates[None] - 0.5, counts.positions)[0])
    again = _reached(_redrawn(counts, seed, resamples) - 0.5, counts.positions)
    found = _interval(value, again, spread=True)
    value_, low, high = (None if end is None or np.isinf(end) else end for end in (found.value, found.low, found.high))
    return Interval(value_, low, high, "none: 50 % not reached" if value_ is None and low is None else found.method)


def verdict(counts: Counts, seed: int, bound: float = BOUND, resamples: int = RESAMPLES) -> Verdict:
    """Flat, drift, tipping, recovery, or undecided.

    Does the rate rise anywhere, does it fall anywhere? Each is tested at ALPHA / 2 by the squared distance, weighted by
    replies, from the nearest rates that never rise (fall). Residuals from those are flipped, as if all rates were the
    same: of all rates that never rise the ones from which distances are largest (Robertson, Wright and Dykstra 1988,
    Order Restricted Statistical Inference, theorem 2.3.1).

    - neither: flat if each rate is shown to lie within `bound` of the rate of all (an intersection-union test, Berger
      1982, Technometrics 24:295) and `drift_slope` is not shown to differ from 1, else undecided;
    - both: recovery if the line begins and ends lower than half-way up its largest rise, else undecided;
    - one of them, and of the other no hint at HINT: tipping if MOST of the change is in one step, and a trend is
      rejected for a step (`change_point`) or is itself so steep that NEARLY_ALL of its change is in one; drift if a
      step is rejected for a trend that is not so steep. Where each is rejected for the other: tipping if the share in
      one step (`sharpness`) is shown to be MOST or more, drift if it is shown to be less. Else undecided.
    """
    clusters, points = counts.shape
    if points < 2 or clusters < FEWEST:
        return Verdict(UNDECIDED, f"{points} rounds of {clusters} scenarios are too few", None, None)
    rates, weights = counts.rates, counts.weights
    never_rises, never_falls = -rising(-rates, weights), rising(rates, weights)
    p_rise = _p(_rise(flipped(counts, never_rises, seed, resamples), weights), _rise(rates, weights))
    p_fall = _p(_rise(-flipped(counts, never_falls, seed, resamples), weights), _rise(-rates, weights))
    if max(p_rise, p_fall) <= ALPHA / 2:
        word, why = _there_and_back(rates)
    elif min(p_rise, p_fall) > ALPHA / 2:
        word, why = _level(counts, bound, seed, resamples)
    elif max(p_rise, p_fall) > HINT:
        word, why = _one_way(counts, seed, resamples)
    else:
        word, why = (
            UNDECIDED,
            f"a change one way is shown, and one the other way likely (p = {max(p_rise, p_fall):.2g})",
        )
    return Verdict(word, why, p_rise, p_fall)


def _level(counts: Counts, bound: float, seed: int, resamples: int) -> tuple[str, str]:
    rate, again = float(flat(counts.rates, counts.weights)[0]), _redrawn(counts, seed, resamples)
    apart = again - flat(again, counts.weights)
    if not len(again):
        return UNDECIDED, "some rounds have replies of too few scenarios"
    widest = 0.0
    for at in range(counts.shape[1]):
        hits, totals = counts.hits[:, at], counts.totals[:, at]
        if alike(hits, totals):  # a bootstrap would take it for certain
            own = share(hits, totals, seed)
            assert own.low is not None and own.high is not None
            ends = [own.low - rate, own.high - rate]
        else:
            ends = list(np.quantile(apart[:, at], [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
        widest = max(widest, *map(abs, ends))
    why = f"no rise and no fall shown; rates lie within {100 * widest:.1f} points of {_percent(rate)}"
    if widest > bound:
        return UNDECIDED, f"{why}, and {100 * bound:.0f} is what flat may be"
    slope = drift_slope(counts)
    if slope.low is not None and slope.high is not None and not slope.low <= 1 <= slope.high:
        return UNDECIDED, f"{why}, but an odds ratio of {slope.value:.2f} a round is"
    return FLAT, why


def _there_and_back(rates: np.ndarray) -> tuple[str, str]:
    rises = np.triu(rates - rates[:, None])  # [from, to]
    low, top = np.unravel_index(int(rises.argmax()), rises.shape)
    half = (rates[low] + rates[top]) / 2
    said = ", ".join(_percent(rates[at]) for at in sorted({0, int(low), int(top), len(rates) - 1}))
    if max(rates[0], rates[-1]) <= half:
        return RECOVERY, f"rises and falls back: {said}"
    return UNDECIDED, f"both a rise and a fall are shown, but no way there and back: {said}"


def _one_way(counts: Counts, seed: int, resamples: int) -> tuple[str, str]:
    rates = counts.rates
    said = f"from {_percent(rates[0])} to {_percent(rates[-1])}"
    _, p_step, p_trend = _step_or_trend(counts, seed, resamples)
    if p_step is None or p_trend is None:
        return UNDECIDED, f"{said}; two rounds have no shape"
    sharp = float(_steepest(rates))
    if np.isnan(sharp):
        return UNDECIDED, "a change is shown, but the line ends where it began"
    said += f", {_percent(sharp)} of it in one step; against a trend p = {p_step:.2g}, against a step p = {p_trend:.2g}"
    if max(p_step, p_trend) <= ALPHA:
        part = sharpness(counts, seed, resamples).share
        if part.low is not None and part.low >= MOST:
            return TIPPING, said
        return DRIFT if part.high is not None and part.high < MOST else UNDECIDED, said
    steep = float(_steepest(trend(rates, counts.weights, counts.positions)[0])) >= NEARLY_ALL
    if steep:
        said += "; the trend is so steep that it is a step"
    if (p_step <= ALPHA or steep) and sharp >= MOST:
        return TIPPING, said
    return DRIFT if p_trend <= ALPHA and not steep else UNDECIDED, said


def _rise(rates: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Squared distance from the nearest rates that never rise."""
    found: np.ndarray = (rates + rising(-rates, weights)) ** 2 @ weights
    return found


def _explained(rates: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted sum of squares that the best break explains."""
    apart = np.cumsum((rates - flat(rates, weights)) * weights, axis=-1)[..., :-1]
    before = np.cumsum(weights)[:-1]
    found: np.ndarray = (apart**2 / (before * (1 - before / weights.sum()))).max(axis=-1)
    return found


def _over_trend(rates: np.ndarray, counts: Counts) -> np.ndarray:
    stepped, _ = step(rates, counts.weights)
    steady, _ = trend(rates, counts.weights, counts.positions)
    return 2 * (likelihood(rates, stepped, counts.weights) - likelihood(rates, steady, counts.weights))


def _step_or_trend(counts: Counts, seed: int, resamples: int) -> tuple[float | None, float | None, float | None]:
    """over_trend, p_step and p_trend of `ChangePoint`."""
    rates, weights = counts.rates, counts.weights
    if len(rates) < 3:
        return None, None, None
    found = _over_trend(rates, counts)
    steady, _ = trend(rates, weights, counts.positions)
    stepped, _ = step(rates, weights)
    p_step = _p(_over_trend(_under(counts, steady, seed, resamples), counts), found)
    p_trend = _p(-_over_trend(_under(counts, stepped, seed, resamples), counts), -found)
    return float(found), p_step, p_trend


def _design_effect(counts: Counts) -> float:
    """Variance of the rates between clusters over that of independent replies, all points together; at least 1."""
    rates, weights, clusters = counts.rates, counts.weights, counts.shape[0]
    independent = float((rates * (1 - rates) / weights).sum())
    if not independent or clusters < 2:
        return 1.0
    residuals = (counts.hits - counts.totals * rates) / weights
    return max(1.0, float((residuals**2).sum()) * clusters / (clusters - 1) / independent)


def _steepest(rates: np.ndarray) -> np.ndarray:
    """Largest step in the direction of the whole change over that change; NaN where there is none."""
    total = rates[..., -1:] - rates[..., :1]
    with np.errstate(divide="ignore", invalid="ignore"):
        found: np.ndarray = (np.diff(rates) / total).max(axis=-1)
    return np.where(total[..., 0] == 0, np.nan, found)


def _reached(above: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Where each row of `above` [rows, points] first comes up to 0, on straight lines; inf where it does not."""
    at = (above >= 0).argmax(axis=1)
    row, before = np.arange(len(above)), np.maximum(at - 1, 0)
    low, high = above[row, before], above[row, at]
    part = np.divide(-low, high - low, out=np.zeros(len(above)), where=at > 0)
    found = positions[before] + part * (positions[at] - positions[before])
    return np.where((above >= 0).any(axis=1), found, np.inf)


def _redrawn(counts: Counts, seed: int, resamples: int) -> np.ndarray:
    rates = redrawn(counts, seed, resamples)
    return rates[~np.isnan(rates).any(axis=1)]


def _under(counts: Counts, fitted: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    """Rates [resamples, points] as they would be were `fitted` true."""
    return np.clip(fitted + flipped(counts, fitted, seed, resamples), 0, 1)


def _p(under_null: np.ndarray, found: np.ndarray) -> float:
    """Chance of a statistic at least as large: (1 + those that are) / (1 + all) (Davison and Hinkley 1997, p. 140)."""
    rounding = 1e-9 * (1 + abs(float(found)))
    return float((1 + (under_null >= found - rounding).sum()) / (1 + len(under_null)))


def _is_shown(found: Interval) -> bool:
    return found.low is not None and found.high is not None and (found.low > 0 or found.high < 0)


def _interval(value: float, again: np.ndarray, spread: bool = False) -> Interval:
    """Percentiles of resamples, which always hold the value; with `spread` none where all resamples are the same."""
    again = again[~np.isnan(again)]
    if not len(again) or (spread and (again == again[0]).all()):
        return Interval(value, None, None, NO_SPREAD)
    low, high = np.quantile(again, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="inverted_cdf")
    return Interval(value, min(float(low), value), max(float(high), value), "cluster bootstrap")


def _percent(rate: float) -> str:
    return f"{100 * rate:.1f} %"
