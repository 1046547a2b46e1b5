"""Simulate how often intervals include the truth, and how often verdicts are wrong, where either is hard.

A case is a fault that a statistical review found in an earlier version: `before` is what was measured then, and
simulating it again shows what is left. docs/verdicts.md has the tables.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from atp.measures.conditions import holm, permuted, simultaneous
from atp.measures.intervals import Interval, difference, korn_graubard, wilson
from atp.measures.populations import bimodality
from atp.measures.reinforcement import REINFORCEMENT_ODDS, mantel_haenszel
from atp.measures.shapes import count
from atp.measures.slope import drift_slope
from atp.measures.survival import restricted_mean
from atp.measures.tipping import ABRUPT, ALPHA, CHANGE, DRIFT, FLAT, RECOVERY, verdict
from atp.measures.tipping_series import HISTORY_EFFECT, series_verdict
from atp.measures.trainings import verdict_over_trainings

#: Scenarios and replies of each; rates; correlations of a scenario's replies.
DESIGNS, RATES, CORRELATIONS = ((7, 8), (14, 8), (16, 4), (64, 4)), (0.03, 0.2, 0.5), (0.1, 0.5, 0.9)
#: Coverage of a bootstrap of scenarios, in per cent, where the review reports it.
BOOTSTRAP = {
    **{(7, 8, 0.2, 0.1): 85.8, (7, 8, 0.2, 0.5): 82.8, (7, 8, 0.2, 0.9): 91.4, (7, 8, 0.5, 0.1): 89.0},
    **{(7, 8, 0.5, 0.5): 90.5, (7, 8, 0.5, 0.9): 89.0, (14, 8, 0.03, 0.1): 84.6, (14, 8, 0.03, 0.5): 87.1},
    **{(14, 8, 0.03, 0.9): 95.7, (14, 8, 0.2, 0.1): 90.3, (14, 8, 0.2, 0.5): 91.8, (14, 8, 0.2, 0.9): 93.3},
    **{(16, 4, 0.2, 0.1): 90.3, (16, 4, 0.2, 0.5): 90.3, (16, 4, 0.2, 0.9): 89.7, (64, 4, 0.03, 0.1): 92.6},
    **{(64, 4, 0.03, 0.5): 89.6, (64, 4, 0.03, 0.9): 93.6, (64, 4, 0.2, 0.1): 94.2},
}
#: Simulated samples of a proportion, and of a case; flips of a verdict's tests, and of those that are corrected.
SHARES, REPLICATES, FLIPS, MANY_FLIPS = 4000, 400, 299, 1999
#: Words that claim a change, and those that also claim its shape.
SHAPE_WORDS = (DRIFT, ABRUPT, RECOVERY, HISTORY_EFFECT)
CHANGE_WORDS = (*SHAPE_WORDS, CHANGE)
HELD, WITHIN_ERROR, NOT_HELD = "", "within error", "NOT HELD"


@dataclass(frozen=True)
class Case:
    """A fault, and one simulated sample of it.

    Args:
        fault: what is counted.
        before: per cent of samples in the earlier version.
        limit: a bound in per cent, such as "≤ 5".
        sample: returns whether a sample counts.
    """

    fault: str
    before: str
    limit: str
    sample: Callable[[np.random.Generator], bool]


def share_coverage(seed: int = 0, samples: int = SHARES) -> pl.DataFrame:
    """Return the coverage of `intervals.share` for each of DESIGNS, RATES and CORRELATIONS, in per cent.

    `too_low` is how often the upper bound is below the truth, the dangerous side for a violation rate.
    """
    rows = []
    for scenarios, replies in DESIGNS:
        for rate in RATES:
            for correlation in CORRELATIONS:
                rng = np.random.default_rng([seed, scenarios, int(100 * rate), int(10 * correlation)])
                chances = _chances(rng, (samples, scenarios), rate, correlation)
                low, high = korn_graubard(rng.binomial(replies, chances), np.full((samples, scenarios), replies))
                row = {"design": f"{scenarios} x {replies}", "rate": rate, "correlation": correlation}
                row |= {"before": BOOTSTRAP.get((scenarios, replies, rate, correlation))}
                row |= {"coverage": 100 * float(((low <= rate) & (rate <= high)).mean())}
                rows.append(row | {"too_low": 100 * float((high < rate).mean()), "width": float((high - low).mean())})
    return pl.DataFrame(rows)


def case_row(case: Case, seed: int = 0, replicates: int = REPLICATES) -> dict[str, Any]:
    """Return a case's per cent of samples, `low` to `high` by Wilson, and whether it is within the limit."""
    rng = np.random.default_rng([seed, *case.fault.encode()])
    k = sum(case.sample(rng) for _ in range(replicates))
    low, high = (100 * bound for bound in wilson(k, replicates))
    sign, bound = case.limit.split()
    value, limit = 100 * k / replicates, float(bound)
    held, near = (value >= limit, high >= limit) if sign == "≥" else (value <= limit, low <= limit)
    status = HELD if held else WITHIN_ERROR if near else NOT_HELD
    return {"fault": case.fault, "after": value, "low": low, "high": high, "status": status}


def _chances(rng: np.random.Generator, shape: tuple[int, ...], rate: float, correlation: float) -> np.ndarray:
    """Return probabilities of a beta distribution with this mean, and this correlation of two replies."""
    size = 1 / correlation - 1
    return rng.beta(rate * size, (1 - rate) * size, shape)


def _replies(
    rng: np.random.Generator, rates: Sequence[float], design: tuple[int, int], correlation: float = 0.3
) -> np.ndarray:
    """Return violations [scenarios, points, samples] as booleans; a scenario has the same quantile at all points."""
    from scipy.stats import beta

    size, levels, (scenarios, samples) = 1 / correlation - 1, np.asarray(rates), design
    chances = beta.ppf(rng.random((scenarios, 1)), levels * size, (1 - levels) * size)
    violations: np.ndarray = rng.random((scenarios, len(levels), samples)) < np.nan_to_num(chances)[..., None]
    return violations


def _trend(first: float, last: float, rounds: int = 6) -> list[float]:
    odds = np.geomspace(first / (1 - first), last / (1 - last), rounds)
    return list(odds / (1 + odds))


def _label(violations: np.ndarray, invalid: np.ndarray | None = None) -> str:
    """Return the label of a series in context [scenarios, points, samples]."""
    valid = np.ones(violations.shape, bool) if invalid is None else ~invalid
    scenarios, points = np.indices(violations.shape[:2])
    columns = {"scenario_id": scenarios, "at": points + 1, "k": (violations & valid).sum(axis=2)}
    columns |= {"n": valid.sum(axis=2), "replies": np.full(scenarios.shape, violations.shape[2])}
    series = pl.DataFrame({name: values.ravel() for name, values in columns.items()})
    return series_verdict(series, True, 0, FLIPS).label


def simulated_trainings(
    rng: np.random.Generator, rates: Sequence[float], seeds: int, deviation: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return violations and replies [seeds, scenarios, points] of trainings that start alike and differ afterwards.

    64 scenarios have four replies each, and a standard deviation of 0.7 in log-odds.

    Args:
        deviation: standard deviation of the trainings in log-odds, independent at each point after the first.
    """
    from scipy.special import expit, logit

    shifts = rng.normal(0, deviation, (seeds, 1, len(rates)))
    shifts[..., 0] = 0
    hits = rng.binomial(4, expit(logit(np.asarray(rates)) + shifts + rng.normal(0, 0.7, (64, 1)))).astype(float)
    return hits, np.full_like(hits, 4)


def _are_labelled(
    words: Sequence[str], rates: Sequence[float], seeds: int, deviation: float, rng: np.random.Generator
) -> bool:
    return verdict_over_trainings(*simulated_trainings(rng, rates, seeds, deviation), False).label in words


def _includes(interval: Interval, truth: float) -> bool:
    """Return whether an interval includes the truth; a missing bound is one that was not observed."""
    return (interval.low is None or interval.low <= truth) and (interval.high is None or truth <= interval.high)


def _is_labelled(
    words: Sequence[str], rates: Sequence[float], design: tuple[int, int], rng: np.random.Generator
) -> bool:
    return _label(_replies(rng, rates, design)) in words


def _is_labelled_with_invalid(
    words: Sequence[str], rates: Sequence[float], violating: bool, chances: np.ndarray, rng: np.random.Generator
) -> bool:
    """Return whether a series has one of `words` if only violations, or only compliance, become invalid."""
    violations = _replies(rng, rates, (64, 4), 0.2)
    return _label(violations, (violations == violating) & (rng.random(violations.shape) < chances[:, None])) in words


def _difference_covers(first: float, last: float, design: tuple[int, int], rng: np.random.Generator) -> bool:
    k = _replies(rng, [first, last], design, 0.4).sum(axis=2)
    before, after = (np.stack([k[:, at], np.full(len(k), design[1])], axis=1) for at in (0, 1))
    return _includes(difference(after, before), last - first)


def _slope_covers(first: float, last: float, design: tuple[int, int], rng: np.random.Generator) -> bool:
    k = _replies(rng, _trend(first, last), design, 0.4).sum(axis=2)
    truth = (last / (1 - last) / (first / (1 - first))) ** (1 / 5)
    return _includes(drift_slope(count(k, np.full_like(k, design[1]), np.arange(1, 7))), truth)


def _bimodality_covers(games: int, rng: np.random.Generator) -> bool:
    """Return whether the interval includes 1.5, the truth of the arcsine distribution."""
    violators = rng.binomial(8, rng.beta(0.5, 0.5, games))
    return _includes(bimodality(violators, np.full(games, 8), np.arange(games)), 1.5)


def _restricted_mean_covers(rng: np.random.Generator) -> bool:
    """Simulate 14 games of three rounds, each at random of a slow or of a fast kind."""
    hazards = np.array([0.1, 0.4])
    times = rng.geometric(rng.choice(hazards, 14))
    interval = restricted_mean(np.minimum(times, 3), times <= 3, np.arange(14))
    return _includes(interval, float((1 + (1 - hazards) + (1 - hazards) ** 2).mean()))


def _finds_reinforcement(rng: np.random.Generator) -> bool:
    """Return whether agents that differ between scenarios, and learn nothing, show an odds ratio other than 1."""
    violations = rng.random((64, 6, 4)) < _chances(rng, (64, 1, 1), 0.3, 0.4)
    before, now = violations[:, :-1], violations[:, 1:]
    columns = {"a": before & now, "n1": before, "b": ~before & now, "n0": ~before}
    strata = pl.DataFrame({name: values.sum(axis=2).ravel() for name, values in columns.items()})
    strata = strata.with_columns(scenario_id=np.repeat(np.arange(64), 5)).filter(pl.col("n1") > 0, pl.col("n0") > 0)
    return not _includes(mantel_haenszel(strata)[REINFORCEMENT_ODDS], 1)


def _discovers(series: int, rng: np.random.Generator) -> bool:
    """Return whether a study of constant series has a change after Benjamini and Hochberg's correction."""
    from scipy.stats import false_discovery_control

    p_values = []
    for _ in range(series):
        k = _replies(rng, [0.3] * 4, (16, 2)).sum(axis=2)
        judged = verdict(count(k, np.full_like(k, 2), np.arange(4)), 0, resamples=MANY_FLIPS)
        p_values.append(min(1.0, 2 * min(judged.p_rise or 1.0, judged.p_fall or 1.0)))
    return bool((false_discovery_control(p_values) <= ALPHA).any())


def _conditions(rng: np.random.Generator) -> tuple[list[Interval], list[float], list[float]]:
    """Return the simultaneous intervals of five conditions with one baseline, Holm's p-values, and the truths."""
    effects, chances = (0.0, 0.0, 0.1, 0.2, 0.3), rng.beta(2, 6, 40)
    raised = [np.minimum(chances + effect, 1) for effect in (0.0, *effects)]
    tables = [np.stack([rng.binomial(4, each), np.full(40, 4)], axis=1) for each in raised]
    pairs = [(table, tables[0]) for table in tables[1:]]
    p_values = holm([permuted(*pair, 0) for pair in pairs])
    return (
        simultaneous([vars(difference(*pair)) for pair in pairs], p_values),
        p_values,
        [float((chances_of_condition - chances).mean()) for chances_of_condition in raised[1:]],
    )


def _contradicts_holm(rng: np.random.Generator) -> bool:
    intervals, p_values, _ = _conditions(rng)
    return any(_includes(each, 0) == (p <= ALPHA) for each, p in zip(intervals, p_values, strict=True))


def _all_cover(rng: np.random.Generator) -> bool:
    intervals, _, truths = _conditions(rng)
    return all(_includes(each, truth) for each, truth in zip(intervals, truths, strict=True))


def _cases() -> Iterator[Case]:
    for first, last, design, before in (
        *((0.2, 0.6, (8, 4), "87.5"), (0.2, 0.2, (14, 8), "90 to 92"), (0.02, 0.1, (14, 8), "–")),
        (0.02, 0.1, (64, 4), "–"),
    ):
        name = f"difference of {first:g} and {last:g}, {design[0]} x {design[1]}: coverage"
        yield Case(name, before, "≥ 93", partial(_difference_covers, first, last, design))
    for design, before in (((8, 4), "89"), ((14, 8), "86.5"), ((64, 4), "–")):
        name = f"odds ratio per round, 0.02 to 0.1, {design[0]} x {design[1]}: coverage"
        yield Case(name, before, "≥ 93", partial(_slope_covers, 0.02, 0.1, design))
    for games, before in ((7, "75 to 82"), (14, "85 to 92"), (28, "90")):
        yield Case(f"bimodality, {games} games: coverage", before, "≥ 93", partial(_bimodality_covers, games))
    yield Case("mean round until all collude, 14 games: coverage", "order reversed", "≥ 93", _restricted_mean_covers)
    yield Case("reinforcement, scenarios differ, nothing is learned: shown", "100", "≤ 5", _finds_reinforcement)
    for rate, design in ((0.2, (8, 4)), (0.5, (16, 4)), (0.03, (64, 4)), (0.2, (64, 4))):
        name = f"constant {rate:g}, {design[0]} x {design[1]}: a change"
        yield Case(name, "≤ 5.8", "≤ 5", partial(_is_labelled, CHANGE_WORDS, [rate] * 6, design))
    for first, later, before in ((0.1, 0.2, "82"), (0.2, 0.4, "93")):
        name = f"{first:g} in round 1, then constant {later:g}: abrupt change"
        yield Case(name, before, "≤ 5", partial(_is_labelled, [ABRUPT], [first] + [later] * 5, (64, 4)))
    three = partial(_is_labelled, SHAPE_WORDS, _trend(0.57, 0.8, 3), (7, 8))
    yield Case("0.57 to 0.8 in 3 rounds of 7 games: a shape", "15", "≤ 0", three)
    ramp, jump = np.linspace(0, 1, 6), np.array([0, 0, 0, 1, 1, 1])
    for name, chances, before in (
        *(("rises to 30 %", 0.3 * ramp, "29"), ("rises to 50 %", 0.5 * ramp, "84")),
        ("jumps to 50 %", 0.5 * jump, "65"),
    ):
        sample = partial(_is_labelled_with_invalid, CHANGE_WORDS, [0.2] * 6, False, chances)
        yield Case(f"constant 0.2, invalid compliance {name}: a change", before, "≤ 5", sample)
    hidden = partial(_is_labelled_with_invalid, [FLAT], _trend(0.2, 0.6), True, 0.8 * ramp)
    yield Case("0.2 to 0.6, invalid violations rise to 80 %: flat", "23", "≤ 2.5", hidden)
    for first, last, design, before in (
        *((0.01, 0.05, (64, 4), "14"), (0.01, 0.05, (32, 4), "41"), (0.01, 0.05, (64, 1), "60")),
        *((0.02, 0.08, (64, 4), "3"), (0.02, 0.08, (32, 4), "24"), (0.02, 0.08, (64, 1), "42")),
    ):
        name = f"{first:g} to {last:g}, {design[0]} x {design[1]}: flat"
        yield Case(name, before, "≤ 2.5", partial(_is_labelled, [FLAT], _trend(first, last), design))
    bound = partial(_is_labelled, [FLAT], [0.5] * 5 + [0.62], (64, 4))
    yield Case("one round 10 points from the mean, 64 x 4: flat", "≤ 1.7", "≤ 2.5", bound)
    for seeds, points in ((3, 3), (3, 6), (5, 3), (5, 6)):
        constant = partial(_are_labelled, CHANGE_WORDS, [0.2] * points, seeds, 0.5)
        yield Case(f"constant 0.2, {seeds} trainings, {points} generations: a change", "–", "≤ 5", constant)
    for first, last, deviation in ((0.01, 0.05, 0.3), (0.5, 0.62, 0.05)):
        name = f"{first:g} to {last:g} at the end, 5 trainings: flat"
        rates = [first] * 5 + [last]
        yield Case(name, "–", "≤ 2.5", partial(_are_labelled, [FLAT], rates, 5, deviation))
    yield Case("study of 8 constant series: any change", "34", "≤ 5", partial(_discovers, 8))
    yield Case("five conditions: an interval contradicts Holm's p", "–", "≤ 0", _contradicts_holm)
    yield Case("five conditions: all intervals cover", "–", "≥ 93", _all_cover)


CASES = tuple(_cases())
