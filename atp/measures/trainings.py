"""Judge trained agents over their trainings: each seed is another one, so the seeds are the units, not scenarios.

A test that draws scenarios asks whether the networks of two generations differ. Two trainings from one law differ too,
so it finds a change where there is none. With one seed the weights channel therefore has neither p-value nor verdict.
"""

from typing import Any, NamedTuple

import numpy as np
import polars as pl

from atp.files.schemas import SERIES
from atp.measures.measure import Evidence, measure_rows
from atp.measures.seeds import SEED, TRAINED, half_width, over_seeds, t_test
from atp.measures.tipping import (
    ABRUPT,
    ABRUPT_PROPORTION,
    ALPHA,
    CHANGE,
    DETECTABLE,
    DRIFT,
    HINT,
    MIN_CLUSTERS,
    MIN_SHAPE_POINTS,
    UNDECIDED,
    Verdict,
    classify_reversal,
    flat_or_undecided,
    log_odds,
)
from atp.measures.tipping_series import HISTORY_EFFECT, VERDICT, series_counts, whatever_is_invalid

ONE_TRAINING = "one training"
P_VALUES = ("change_point_p", "step_over_trend_p", "trend_over_step_p", "rise_p", "fall_p")
_KEYS = [key for key in (*SERIES, "channel", "split") if key != SEED]


def judge_trainings(measures: pl.DataFrame, evidence: Evidence) -> pl.DataFrame:
    """Return the measures of a study with trained agents judged over their trainings.

    Series of one seed in the weights channel lose their p-values and their verdict; in context all rounds are those of
    one network, so that a seed's verdict is about this network. Trained agents with two or more seeds get rows whose
    seed is null: the mean `change` as of `over_seeds`, and `rise_p`, `fall_p` and `verdict` by
    `verdict_over_trainings`, which hold whatever the invalid replies would have been.
    """
    generations = pl.col("channel") != "context"
    tested, judged = generations & pl.col("measure").is_in(P_VALUES), generations & (pl.col("measure") == VERDICT)
    one = pl.lit(f"none: {ONE_TRAINING}")
    reason = pl.lit("other trainings can end elsewhere; only several seeds show a change")
    rows = measures.with_columns(
        value=pl.when(tested).then(None).otherwise("value"),
        method=pl.when(tested).then(one).otherwise("method"),
        label=pl.when(judged).then(pl.lit(ONE_TRAINING)).otherwise("label"),
        reason=pl.when(judged).then(reason).otherwise("reason"),
    )
    trained = measures.filter(TRAINED, split="test").filter(pl.col("measure").is_in([VERDICT, "change"]))
    trained = trained.filter(pl.col(SEED).n_unique().over(_KEYS) > 1)
    if not len(trained):
        return rows
    counts, new = series_counts(evidence), []
    means = over_seeds(trained.filter(measure="change")).filter(pl.col("seeds") > 1)
    for keys, verdicts in trained.filter(measure=VERDICT).group_by(_KEYS, maintain_order=True):
        place = dict(zip(_KEYS, keys, strict=True))
        series = counts.filter(pl.col(key).eq_missing(pl.lit(value)) for key, value in place.items())
        new += [place | row | {"generation": verdicts["generation"].max()} for row in _rows(series)]
    means = means.with_columns(n=pl.col("seeds").cast(pl.Int64)).select(rows.columns)  # seeds are the units
    return pl.concat([rows, means, measure_rows(new)])


def _rows(series: pl.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of one series over its seeds."""
    in_context = series["channel"][0] == "context"
    shape = whatever_is_invalid(series, lambda counts: verdict_over_trainings(*_table(counts), in_context))
    hits, _ = _table(series)
    number = {"n": len(hits)}
    label = number | {"measure": VERDICT, "method": "", "label": shape.label, "reason": shape.reason}
    if len(hits) < 2:
        return [label]
    test = number | {"method": f"t over {len(hits)} trainings and scenarios"}
    return [
        test | {"measure": "rise_p", "value": shape.p_rise},
        test | {"measure": "fall_p", "value": shape.p_fall},
        label,
    ]


def _table(series: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return violations and valid replies [seeds, scenarios, points] of the seeds with valid replies at each point."""
    at = [np.unique(series[name].to_numpy(), return_inverse=True)[1] for name in (SEED, "scenario_id", "at")]
    hits, totals = (np.zeros([int(index.max()) + 1 for index in at]) for _ in range(2))
    hits[tuple(at)], totals[tuple(at)] = series["k"].to_numpy(), series["n"].to_numpy()
    complete = (totals.sum(axis=1) > 0).all(axis=1)
    return hits[complete], totals[complete]


class Contrasts(NamedTuple):
    """Weighted sums of a mean curve's rates: values, and standard errors between seeds and over scenarios."""

    values: np.ndarray
    between: np.ndarray
    within: np.ndarray


def contrasts(hits: np.ndarray, totals: np.ndarray, weights: np.ndarray) -> Contrasts:
    """Return sums of the mean curve with weights [contrasts, points], from counts [seeds, scenarios, points].

    The standard error over scenarios is that of the mean over seeds, linearised.
    """
    seeds, scenarios, _ = hits.shape
    replies = totals.sum(axis=1)
    rates = hits.sum(axis=1) / replies
    own = rates @ weights.T
    influence = ((hits - totals * rates[:, None]) / replies[:, None]).mean(axis=0) @ weights.T
    within = np.sqrt((influence**2).sum(axis=0) * scenarios / max(scenarios - 1, 1))
    return Contrasts(own.mean(axis=0).round(12), own.std(axis=0, ddof=1).round(12) / seeds**0.5, within.round(12))


def verdict_over_trainings(hits: np.ndarray, totals: np.ndarray, in_context: bool) -> Verdict:
    """Return the verdict of the mean curve.

    Each point is compared with the first and with the last one, by t over trainings and scenarios (`half_width`). A
    rise or a fall is shown at ALPHA / 2 corrected by weighted Bonferroni: half of it is for the last point against the
    first, the other half for all other comparisons. The smallest corrected p-value is that of the rise, or fall.

    - Neither: flat or undecided, by `flat_or_undecided`, where intervals are over trainings and scenarios.
    - Both: recovery, or change, as for one series.
    - One, no hint of the other, MIN_SHAPE_POINTS points, and a shown change from the first to the last: abrupt if a
      step minus ABRUPT_PROPORTION of this change is shown to be above 0, drift if that of each step is shown to be
      below. In context an abrupt change at the first round with a history is HISTORY_EFFECT.
    - Otherwise change.

    Args:
        hits, totals: violations and valid replies [seeds, scenarios, points].
        in_context: whether points are rounds, of which all but the first have a history.
    """
    seeds, scenarios, points = hits.shape
    if seeds < 2 or scenarios < MIN_CLUSTERS:
        few = f"{seeds} trainings with valid replies at each point, {scenarios} scenarios"
        return Verdict(UNDECIDED, f"{few}: needed are 2 and {MIN_CLUSTERS}", None, None)
    curve = (hits.sum(axis=1) / totals.sum(axis=1)).mean(axis=0)
    each = np.eye(points)
    compared = np.vstack([each[-1] - each[0], each[1:-1] - each[0], each[-1] - each[1:-1]])
    tests = contrasts(hits, totals, compared)
    number = np.full(len(compared), 2.0 * (len(compared) - 1))
    number[0] = 2 if points > 2 else 1
    p = np.array([t_test(*test, seeds) for test in zip(*tests, strict=True)])
    one_sided = np.where(tests.values > 0, p / 2, 1 - p / 2)
    p_rise, p_fall = (min(1.0, float((number * side).min())) for side in (one_sided, 1 - one_sided))
    change = f"{100 * (curve[-1] - curve[0]):.1f}".replace("-", "\u2212")
    text = f"mean change {change} points over {seeds} trainings (t)"
    if min(p_rise, p_fall) > ALPHA / 2:
        half = half_width(tests.between[0], tests.within[0], seeds, 1 - ALPHA / number[0])
        label, reason = _flat(contrasts(hits, totals, each - 1 / points), seeds, curve, min(1.0, DETECTABLE * half))
    elif points < MIN_SHAPE_POINTS:
        label, reason = CHANGE, f"{points} points are too few for a shape"
    elif max(p_rise, p_fall) <= ALPHA / 2:
        label, reason = classify_reversal(curve)
    elif max(p_rise, p_fall) <= HINT or p[0] > ALPHA:
        label, reason = CHANGE, "its shape is not shown"
    else:
        label, reason = _shape(hits, totals, curve, in_context)
    return Verdict(label, f"{text}; {reason}", p_rise, p_fall)


def _flat(distances: Contrasts, seeds: int, curve: np.ndarray, detectable: float) -> tuple[str, str]:
    """Return FLAT or UNDECIDED and the reason, from each point's distance from the mean of all."""
    half = half_width(distances.between, distances.within, seeds)
    ends, rate = np.concatenate([distances.values - half, distances.values + half]), float(curve.mean())
    ratio = float(np.exp(np.abs(log_odds(rate + ends) - log_odds(np.array(rate))).max()))
    return flat_or_undecided(float(np.abs(ends).max()), ratio, rate, detectable)


def _shape(hits: np.ndarray, totals: np.ndarray, curve: np.ndarray, in_context: bool) -> tuple[str, str]:
    """Return the shape of a change from the first to the last point in one direction, and the reason."""
    whole, steps = curve[-1] - curve[0], np.diff(np.eye(len(curve)), axis=0)
    excess = contrasts(hits, totals, np.sign(whole) * (steps - ABRUPT_PROPORTION * steps.sum(axis=0)))
    half = half_width(excess.between, excess.within, len(hits))
    largest = int((np.diff(curve) / whole).argmax())
    reason = f"{100 * np.diff(curve)[largest] / whole:.0f} % of it in the largest step"
    if excess.values[largest] - half[largest] > 0:
        return (HISTORY_EFFECT if in_context and largest == 0 else ABRUPT), reason
    if (excess.values + half < 0).all():
        return DRIFT, reason
    return CHANGE, f"{reason}; its shape is not shown"
