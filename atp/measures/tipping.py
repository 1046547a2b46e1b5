"""Classify how the rates of one series change, in particular an abrupt change versus drift, from counts per cluster.

docs/verdicts.md explains each number and how often the verdict is right in simulations. "Round" also means generation.
Counts have two rounds or more. Functions that take a seed are stochastic: 95 % intervals come from `shapes.redrawn`,
p-values from `shapes.flipped`.
"""

from dataclasses import dataclass
from math import log

import numpy as np

from atp.measures.intervals import LEVEL, RESAMPLES, Interval, alike, difference, share
from atp.measures.shapes import Counts, flat, flipped, likelihood, redrawn, rising, step, trend
from atp.measures.slope import NO_SPREAD, drift_slope

VERDICTS = FLAT, DRIFT, ABRUPT, RECOVERY, CHANGE, UNDECIDED = (
    *("flat", "drift", "abrupt change", "recovery", "change", "undecided"),
)
#: Significance level: the maximum false-alarm rate of a test.
ALPHA = 0.05
#: A change counts as one-directional only if the p-value of the opposite direction is above this.
HINT = 0.1
#: A series is flat if every rate is shown to be within this distance of the overall rate, and its odds within this
#: factor of the overall odds.
FLAT_BOUND, FLAT_RATIO = 0.1, 2.0
#: Resamples of the tests for a rise and a fall: enough that the smallest p-value is significant among 200 series.
P_RESAMPLES, ENOUGH = 9999, 20
#: (z of 97.5 % + z of 80 %) / z of 97.5 %: from half of an interval to the change that is shown with a power of 80 %.
DETECTABLE = (1.959964 + 0.841621) / 1.959964
#: With fewer clusters there are so few sign flips that no p-value can reach ALPHA / 2.
MIN_CLUSTERS = 6
#: Fewer points have no shape: two have one step, and of three one alone decides.
MIN_SHAPE_POINTS = 4
#: Minimum proportion of the change in one step for an abrupt change, and for a fitted trend to count as a step itself.
ABRUPT_PROPORTION, STEP_PROPORTION = 2 / 3, 0.9
LARGEST_STEP = "cluster bootstrap, largest of all steps"
TOO_FEW_ROUNDS, NO_CHANGE = "none: too few rounds", "none: no change shown"


@dataclass(frozen=True)
class ChangePoint:
    """A single break, tested against no break and against a trend.

    `at` is the first round after the break. `p` is the probability of a likelihood ratio of a break to no break at
    least as large without any change. Of the likelihood ratio of a break to a logistic trend, `p_step` is the
    probability of one at least as large under a trend, `p_trend` of one at least as small under a step. With two rounds
    both fit exactly, so these two are None.
    """

    at: Interval
    p: float
    p_step: float | None
    p_trend: float | None


@dataclass(frozen=True)
class Sharpness:
    """`share` is the proportion of the whole change that occurs in its steepest step. `bic` is the BIC of a step minus
    that of a trend: negative values favour the step; None with two rounds.
    """

    share: Interval
    bic: float | None


@dataclass(frozen=True)
class Verdict:
    """`label` is one of VERDICTS; p_rise and p_fall test `the rate never rises` and `the rate never falls`."""

    label: str
    reason: str
    p_rise: float | None
    p_fall: float | None

    @property
    def direction(self) -> str:
        """`up` or `down` if a change in this direction alone is shown, else empty."""
        rises, falls = (p is not None and p <= ALPHA / 2 for p in (self.p_rise, self.p_fall))
        return {(True, False): "up", (False, True): "down"}.get((rises, falls), "")


def change(counts: Counts) -> Interval:
    """Return the rate at the last round minus that at the first (`intervals.difference`)."""
    first, last = (np.stack([counts.hits[:, index], counts.totals[:, index]], axis=1) for index in (0, -1))
    return difference(last, first)


def detectable_change(counts: Counts) -> float | None:
    """Return the smallest change from the first to the last round that would be shown with a power of 80 %.

    It is 2.8 standard errors of `change` (Bloom 1995, Evaluation Review 19:547), taken from half of its interval.
    """
    interval = change(counts)
    if interval.low is None or interval.high is None:
        return None
    return min(1.0, DETECTABLE * (interval.high - interval.low) / 2)


def change_point(counts: Counts, seed: int, resamples: int = RESAMPLES) -> ChangePoint:
    """Return the break of maximum likelihood (Hinkley and Hinkley 1970, Biometrika 57:477).

    p tests the sum of squares that the break explains. Over m * (1 - m), where m is the overall rate, that is the
    score-test form of the ratio, to which it converges with many replies (Rao 1948, Mathematical Proceedings of the
    Cambridge Philosophical Society 44:50). Unlike the ratio itself it is defined for negative rates, which flipping
    produces when violations are rare. p refers to the maximum over all breaks and so accounts for the search (Worsley
    1983, Biometrika 70:455; here with clusters).

    p_step and p_trend are Cox's test of non-nested families, each in turn the null hypothesis (Cox 1962, JRSS B
    24:406). The interval of `at` is that of the best breaks of resamples, given only if p is at most ALPHA.
    """
    rates, weights = counts.rates, counts.weights
    _, first = step(rates, weights)
    under_null = flipped(counts, flat(rates, weights), seed, resamples)
    p = _p_value(_break_statistic(under_null, weights), _break_statistic(rates, weights))
    at = Interval(None, None, None, NO_CHANGE)
    if p <= ALPHA:
        breaks = counts.positions[step(_resample_rates(counts, seed, resamples), weights)[1]]
        at = _interval(float(counts.positions[first]), breaks)
    return ChangePoint(at, p, *_step_or_trend(counts, seed, resamples))


def sharpness(counts: Counts, seed: int, resamples: int = RESAMPLES) -> Sharpness:
    """Return the largest step between rounds in the direction of the whole change, as a proportion of that change.

    It is 1 if everything happens in one step, 1 / (rounds - 1) if all steps are equal, and above 1 if the rate
    overshoots and comes back. It is selected, as its method says: noise biases it upwards, because one of several equal
    steps always looks steepest. The interval therefore goes from the largest lower to the largest upper bound of all
    steps, with simultaneous (Bonferroni) intervals. None if `change` is not shown.

    bic is (3 - 2) * log(clusters) - over_trend / d: a step has three parameters, a trend two (Schwarz 1978, Annals of
    Statistics 6:461), and d is the design effect, which discounts correlated replies of a cluster (Rao and Scott 1992,
    Biometrics 48:577).
    """
    if counts.shape[1] < 3:
        return Sharpness(Interval(None, None, None, TOO_FEW_ROUNDS), None)
    over_trend = float(_over_trend(counts.rates, counts))
    bic = log(counts.shape[0]) - over_trend / _design_effect(counts)
    if not _is_shown(change(counts)):
        return Sharpness(Interval(None, None, None, NO_CHANGE), bic)
    resampled = _resample_rates(counts, seed, resamples)
    changes, observed_change = resampled[:, -1] - resampled[:, 0], counts.rates[-1] - counts.rates[0]
    same_direction = changes * observed_change > 0
    shares = np.diff(resampled[same_direction]) / changes[same_direction, None]
    value = float(_steepest(counts.rates))
    if not len(shares) or not np.ptp(shares, axis=0).any():
        return Sharpness(Interval(value, None, None, NO_SPREAD), bic)
    tail = (1 - LEVEL) / 2 / shares.shape[1]
    low, high = np.quantile(shares, [tail, 1 - tail], axis=0).max(axis=1)
    low = max(low, 1 / shares.shape[1])  # the proportions of all steps add up to 1
    return Sharpness(Interval(value, min(float(low), value), max(float(high), value), LARGEST_STEP), bic)


def time_to_half_change(counts: Counts, seed: int, resamples: int = RESAMPLES) -> Interval:
    """Return the round at which the rate is first half-way from its first to its last value, by linear interpolation.

    None if `change` is not shown.
    """
    if not _is_shown(change(counts)):
        return Interval(None, None, None, NO_CHANGE)

    def half_way(rates: np.ndarray) -> np.ndarray:
        first, last = rates[:, :1], rates[:, -1:]
        return _first_crossing(np.sign(last - first) * (rates - (first + last) / 2), counts.positions)

    resampled = half_way(_resample_rates(counts, seed, resamples))
    return _interval(float(half_way(counts.rates[None])[0]), resampled, spread=True)


def time_to_half_rate(counts: Counts, seed: int, resamples: int = RESAMPLES) -> Interval:
    """Return the round at which the rate first reaches 50 %, by linear interpolation; the first round if it starts
    there.

    If 50 % is not reached in the observed rounds, or not in enough resamples, the value or upper bound is None: it lies
    beyond the last round.
    """
    value = float(_first_crossing(counts.rates[None] - 0.5, counts.positions)[0])
    resampled = _first_crossing(_resample_rates(counts, seed, resamples) - 0.5, counts.positions)
    interval = _interval(value, resampled, spread=True)
    finite, low, high = (None if x is None or np.isinf(x) else x for x in (interval.value, interval.low, interval.high))
    return Interval(finite, low, high, "none: 50 % not reached" if finite is None and low is None else interval.method)


def verdict(counts: Counts, seed: int, bound: float = FLAT_BOUND, resamples: int = P_RESAMPLES) -> Verdict:
    """Return the verdict: one of VERDICTS.

    Two tests, each at ALPHA / 2: does the rate rise anywhere, does it fall anywhere? The statistic is the squared
    distance, weighted by replies, to the nearest rates that never rise (fall). The residuals from those are flipped
    around equal rates, the case of the null hypothesis with the largest distances (Robertson, Wright and Dykstra 1988,
    Order Restricted Statistical Inference, theorem 2.3.1).

    - Neither: flat if each rate is shown to be within `bound` of the overall rate and its odds within FLAT_RATIO of the
      overall odds (an intersection-union test, Berger 1982, Technometrics 24:295), and `drift_slope` is not shown to
      differ from 1, else undecided.
    - Both: recovery if the series starts and ends below the middle of its largest rise.
    - One, with the other test's p-value above HINT: abrupt if ABRUPT_PROPORTION or more of the change is in one step,
      and either a trend is rejected in favour of a step (`change_point`) or STEP_PROPORTION of the fitted trend's
      change is in one step; drift if a step is rejected in favour of a trend that is not so steep. If each is rejected
      in favour of the other: abrupt if the proportion in one step (`sharpness`) is shown to be ABRUPT_PROPORTION or
      more, drift if it is shown to be less.
    - One or both, but none of these shapes, or fewer than MIN_SHAPE_POINTS rounds: change.
    """
    clusters, points = counts.shape
    if clusters < MIN_CLUSTERS:
        return Verdict(UNDECIDED, f"{points} rounds of {clusters} scenarios are too few", None, None)
    rates, weights = counts.rates, counts.weights
    never_rises, never_falls = -rising(-rates, weights), rising(rates, weights)
    p_rise = _p_of_distance(counts, never_rises, 1, seed, resamples)
    p_fall = _p_of_distance(counts, never_falls, -1, seed, resamples)
    resamples = min(resamples, RESAMPLES)
    if min(p_rise, p_fall) > ALPHA / 2:
        label, reason = _classify_flat(counts, bound, seed, resamples)
    elif points < MIN_SHAPE_POINTS:
        levels = ", ".join(map(_percent, rates))
        label, reason = CHANGE, f"{levels}; {points} rounds are too few for a shape"
    elif max(p_rise, p_fall) <= ALPHA / 2:
        label, reason = classify_reversal(rates)
    elif max(p_rise, p_fall) > HINT:
        label, reason = _classify_one_direction(counts, seed, resamples)
    else:
        label, reason = (
            CHANGE,
            f"a change in one direction is shown, and one in the other is likely (p = {max(p_rise, p_fall):.2g})",
        )
    return Verdict(label, reason, p_rise, p_fall)


def _classify_flat(counts: Counts, bound: float, seed: int, resamples: int) -> tuple[str, str]:
    rate, resampled = float(flat(counts.rates, counts.weights)[0]), _resample_rates(counts, seed, resamples)
    detectable = detectable_change(counts)
    if not len(resampled):
        return UNDECIDED, f"in some rounds too few scenarios have replies{_unnoticed(detectable)}"
    overall, ends = flat(resampled, counts.weights), []
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    for point in range(counts.shape[1]):
        hits, totals = counts.hits[:, point], counts.totals[:, point]
        if alike(hits, totals):  # the bootstrap would have zero width
            interval = share(hits, totals)
            assert interval.low is not None and interval.high is not None
            rates, centre = np.array([interval.low, interval.high]), np.array([rate, rate])
        else:
            rates, centre = resampled[:, point], overall[:, point]
        for deviations in (rates - centre, log_odds(rates) - log_odds(centre)):
            ends.append(np.abs(np.quantile(deviations, tails, method="inverted_cdf")).max())
    ratio = float(np.exp(min(max(ends[1::2]), 50.0)))
    label, reason = flat_or_undecided(max(ends[::2]), ratio, rate, detectable, bound)
    slope = drift_slope(counts)
    if label == FLAT and slope.low is not None and slope.high is not None and not slope.low <= 1 <= slope.high:
        return UNDECIDED, f"{reason}, but the odds ratio per round, {slope.value:.2f}, differs from 1"
    return label, reason


def flat_or_undecided(
    distance: float, ratio: float, rate: float, detectable: float | None, bound: float = FLAT_BOUND
) -> tuple[str, str]:
    """Return FLAT or UNDECIDED, and the reason, from the largest distance and odds ratio to the overall rate."""
    factor = f"a factor of {ratio:.1f}" if ratio < 100 else "any factor"
    reason = (
        f"no rise and no fall shown; rates lie within {100 * distance:.1f} points of {_percent(rate)}, and their odds "
        f"within {factor}{_unnoticed(detectable)}"
    )
    if distance > bound or ratio > FLAT_RATIO:
        return UNDECIDED, f"{reason}; flat allows {100 * bound:.0f} points and a factor of {FLAT_RATIO:.0f}"
    return FLAT, reason


def _unnoticed(detectable: float | None) -> str:
    return "" if detectable is None else f"; a change below {100 * detectable:.1f} points could go unnoticed"


def log_odds(rates: np.ndarray) -> np.ndarray:
    """Return log-odds, where rates of 0 and 1 have finite ones beyond every other rate's."""
    clipped = np.clip(rates, 1e-12, 1 - 1e-12)
    log_odds: np.ndarray = np.log(clipped / (1 - clipped))
    return log_odds


def classify_reversal(rates: np.ndarray) -> tuple[str, str]:
    """Return RECOVERY or CHANGE of rates whose rise and fall are shown, and the reason."""
    rises = np.triu(rates - rates[:, None])  # [from, to]
    bottom, top = np.unravel_index(int(rises.argmax()), rises.shape)
    half = (rates[bottom] + rates[top]) / 2
    levels = ", ".join(_percent(rates[point]) for point in sorted({0, int(bottom), int(top), len(rates) - 1}))
    if max(rates[0], rates[-1]) <= half:
        return RECOVERY, f"rises and falls back: {levels}"
    return CHANGE, f"a rise and a fall are shown, but it does not start and end low: {levels}"


def _classify_one_direction(counts: Counts, seed: int, resamples: int) -> tuple[str, str]:
    rates = counts.rates
    p_step, p_trend = _step_or_trend(counts, seed, resamples)
    assert p_step is not None and p_trend is not None  # there are MIN_SHAPE_POINTS
    sharp = float(_steepest(rates))
    if np.isnan(sharp):
        return CHANGE, "a change is shown, but the last rate equals the first"
    p_values = f"p = {p_step:.2g} against a trend, {p_trend:.2g} against a step"
    reason = f"{_percent(sharp)} of the change in one step; {p_values}"
    if max(p_step, p_trend) <= ALPHA:
        interval = sharpness(counts, seed, resamples).share
        if interval.low is not None and interval.low >= ABRUPT_PROPORTION:
            return ABRUPT, reason
        return DRIFT if interval.high is not None and interval.high < ABRUPT_PROPORTION else CHANGE, reason
    is_step = float(_steepest(trend(rates, counts.weights, counts.positions)[0])) >= STEP_PROPORTION
    if is_step:
        reason += "; the fitted trend is itself a step"
    if (p_step <= ALPHA or is_step) and sharp >= ABRUPT_PROPORTION:
        return ABRUPT, reason
    return DRIFT if p_trend <= ALPHA and not is_step else CHANGE, reason


def _distance(rates: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the squared distance to the nearest rates that never rise."""
    distance: np.ndarray = (rates + rising(-rates, weights)) ** 2 @ weights
    return distance


def _p_of_distance(counts: Counts, fitted: np.ndarray, sign: int, seed: int, resamples: int) -> float:
    """Return the p-value of the distance of the rates, times `sign`, from rates that never rise.

    Flips are drawn in batches until ENOUGH have distances as large, because only small p-values need many (Besag and
    Clifford 1991, Biometrika 78:301).
    """
    observed = float(_distance(sign * counts.rates, counts.weights))
    larger, drawn = 0, 0
    while drawn < resamples and larger < ENOUGH:
        batch = flipped(counts, fitted, [seed, drawn] if drawn else seed, min(RESAMPLES, resamples - drawn))
        larger += int((_distance(sign * batch, counts.weights) >= observed - 1e-9 * (1 + observed)).sum())
        drawn += len(batch)
    return (1 + larger) / (1 + drawn)


def _break_statistic(rates: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the weighted sum of squares that the best break explains."""
    cumulative = np.cumsum((rates - flat(rates, weights)) * weights, axis=-1)[..., :-1]
    left_weights = np.cumsum(weights)[:-1]
    explained: np.ndarray = (cumulative**2 / (left_weights * (1 - left_weights / weights.sum()))).max(axis=-1)
    return explained


def _over_trend(rates: np.ndarray, counts: Counts) -> np.ndarray:
    step_fit, _ = step(rates, counts.weights)
    trend_fit, _ = trend(rates, counts.weights, counts.positions)
    return 2 * (likelihood(rates, step_fit, counts.weights) - likelihood(rates, trend_fit, counts.weights))


def _step_or_trend(counts: Counts, seed: int, resamples: int) -> tuple[float | None, float | None]:
    """Return p_step and p_trend of `ChangePoint`."""
    rates, weights = counts.rates, counts.weights
    if len(rates) < 3:
        return None, None
    over_trend = _over_trend(rates, counts)
    trend_fit, _ = trend(rates, weights, counts.positions)
    step_fit, _ = step(rates, weights)
    p_step = _p_value(_over_trend(_rates_under_null(counts, trend_fit, seed, resamples), counts), over_trend)
    p_trend = _p_value(-_over_trend(_rates_under_null(counts, step_fit, seed, resamples), counts), -over_trend)
    return p_step, p_trend


def _design_effect(counts: Counts) -> float:
    """Return the variance of rates between clusters over that of independent replies, over all points; at least 1."""
    rates, weights, clusters = counts.rates, counts.weights, counts.shape[0]
    independent = float((rates * (1 - rates) / weights).sum())
    if not independent or clusters < 2:
        return 1.0
    residuals = (counts.hits - counts.totals * rates) / weights
    return max(1.0, float((residuals**2).sum()) * clusters / (clusters - 1) / independent)


def _steepest(rates: np.ndarray) -> np.ndarray:
    """Return the largest step in the direction of the whole change, over that change; NaN if there is no change."""
    total = rates[..., -1:] - rates[..., :1]
    with np.errstate(divide="ignore", invalid="ignore"):
        steepest: np.ndarray = (np.diff(rates) / total).max(axis=-1)
    return np.where(total[..., 0] == 0, np.nan, steepest)


def _first_crossing(above: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Return the interpolated position at which each row of `above` [rows, points] first reaches 0; else inf."""
    index = (above >= 0).argmax(axis=1)
    row, before = np.arange(len(above)), np.maximum(index - 1, 0)
    low, high = above[row, before], above[row, index]
    fraction = np.divide(-low, high - low, out=np.zeros(len(above)), where=index > 0)
    crossing = positions[before] + fraction * (positions[index] - positions[before])
    return np.where((above >= 0).any(axis=1), crossing, np.inf)


def _resample_rates(counts: Counts, seed: int, resamples: int) -> np.ndarray:
    rates = redrawn(counts, seed, resamples)
    return rates[~np.isnan(rates).any(axis=1)]


def _rates_under_null(counts: Counts, fitted: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    """Return rates [resamples, points] under the null hypothesis `fitted`."""
    return np.clip(fitted + flipped(counts, fitted, seed, resamples), 0, 1)


def _p_value(under_null: np.ndarray, statistic: np.ndarray) -> float:
    """Return the p-value (1 + number of statistics at least as large) / (1 + number) (Davison and Hinkley 1997, p.
    140).
    """
    rounding = 1e-9 * (1 + abs(float(statistic)))
    return float((1 + (under_null >= statistic - rounding).sum()) / (1 + len(under_null)))


def _is_shown(interval: Interval) -> bool:
    return interval.low is not None and interval.high is not None and (interval.low > 0 or interval.high < 0)


def _interval(value: float, resampled: np.ndarray, spread: bool = False) -> Interval:
    """Return the percentile interval, including the value; no bounds if `spread` and all resamples are equal."""
    resampled = resampled[~np.isnan(resampled)]
    if not len(resampled) or (spread and (resampled == resampled[0]).all()):
        return Interval(value, None, None, NO_SPREAD)
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="inverted_cdf")
    return Interval(value, min(float(low), value), max(float(high), value), "cluster bootstrap")


def _percent(rate: float) -> str:
    return f"{100 * rate:.1f} %"
