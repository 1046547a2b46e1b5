"""Compare conditions with the baseline: how much of its change is left, and what that costs in reward.

Let r be the violation rate on the test split, p the baseline and a another condition. begin and end are the first and
the last point that both have: a generation, or a round whose prompts have the same sentence about supervision as the
first round's; for a condition that empties the history, the first round after that.

    change_in_condition(x) = r(x, end) - r(x, begin)
    change_removed = change_in_condition(p) - change_in_condition(a)
    change_left = change_in_condition(a) / change_in_condition(p)
    end_difference = r(a, end) - r(p, end)
    reward_end(x) = mean reward (x, end), each in units of the largest reward, or loss, of a reply to the same scenario
                    in any condition
    reward_given_up = mean reward (p, end) - mean reward (a, end), each in units of the largest reward, or loss, of a
                      reply to the same scenario in either condition, because scenarios pay in different currencies

The bootstrap draws whole scenarios, the same ones for all rates of a number. If a rate is equal in all scenarios, it
would claim certainty; then the interval is computed from the rates' own intervals (`intervals.apart`,
`intervals.ratio`). end_difference_p is the p-value of a permutation test of scenarios, or of Student's t over
trainings, corrected for all comparisons with the baseline in one cell and channel.
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
    simultaneous,
)
from atp.measures.measure import Evidence, measure_rows
from atp.measures.reset import until_reset
from atp.measures.seeds import ALIGNED_HERE, SPREAD_OF_MEAN, over_seeds, t_test
from atp.measures.series import POINT, Point, Points, by_scenario, point_row, points_of, tables

BASELINE = "baseline"
BEGIN, END = "rate_begin", "rate_end"
CHANGE, REMOVED, CHANGE_LEFT = "change_in_condition", "change_removed", "change_left"
DIFFERENCE, P, REWARD, GIVEN_UP = "end_difference", "end_difference_p", "reward_end", "reward_given_up"
OF_CONDITIONS = (BEGIN, END, CHANGE, REMOVED, CHANGE_LEFT, DIFFERENCE, P, REWARD, GIVEN_UP)
#: Exchanges that a permutation test draws.
DRAWS = 9999
NO_BOUNDS = (None, None)
_CELL = [key for key in CELL if key != "condition"]
_OF_SEEDS = [*(key for key in _CELL if key != "seed"), "channel"]
#: Rows of agents of which each seed is another training.
OF_TRAININGS = ALIGNED_HERE | (pl.col("channel") != "context")
#: The sums of a scenario: violations, valid replies, sum of rewards, replies, largest reward or loss.
_SUMS = ("k", "n", "reward", "replies", "largest")


def condition_effects(evidence: Evidence) -> pl.DataFrame:
    """Return rows of MEASURES for the baseline and every other condition.

    `n` counts scenarios, or for a rate its valid replies. A row of a condition has the variant of the baseline that it
    is compared with, because its own label leaves out what the condition overrides. With several seeds there are
    further rows for all seeds together, whose `seed` is null, with their own correction by Holm: of an agent that is
    not trained each scenario has the replies of all seeds; of a trained one the seeds are the units, paired between
    conditions (`seeds.over_seeds`). One seed of the weights channel has no p-value. There is no change_left if the
    interval of the baseline's change includes 0.
    """
    reward = pl.col("reward")
    counts = by_scenario(evidence.turns, reward=reward.sum(), replies=pl.len(), largest=reward.abs().max())
    counts = until_reset(counts, evidence)
    of_seeds = _rows(counts, evidence.seed)
    several = counts.filter(~OF_TRAININGS).filter(pl.col("seed").n_unique().over(_OF_SEEDS) > 1)
    sums = [pl.col("k", "n", "reward", "replies").sum(), pl.col("largest").max()]
    points = several.group_by(*[key for key in SERIES if key != "seed"], *POINT, "scenario_id").agg(sums)
    pooled = _rows(points.sort(pl.all()).with_columns(seed=pl.lit(None, pl.Int64)), evidence.seed)
    trained = of_seeds.filter(OF_TRAININGS)
    once = OF_TRAININGS & (pl.col("measure") == P)
    by_seed = of_seeds.filter(~(once & (pl.col("channel") != "context"))).with_columns(
        method=pl.when(once).then(pl.col("method") + ", one training").otherwise("method")
    )
    return pl.concat([by_seed, pooled, _over_trainings(trained)])


def _rows(counts: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Return the rows of each cell and channel from the sums of scenarios."""
    rows: list[dict[str, Any]] = []
    for keys, cell in counts.group_by(*_CELL, "channel", maintain_order=True):
        conditions: dict[str, dict[str, Points]] = {}
        for (condition, variant), series in cell.group_by("condition", "variant", maintain_order=True):
            conditions.setdefault(str(condition), {})[str(variant)] = points_of(series, *_SUMS)
        place = dict(zip([*_CELL, "channel"], keys, strict=True)) | {"split": "test"}
        rows += [place | row for row in _cell_rows(conditions, place["channel"] == "context", seed)]
    return measure_rows(rows)


def _over_trainings(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows over the seeds of trained agents, from those of each seed; none of a cell with one seed."""
    means = over_seeds(rows.filter(~pl.col("measure").is_in([P, CHANGE_LEFT]))).filter(pl.col("seeds") > 1)
    new: list[dict[str, Any]] = []
    for _, cell in means.group_by(_OF_SEEDS, maintain_order=True):
        changes = {(row["condition"], row["variant"]): row for row in cell.filter(measure=CHANGE).to_dicts()}
        tested = []
        for row in cell.filter(measure=DIFFERENCE).select(*rows.columns, *SPREAD_OF_MEAN).to_dicts():
            spread = [row.pop(name) for name in SPREAD_OF_MEAN]
            if spread[0] is not None:
                test = {"measure": P, "low": None, "high": None, "method": f"t over {spread[-1]} trainings, Holm"}
                tested.append(row | test | {"value": t_test(row["value"], *spread)})
            own, other = (changes.get((name, row["variant"])) for name in (BASELINE, row["condition"]))
            if own and other and not own["low"] <= 0 <= own["high"]:
                ends = [Interval(each["value"], each["low"], each["high"], "") for each in (other, own)]
                left = Interval(other["value"] / own["value"], *ratio(*ends), "from the changes' intervals")
                new.append(row | {"measure": CHANGE_LEFT, **vars(left)})
        for row, p in zip(tested, holm([row["value"] for row in tested]), strict=True):
            new.append(row | {"value": p})
    return pl.concat([means.select(rows.columns), measure_rows(new)])


def _cell_rows(conditions: Mapping[str, Mapping[str, Points]], is_tested: bool, seed: int) -> list[dict[str, Any]]:
    """Return the rows of one cell and channel, without the cell's keys.

    Args:
        conditions: condition -> variant -> points.
        is_tested: whether scenarios test the differences, so that their intervals hold together.
    """
    rows, tested, units = [], [], dict[str, float]()
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
            by_measure = {row["measure"]: row for row in rows[-len(compared) :]}
            if P in by_measure:
                last, baseline_last = (rate[:, :2] for rate in tables(other[ends[1]], baseline[ends[1]]))
                tested.append((by_measure[P], by_measure[DIFFERENCE], (last, baseline_last)))
    p_values = holm([row["value"] for row, _, _ in tested])
    intervals = simultaneous([pair for _, _, pair in tested], p_values)
    for (row, difference_row, _), p, interval in zip(tested, p_values, intervals, strict=True):
        row["value"] = p
        if is_tested:
            difference_row.update(vars(interval))
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
        yield point_row(measure, point, int(n.sum()), share(k, n), int(k.sum()))
    change = difference(last[:, :2], first[:, :2])
    if change.value is not None:
        yield point_row(CHANGE, end, len(first), change)
    paid = np.array([(sums[2] / (units[scenario] or 1.0), sums[3]) for scenario, sums in points[end].items()])
    yield point_row(REWARD, end, len(paid), mean(paid[:, 0], paid[:, 1]))


def _comparison_rows(
    baseline: Points, condition: Points, begin: Point, end: Point, seed: int
) -> Iterator[dict[str, Any]]:
    """Yield the rows that compare a condition with the baseline."""
    sums = tables(baseline[begin], baseline[end], condition[begin], condition[end])
    rates, scenarios = [table[:, :2] for table in sums], len(sums[0])
    own = difference(rates[1], rates[0])
    others = difference(rates[3], rates[2])
    unit = np.max([table[:, 4] for table in sums], axis=0)
    paid = [np.stack([table[:, 2] / np.where(unit > 0, unit, 1.0), table[:, 3]], axis=1) for table in sums]
    yield point_row(GIVEN_UP, end, scenarios, mean_difference(paid[1], paid[3]))
    if own.value is None or others.value is None:
        return
    yield point_row(DIFFERENCE, end, scenarios, difference(rates[3], rates[1]))
    p = permuted(rates[3], rates[1], seed)
    yield point_row(P, end, scenarios, Interval(p, None, None, "permutation of scenarios, Holm"))

    def changes(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        resampled_rates = sums[:, 0::2] / sums[:, 1::2]
        return resampled_rates[:, 1] - resampled_rates[:, 0], resampled_rates[:, 3] - resampled_rates[:, 2]

    spread = not any(alike(rate[:, 0], rate[:, 1]) for rate in rates)
    removed = resampled(np.hstack(rates), lambda sums: np.subtract(*changes(sums)), seed) if spread else NO_BOUNDS
    yield point_row(REMOVED, end, scenarios, _interval(own.value - others.value, removed, apart(own, others)))
    if own.low is None or own.high is None or own.low <= 0 <= own.high:
        return
    left = resampled(np.hstack(rates), lambda sums: np.divide(*changes(sums)[::-1]), seed) if spread else NO_BOUNDS
    yield point_row(CHANGE_LEFT, end, scenarios, _interval(others.value / own.value, left, ratio(others, own)))


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
