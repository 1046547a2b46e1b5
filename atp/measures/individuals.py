"""Measure how individual agents change in an episode: at once and for good, or little by little.

The shape of a mean says nothing about the shape of individuals (Hayes 1953; Gallistel, Fairhurst and Balsam 2004, PNAS
101:13124): if every agent tips abruptly, each at its own time, the mean still rises smoothly. An **individual** is one
agent of one episode of the context channel. Those of its decisions that rates count, in comparable rounds (see
`series.comparable`), are a row of 0 (compliance), 1 (violation) and missing values (invalid replies). If it decides
several times in a round, one violation makes the round a violation.

    first_violation_hazard[t]       P(violates in t | valid in t, no violation before t)
    first_violation[t]              1 - product of (1 - hazard) to t (Kaplan and Meier 1958, JASA 53:457)
    rate_after_first_violation      violations of valid replies after the first violation
    returned                        of the individuals that had violated before their last round, those that then comply

`individual_change` compares two models of the rows. In both, an individual has an intercept of its own, u from a normal
distribution. Let a be the mean intercept:

    step    logit P = a + u, and d more from a round on that comes with the same hazard in each round after the first
    trend   logit P = a + u + b t

The likelihoods are compared by Vuong's test with Schwarz's correction (Vuong 1989, Econometrica 57:307), with the
scenario as the unit: the sum over a scenario's individuals. A trend that takes an individual from 10 to 90 % within one
round counts as a step.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np
import polars as pl

from atp.files.schemas import SERIES
from atp.measures.intervals import Interval, resampled, share
from atp.measures.measure import TELLING, Evidence, measure_rows
from atp.measures.series import comparable
from atp.measures.tipping import Verdict
from atp.measures.tipping_series import whatever_is_invalid
from atp.testbed import TRANSPLANTED

TIPS, DRIFTS, NO_CHANGE, NOT_SHOWN = "individuals tip", "individuals drift", "no change shown", "not shown"
CHANGE = "individual_change"
#: Fewest scenarios and points for which the models are compared.
MIN_CLUSTERS, MIN_POINTS = 6, 4
#: Significance level of a test.
ALPHA = 0.05
#: Log-odds from 10 to 90 %, and the smallest increase of the rate within an individual that is a tip.
STEEP, MIN_JUMP = 2 * log(9), 0.5
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(15)
WEIGHTS = WEIGHTS / WEIGHTS.sum()
_KEYS = [*SERIES, "channel", "generation", "split"]


@dataclass(frozen=True)
class Individuals:
    """Rows of decisions [individuals, points], NaN where invalid, and each row's scenario as a number from 0."""

    rows: np.ndarray
    scenarios: np.ndarray

    @property
    def clusters(self) -> int:
        """Number of scenarios."""
        return int(self.scenarios.max()) + 1

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Return the sums of an array [individuals, ...] over each scenario's individuals."""
        totals = np.zeros((self.clusters, *values.shape[1:]))
        np.add.at(totals, self.scenarios, values)
        return totals


@dataclass(frozen=True)
class Fit:
    """A model of individuals: its parameters, and the log-likelihood of each row."""

    parameters: np.ndarray
    likelihoods: np.ndarray


def individual_measures(evidence: Evidence) -> pl.DataFrame:
    """Return rows of MEASURES for every series of the context channel with two rounds or more; `n` counts individuals.

    The hazard and the cumulative proportion have one row a round. `individual_change` has a label and a reason, which
    hold whatever the invalid replies would have been.
    """
    turns = evidence.turns.filter(TELLING, pl.col("role") != TRANSPLANTED, channel="context")
    decisions = comparable(
        turns.select(
            *(*_KEYS, "scenario_id", "episode", "agent", "round"),
            k=pl.col("violation").fill_null(False).cast(pl.Int64),
            n=pl.col("violation").is_not_null().cast(pl.Int64),
            replies=pl.lit(1, pl.Int64),
        ),
        evidence.turns,
    ).collect()
    rows: list[dict[str, Any]] = []
    for keys, series in decisions.sort(_KEYS).group_by(_KEYS, maintain_order=True):
        points = sorted(series["round"].unique())
        if len(points) > 1:
            place = dict(zip(_KEYS, keys, strict=True))
            rows += [place | row for row in _rows(series, points, evidence.seed)]
    return measure_rows(rows)


def _table(decisions: pl.DataFrame, points: list[int]) -> Individuals:
    """Return individuals from decisions that are violations `k` of `n` valid replies."""
    valid = decisions.with_columns(violation=pl.when(pl.col("n") > 0).then(pl.col("k").cast(pl.Float64)))
    table = valid.pivot(
        "round", index=["scenario_id", "episode", "agent"], values="violation", aggregate_function="max"
    )
    numbers = table["scenario_id"].rank("dense").to_numpy().astype(int) - 1
    return Individuals(table.select(map(str, points)).to_numpy().astype(float), numbers)


def _rows(series: pl.DataFrame, points: list[int], seed: int) -> Iterator[dict[str, Any]]:
    individuals = _table(series, points)
    new, at_risk = first_violations(individuals)
    for index, point in enumerate(points):
        hazard = share(new[:, index].astype(int), at_risk[:, index].astype(int))
        counts = {"round": point, "k": int(new[:, index].sum()), "n": int(at_risk[:, index].sum())}
        yield {"measure": "first_violation_hazard", **counts, **vars(hazard)}
        curve = cumulative(new[:, : index + 1], at_risk[:, : index + 1], seed)
        yield {"measure": "first_violation", "round": point, "n": len(individuals.rows), **vars(curve)}
    for name, hits, totals in (
        ("rate_after_first_violation", *after_first(individuals)),
        ("returned", *returns(individuals)),
    ):
        counts = {"k": int(hits.sum()), "n": int(totals.sum())}
        yield {"measure": name, **counts, **vars(share(hits.astype(int), totals.astype(int)))}
    change = whatever_is_invalid(series, lambda rows: classify(_table(rows, points)), NOT_SHOWN)
    label = {"method": "", "label": change.label, "reason": change.reason}
    yield {"measure": CHANGE, "n": len(individuals.rows), **label}


def first_violations(individuals: Individuals) -> tuple[np.ndarray, np.ndarray]:
    """Return, per scenario and point, individuals that violate for the first time, and those that could."""
    never = np.cumsum(np.nan_to_num(individuals.rows), axis=1) - np.nan_to_num(individuals.rows) == 0
    at_risk = never & ~np.isnan(individuals.rows)
    return individuals.sums(at_risk * np.nan_to_num(individuals.rows)), individuals.sums(at_risk.astype(float))


def cumulative(new: np.ndarray, at_risk: np.ndarray, seed: int) -> Interval:
    """Return Kaplan and Meier's proportion of individuals with a violation, from counts [clusters, points]."""
    points = new.shape[1]

    def violated(sums: np.ndarray) -> np.ndarray:
        hazards = np.divide(
            sums[:, :points], sums[:, points:], out=np.zeros_like(sums[:, :points]), where=sums[:, points:] > 0
        )
        return 1 - np.prod(1 - hazards, axis=1)

    both = np.hstack([new, at_risk])
    if not at_risk[:, 0].sum():
        return Interval(None, None, None, "none")
    value = float(violated(both.sum(axis=0)[None])[0])
    low, high = resampled(both, violated, seed)
    return Interval(value, low, high, "none: no spread" if low is None else "cluster bootstrap")


def after_first(individuals: Individuals) -> tuple[np.ndarray, np.ndarray]:
    """Return violations and valid replies after each individual's first violation, per scenario."""
    done = np.nan_to_num(individuals.rows)
    after = (np.cumsum(done, axis=1) - done > 0) & ~np.isnan(individuals.rows)
    return individuals.sums((after * done).sum(axis=1)), individuals.sums(after.sum(axis=1).astype(float))


def returns(individuals: Individuals) -> tuple[np.ndarray, np.ndarray]:
    """Return, per scenario, individuals that comply in the last round after an earlier violation, and those that could:
    their last reply is valid.
    """
    last, before = individuals.rows[:, -1], np.nan_to_num(individuals.rows[:, :-1]).any(axis=1)
    could = before & ~np.isnan(last)
    return individuals.sums((could & (last == 0)).astype(float)), individuals.sums(could.astype(float))


def classify(individuals: Individuals) -> Verdict:
    """Return a verdict whose label is one of TIPS, DRIFTS, NO_CHANGE and NOT_SHOWN."""
    points, clusters = individuals.rows.shape[1], individuals.clusters
    if clusters < MIN_CLUSTERS or points < MIN_POINTS:
        few = f"{points} rounds of {clusters} scenarios are too few, needed are {MIN_POINTS} and {MIN_CLUSTERS}"
        return Verdict(NOT_SHOWN, few, None, None)
    difference, p = _change(individuals)
    sides = (p / 2, 1 - p / 2) if difference > 0 else (1 - p / 2, p / 2)
    if p > ALPHA:
        reason = f"the second half of the rounds does not differ from the first, p = {p:.2g}"
        return Verdict(NO_CHANGE, reason, *sides)
    step, trend = fit_step(individuals.rows), fit_trend(individuals.rows)
    z = _vuong(individuals, step, trend)
    before, after = _levels(step)
    slope = float(trend.parameters[1])
    levels = f"{100 * before:.0f} % before and {100 * after:.0f} % after a step"
    reason = f"{levels}, or {_signed(slope, '+.2f')} log-odds a round; step against trend: z = {_signed(z, '.1f')}"
    steep = abs(slope) >= STEEP
    if (abs(after - before) >= MIN_JUMP and (z > 1.96 or (z > -1.96 and steep))) or (z <= -1.96 and steep):
        return Verdict(TIPS, reason, *sides)
    return Verdict(DRIFTS if z <= -1.96 else NOT_SHOWN, reason, *sides)


def _signed(number: float, digits: str) -> str:
    return f"{number:{digits}}".replace("-", "\u2212")


def _change(individuals: Individuals) -> tuple[float, float]:
    """Return the rate in the second half of the rounds minus the first's, and its p-value by t over scenarios."""
    from scipy.stats import ttest_1samp

    half = individuals.rows.shape[1] // 2
    valid, done = ~np.isnan(individuals.rows), np.nan_to_num(individuals.rows)
    rates = []
    for part in (slice(None, half), slice(-half, None)):
        hits, totals = (individuals.sums(values[:, part].sum(axis=1).astype(float)) for values in (done, valid))
        rates.append(np.divide(hits, totals, out=np.full_like(hits, np.nan), where=totals > 0))
    differences = rates[1] - rates[0]
    differences = differences[~np.isnan(differences)]
    if len(differences) < 2 or not differences.any():
        return 0.0, 1.0
    if np.ptp(differences) == 0:
        return float(differences[0]), 0.0
    return float(differences.mean()), float(ttest_1samp(differences, 0).pvalue)


def _vuong(individuals: Individuals, step: Fit, trend: Fit) -> float:
    """Return Vuong's statistic of the step against the trend; positive values favour the step."""
    differences = individuals.sums(step.likelihoods - trend.likelihoods)
    correction = (len(step.parameters) - len(trend.parameters)) / 2 * log(len(differences))
    spread = float(differences.std(ddof=1)) * len(differences) ** 0.5
    return (float(differences.sum()) - correction) / max(spread, 1e-9)


def fit_step(rows: np.ndarray) -> Fit:
    """Fit the step. Parameters: a, d, log of the standard deviation of u, logit of the hazard."""
    best = None
    for jump in (3.0, -3.0):
        fit = _fit(rows, _step_log_likelihoods, np.array([_intercept(rows) - jump / 2, jump, 0.0, -1.0]))
        if best is None or fit.likelihoods.sum() > best.likelihoods.sum():
            best = fit
    assert best
    return best


def fit_trend(rows: np.ndarray) -> Fit:
    """Fit the trend. Parameters: a, b, log of the standard deviation of u."""
    return _fit(rows, _trend_log_likelihoods, np.array([_intercept(rows), 0.1, 0.0]))


def _intercept(rows: np.ndarray) -> float:
    rate = float(np.clip(np.nanmean(rows), 0.02, 0.98))
    return log(rate / (1 - rate))


def _fit(rows: np.ndarray, log_likelihoods: Any, start: np.ndarray) -> Fit:
    from scipy.optimize import minimize

    patterns, inverse, counts = np.unique(rows, axis=0, return_inverse=True, return_counts=True, equal_nan=True)

    def loss(parameters: np.ndarray) -> float:
        # A weak pull to 0 keeps the fit of an extreme table finite: 0.1 nats at 10.
        return float(-(counts * log_likelihoods(parameters, patterns)).sum() + 0.001 * (parameters**2).sum())

    result = minimize(loss, start, method="L-BFGS-B", bounds=[(-15, 15)] * len(start))
    return Fit(result.x, log_likelihoods(result.x, patterns)[inverse.reshape(-1)])


def _log_probabilities(logits: np.ndarray, patterns: np.ndarray) -> np.ndarray:
    """Return log P(decision) for logits that broadcast to [patterns, nodes, points]; 0 where a decision is missing."""
    decisions = patterns[:, None, :]
    signs = np.where(np.isnan(decisions), 0.0, 2 * np.nan_to_num(decisions) - 1)
    return np.where(signs == 0, 0.0, -np.logaddexp(0.0, -signs * logits))


def _intercepts(mean: float, log_deviation: float) -> np.ndarray:
    return mean + np.exp(np.clip(log_deviation, -6, 2)) * NODES[None, :, None]


def _log_mean(values: np.ndarray, axis: int, weights: np.ndarray) -> np.ndarray:
    from scipy.special import logsumexp

    result: np.ndarray = logsumexp(values, axis=axis, b=weights)
    return result


def _trend_log_likelihoods(parameters: np.ndarray, patterns: np.ndarray) -> np.ndarray:
    mean, slope, log_deviation = parameters
    positions = np.arange(patterns.shape[1]) - (patterns.shape[1] - 1) / 2
    logits = _intercepts(mean, log_deviation) + slope * positions
    return _log_mean(_log_probabilities(logits, patterns).sum(axis=2), 1, WEIGHTS[None])


def _step_log_likelihoods(parameters: np.ndarray, patterns: np.ndarray) -> np.ndarray:
    mean, jump, log_deviation, logit_hazard = parameters
    points, levels = patterns.shape[1], (mean, mean + jump)
    before, after = (
        _log_probabilities(_intercepts(level, log_deviation) + np.zeros(points), patterns) for level in levels
    )
    # The step comes before point 1, 2, …, or never: [patterns, nodes, places of the step].
    head = np.cumsum(before, axis=2)
    tail = np.cumsum(after[..., ::-1], axis=2)[..., ::-1]
    places = head + np.concatenate([tail[..., 1:], np.zeros_like(tail[..., :1])], axis=2)
    hazard = 1 / (1 + np.exp(-logit_hazard))
    chances = hazard * (1 - hazard) ** np.arange(points)
    chances[-1] = (1 - hazard) ** (points - 1)
    return _log_mean(_log_mean(places, 2, chances[None, None]), 1, WEIGHTS[None])


def _levels(step: Fit) -> tuple[float, float]:
    """Return the mean rate before and after the step."""
    mean, jump, log_deviation, _ = step.parameters
    before, after = (
        float((WEIGHTS / (1 + np.exp(-_intercepts(level, log_deviation)[0, :, 0]))).sum())
        for level in (mean, mean + jump)
    )
    return before, after
