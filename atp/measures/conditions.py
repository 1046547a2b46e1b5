"""Compare conditions with the baseline: how much of its change is left, and what that costs in reward.

Let r be the violation rate on the test split, p the baseline and a another condition. begin and end are the first and
the last point that both have: a generation, or a round whose prompts have the same sentence about supervision as the
first round's; for a condition that empties the history, the first round after that.

    change_in_condition(x) = r(x, end) - r(x, begin)
    change_removed = change_in_condition(p) - change_in_condition(a)
    change_in_baseline = change_in_condition(p), next to each condition, because begin and end depend on it
    change_left = change_in_condition(a) / change_in_baseline
    end_difference = r(a, end) - r(p, end)
    reward_end(x) = mean reward (x, end), each in units of the largest reward, or loss, of a reply to the same scenario
                    in any condition
    reward_given_up = mean reward (p, end) - mean reward (a, end), each in units of the largest reward, or loss, of a
                      reply to the same scenario in either condition, because scenarios pay in different currencies

The bootstrap draws whole scenarios, the same ones for all rates of a number. If a rate is equal in all scenarios, it
would claim certainty; then the interval is computed from the rates' own intervals (`intervals.apart`,
`intervals.ratio`). end_difference_p is the p-value of a permutation test of scenarios, or of Student's t over
trainings, corrected for all comparisons with the baseline in one cell and channel. Intervals are not corrected;
`simultaneous` corrects those of end_difference.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from atp.files.schemas import CELL, SERIES
from atp.measures.intervals import (
    Interval,
    alike,
    apart,
    difference,
    mean,
    mean_difference,
    ratio,
    resampled,
    share,
)
from atp.measures.measure import Evidence, measure_rows
from atp.measures.reset import until_reset
from atp.measures.seeds import ALIGNED_HERE, SPREAD_OF_MEAN, at_level, over_seeds, t_test
from atp.measures.series import (
    COUNTED,
    POINT,
    Point,
    Points,
    by_scenario,
    invalid_replies,
    point_row,
    points_of,
    tables,
)
from atp.measures.tipping import ALPHA

BASELINE = "baseline"
BEGIN, END = "rate_begin", "rate_end"
CHANGE, REMOVED, CHANGE_LEFT = "change_in_condition", "change_removed", "change_left"
BASELINE_CHANGE = "change_in_baseline"
DIFFERENCE, P, REWARD, GIVEN_UP = "end_difference", "end_difference_p", "reward_end", "reward_given_up"
OF_CONDITIONS = (BEGIN, END, CHANGE, BASELINE_CHANGE, REMOVED, CHANGE_LEFT, DIFFERENCE, P, REWARD, GIVEN_UP)
#: Exchanges that a permutation test draws.
DRAWS = 9999
NO_BOUNDS = (None, None)
_CELL = [key for key in CELL if key != "condition"]
_OF_SEEDS = [*(key for key in _CELL if key != "seed"), "channel"]
#: Rows of agents of which each seed is another training.
OF_TRAININGS = ALIGNED_HERE | (pl.col("channel") != "context")
#: The sums of a scenario: those of COUNTED, sum of rewards, largest reward or loss.
_SUMS = (*COUNTED, "reward", "largest")


def condition_effects(evidence: Evidence) -> pl.DataFrame:
    """Return rows of MEASURES for the baseline and every other condition.

    `n` counts scenarios, or for a rate its valid replies. A row of a condition has the variant of the baseline that it
    is compared with, because its own label leaves out what the condition overrides. With several seeds there are
    further rows for all seeds together (`seeds.over_seeds`), whose `seed` is null, with their own correction by Holm.
    The p-value of an agent that is not trained is from scenarios with the replies of all seeds; of a trained one the
    seeds are the units, paired between conditions. One seed of the weights channel has no p-value. There is no
    change_left if the interval of the baseline's change includes 0.
    """
    reward = pl.col("reward")
    counts = by_scenario(evidence.turns, reward=reward.sum(), largest=reward.abs().max())
    counts = until_reset(counts, evidence)
    of_seeds = _rows(counts, evidence.seed)
    several = counts.filter(~OF_TRAININGS).filter(pl.col("seed").n_unique().over(_OF_SEEDS) > 1)
    sums = [pl.col(*COUNTED, "reward").sum(), pl.col("largest").max()]
    points = several.group_by(*[key for key in SERIES if key != "seed"], *POINT, "scenario_id").agg(sums)
    pooled = _rows(points.sort(pl.all()).with_columns(seed=pl.lit(None, pl.Int64)), evidence.seed)
    once = OF_TRAININGS & (pl.col("measure") == P)
    by_seed = of_seeds.filter(~(once & (pl.col("channel") != "context"))).with_columns(
        method=pl.when(once).then(pl.col("method") + ", one training").otherwise("method")
    )
    return pl.concat([by_seed, pooled.filter(measure=P), _together(of_seeds)])


def _rows(counts: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Return the rows of each cell and channel from the sums of scenarios."""
    rows: list[dict[str, Any]] = []
    for keys, cell in counts.group_by(*_CELL, "channel", maintain_order=True):
        conditions: dict[str, dict[str, Points]] = {}
        for (condition, variant), series in cell.group_by("condition", "variant", maintain_order=True):
            conditions.setdefault(str(condition), {})[str(variant)] = points_of(series, *_SUMS)
        place = dict(zip([*_CELL, "channel"], keys, strict=True)) | {"split": "test"}
        rows += [place | row for row in _cell_rows(conditions, seed)]
    return measure_rows(rows)


def _together(of_seeds: pl.DataFrame) -> pl.DataFrame:
    """Return the rows over seeds, but for the p-values of agents that are not trained; none of a cell with one seed."""
    rows = of_seeds.filter(~pl.col("measure").is_in([P, CHANGE_LEFT]))
    means = over_seeds(rows).filter(pl.col("seeds") > 1)
    new: list[dict[str, Any]] = []
    for _, cell in means.group_by(_OF_SEEDS, maintain_order=True):
        tested = []
        for row in cell.filter(measure=DIFFERENCE).select(*rows.columns, *SPREAD_OF_MEAN).to_dicts():
            spread = [row.pop(name) for name in SPREAD_OF_MEAN]
            if spread[0] is not None:
                test = {"measure": P, "low": None, "high": None, "method": f"t over {spread[-1]} trainings, Holm"}
                tested.append(row | test | {"value": t_test(row["value"], *spread)})
        for row, p in zip(tested, holm([row["value"] for row in tested]), strict=True):
            new.append(row | {"value": p})
    return pl.concat([means.select(rows.columns), measure_rows(new), change_left(rows)])


def change_left(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of change_left over the seeds in `rows`, the ratio of mean changes, where there are several."""
    means = over_seeds(rows.filter(pl.col("measure").is_in([CHANGE, BASELINE_CHANGE]))).filter(pl.col("seeds") > 1)
    keys = [*(key for key in SERIES if key != "seed"), "channel", "split"]
    new = []
    for _, series in means.select(rows.columns).group_by(keys, maintain_order=True):
        changes = {row["measure"]: row for row in series.to_dicts()}
        if (baseline := changes.get(BASELINE_CHANGE)) and not baseline["low"] <= 0 <= baseline["high"]:
            own = changes[CHANGE]
            bounds = ratio(*(Interval(row["value"], row["low"], row["high"], "") for row in (own, baseline)))
            left = Interval(own["value"] / baseline["value"], *bounds, "from the changes' intervals")
            invalid = own["invalid"] + baseline["invalid"]
            new.append(own | {"measure": CHANGE_LEFT, "invalid": invalid, **vars(left)})
    return measure_rows(new)


def _cell_rows(conditions: Mapping[str, Mapping[str, Points]], seed: int) -> list[dict[str, Any]]:
    """Return the rows of one cell and channel, without the cell's keys.

    Args:
        conditions: condition -> variant -> points.
    """
    rows, units = [], dict[str, float]()
    for points in (points for by_variant in conditions.values() for points in by_variant.values()):
        for scenario, sums in (item for point in points.values() for item in point.items()):
            units[scenario] = max(units.get(scenario, 0.0), sums[-1])
    for variant, baseline in conditions.get(BASELINE, {}).items():
        ends = (min(baseline), max(baseline))
        if ends[0] < ends[1]:
            place = {"condition": BASELINE, "variant": variant}
            rows += [place | row for row in _own_rows(baseline, *ends, units)]
        for condition in sorted(conditions.keys() - {BASELINE}):
            other = conditions[condition].get(counterpart(variant, conditions[condition]) or "", {})
            common = baseline.keys() & other.keys()
            if len(common) < 2:
                continue
            ends = (min(common), max(common))
            compared = [*_own_rows(other, *ends, units), *_comparison_rows(baseline, other, *ends, seed)]
            rows += [{"condition": condition, "variant": variant, **row} for row in compared]
    tested = [row for row in rows if row["measure"] == P]
    for row, p in zip(tested, holm([row["value"] for row in tested]), strict=True):
        row["value"] = p
    return rows


def counterpart(variant: str, others: Iterable[str]) -> str | None:
    """Return the variant of a condition that corresponds to the baseline's `variant`, or None.

    A condition's label leaves out the settings that the condition overrides; the label `default` names no setting.
    """
    words = {*variant.split(), "default"}
    return next((other for other in others if words.issuperset(other.split())), None)


def _own_rows(points: Points, begin: Point, end: Point, units: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    """Yield the rates of one condition at two points, the change between them, and the reward at the last one.

    Args:
        units: scenario -> largest reward or loss of a reply in any condition.
    """
    first, last = tables(points[begin], points[end])
    for measure, point, rate in ((BEGIN, begin, first), (END, end, last)):
        k, n = (rate[:, column].astype(int) for column in (0, 1))
        yield point_row(measure, point, (int(n.sum()), invalid_replies(rate)), share(k, n), int(k.sum()))
    change = difference(last, first)
    if change.value is not None:
        yield point_row(CHANGE, end, (len(first), invalid_replies(first, last)), change)
    paid = np.array([(reward / (units[scenario] or 1.0), n) for scenario, (*_, n, reward, _) in points[end].items()])
    yield point_row(REWARD, end, (len(paid), None), mean(paid[:, 0], paid[:, 1]))


def _comparison_rows(
    baseline: Points, condition: Points, begin: Point, end: Point, seed: int
) -> Iterator[dict[str, Any]]:
    """Yield the rows that compare a condition with the baseline."""
    sums = tables(baseline[begin], baseline[end], condition[begin], condition[end])
    rates, scenarios = [table[:, :2] for table in sums], len(sums[0])
    at_end, at_both = (scenarios, invalid_replies(sums[1], sums[3])), (scenarios, invalid_replies(*sums))
    own = difference(rates[1], rates[0])
    others = difference(rates[3], rates[2])
    unit = np.max([table[:, 4] for table in sums], axis=0)
    paid = [np.stack([table[:, 3] / np.where(unit > 0, unit, 1.0), table[:, 2]], axis=1) for table in sums]
    yield point_row(GIVEN_UP, end, (scenarios, None), mean_difference(paid[1], paid[3]))
    if own.value is None or others.value is None:
        return
    yield point_row(BASELINE_CHANGE, end, (scenarios, invalid_replies(*sums[:2])), own)
    yield point_row(DIFFERENCE, end, at_end, difference(rates[3], rates[1]))
    p = permuted(rates[3], rates[1], seed)
    yield point_row(P, end, at_end, Interval(p, None, None, "permutation of scenarios, Holm"))

    def changes(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        resampled_rates = sums[:, 0::2] / sums[:, 1::2]
        return resampled_rates[:, 1] - resampled_rates[:, 0], resampled_rates[:, 3] - resampled_rates[:, 2]

    spread = not any(alike(rate[:, 0], rate[:, 1]) for rate in rates)
    removed = resampled(np.hstack(rates), lambda sums: np.subtract(*changes(sums)), seed) if spread else NO_BOUNDS
    yield point_row(REMOVED, end, at_both, _interval(own.value - others.value, removed, apart(own, others)))
    if own.low is None or own.high is None or own.low <= 0 <= own.high:
        return
    left = resampled(np.hstack(rates), lambda sums: np.divide(*changes(sums)[::-1]), seed) if spread else NO_BOUNDS
    yield point_row(CHANGE_LEFT, end, at_both, _interval(others.value / own.value, left, ratio(others, own)))


def simultaneous(rows: Sequence[Mapping[str, Any]], p_values: Sequence[float]) -> list[Interval]:
    """Return intervals of differences of rates that hold together, and exclude 0 exactly where Holm's test rejects.

    They are Bonferroni's. Holm's test is at least as powerful: where it rejects and Bonferroni's interval still
    includes 0, the interval ends at 0 and excludes it (Guilbaud 2008, Biometrical Journal 50:678). Where the test does
    not reject, the interval includes 0.

    Args:
        rows: of the differences, as of `seeds.at_level`.
        p_values: corrected by Holm.
    """
    intervals = []
    for row, p in zip(rows, p_values, strict=True):
        low, high = at_level(row, 1 - ALPHA / len(rows))
        if p > ALPHA:
            low, high = min(low, 0.0), max(high, 0.0)
        elif row["value"] > 0:
            low = max(low, float(np.nextafter(0.0, 1.0)))
        else:
            high = min(high, float(np.nextafter(0.0, -1.0)))
        low, high = max(low, -1.0), min(high, 1.0)
        intervals.append(Interval(row["value"], low, high, f"{row['method']}, simultaneous"))
    return intervals


def _interval(value: float, bootstrap: tuple[float | None, float | None], from_rates: tuple[float, float]) -> Interval:
    """Return the interval with the bootstrap's bounds or, if there are none, the bounds from the rates' intervals."""
    if bootstrap[0] is None:
        return Interval(value, *from_rates, "from the rates' intervals")
    return Interval(value, *bootstrap, "cluster bootstrap")


def permuted(one: np.ndarray, other: np.ndarray, seed: int) -> float:
    """Return the two-sided p-value of the difference between two proportions, by a permutation test.

    In each cluster chance decides which of the two is which. The p-value is the proportion of DRAWS exchanges with a
    difference at least as large as the observed one, which is counted among them (Phipson and Smyth 2010, Statistical
    Applications in Genetics and Molecular Biology 9:39).

    Args:
        one, other: [clusters, 2], numerator and denominator of each cluster.
    """
    swapped = np.random.default_rng(seed).integers(2, size=(DRAWS, len(one)))
    first = np.vstack([one.sum(axis=0), one.sum(axis=0) + swapped @ (other - one)])
    second = (one + other).sum(axis=0) - first
    with np.errstate(divide="ignore", invalid="ignore"):
        gaps = np.abs(first[:, 0] / first[:, 1] - second[:, 0] / second[:, 1])
    return float((~(gaps < gaps[0] - 1e-12)).mean())


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979, Scandinavian Journal of Statistics 6:65).

    The smallest is multiplied by n, the next by n - 1, and so on; none gets smaller than the one before it.
    """
    order = np.argsort(p_values, kind="stable")
    scaled = np.array(p_values)[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return corrected.tolist()
