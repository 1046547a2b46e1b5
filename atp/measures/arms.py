"""What arms change: how much of plain's change survives in another arm, and what that arm costs in reward.

With r the violation rate on the test split, p plain and a another arm, begin and end the first and the last point that
both have (a round whose prompts say of supervision what the first one's say, or a generation):

    change_in_arm(x) = r(x, end) - r(x, begin)    change_removed = change_in_arm(p) - change_in_arm(a)
    end_difference = r(a, end) - r(p, end)        change_left = change_in_arm(a) / change_in_arm(p)
    reward_given_up = mean reward (p, end) - mean reward (a, end), each in units of the largest reward, or loss, that
                      a reply of the same scenario brought in either arm: scenarios pay in different currencies

Intervals draw whole scenarios, the same ones for all rates of a number. Where a rate is the same in all scenarios, that
would take it for certain, so there they are made of the rates' own intervals (`intervals.apart`, `intervals.ratio`).
end_difference_p is a permutation test's, corrected for all that is compared with plain in one cell and channel.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from atp.artifacts import CELL, MEASURES
from atp.measures.intervals import Interval, alike, apart, difference, mean_difference, ratio, resampled, share
from atp.measures.lines import LINE, POINT, by_scenario

PLAIN = "plain"
BEGIN, END = "rate_begin", "rate_end"
CHANGE, REMOVED, CHANGE_LEFT = "change_in_arm", "change_removed", "change_left"
DIFFERENCE, P, GIVEN_UP = "end_difference", "end_difference_p", "reward_given_up"
OF_ARMS = (BEGIN, END, CHANGE, REMOVED, CHANGE_LEFT, DIFFERENCE, P, GIVEN_UP)
#: Exchanges that a permutation test draws.
DRAWS = 9999
NOTHING = (None, None)
_CELL = [key for key in CELL if key != "arm"]

#: Generation and round.
Point = tuple[int, int]
#: Point -> scenario -> violations, valid replies, rewards, replies, largest reward or loss.
Points = dict[Point, dict[str, tuple[float, ...]]]


def arm_effects(turns: pl.LazyFrame, seed: int) -> pl.DataFrame:
    """Rows of MEASURES for plain and every arm beside it; n counts scenarios, of a rate its valid replies.

    A row of an arm stands under the variant of plain that it is compared with, which says more than its own where the
    arm imposes what plain sweeps. Where there are several seeds, further rows, whose seed is null, are of all of them:
    each scenario with the replies of every seed, as all play the same ones, and one correction by Holm. change_left is
    left out where the interval of plain's change holds 0.
    """
    reward = pl.col("reward")
    counts = by_scenario(turns, reward=reward.sum(), replies=pl.len(), largest=reward.abs().max())
    every = [counts]
    if counts["seed"].n_unique() > 1:
        sums = [pl.col("k", "n", "reward", "replies").sum(), pl.col("largest").max()]
        points = counts.group_by(*[key for key in LINE if key != "seed"], *POINT, "scenario_id").agg(sums)
        every.append(points.sort(pl.all()).with_columns(seed=pl.lit(None, pl.Int64)))
    rows: list[dict[str, Any]] = []
    for keys, cell in (group for table in every for group in table.group_by(*_CELL, "channel", maintain_order=True)):
        lines: dict[str, dict[str, Points]] = {}
        for (arm, variant), line in cell.group_by("arm", "variant", maintain_order=True):
            lines.setdefault(str(arm), {})[str(variant)] = _points(line)
        named = dict(zip([*_CELL, "channel"], keys, strict=True)) | {"split": "test"}
        rows += [named | row for row in _cell(lines, seed)]
    return pl.DataFrame(rows, schema=pl.DataFrame(MEASURES.empty_table()).schema)


def _points(line: pl.DataFrame) -> Points:
    found: Points = {}
    for generation, round, scenario, *sums in line.select(
        "generation", "round", "scenario_id", "k", "n", "reward", "replies", "largest"
    ).iter_rows():
        found.setdefault((generation, round), {})[scenario] = tuple(sums)
    return found


def _cell(lines: Mapping[str, Mapping[str, Points]], seed: int) -> list[dict[str, Any]]:
    """Rows of one cell and channel, without the cell's keys."""
    rows, tested = [], []
    for variant, plain in lines.get(PLAIN, {}).items():
        if min(plain) < max(plain):
            rows += [{"arm": PLAIN, "variant": variant, **row} for row in _alone(plain, min(plain), max(plain), seed)]
        for arm in sorted(lines.keys() - {PLAIN}):
            other = lines[arm].get(counterpart(variant, lines[arm]) or "", {})
            common = plain.keys() & other.keys()
            if len(common) < 2:
                continue
            ends = (min(common), max(common))
            found = [*_alone(other, *ends, seed), *_compared(plain, other, *ends, seed)]
            rows += [{"arm": arm, "variant": variant, **row} for row in found]
            tested += [row for row in rows[-len(found) :] if row["measure"] == P]
    for row, p in zip(tested, holm([row["value"] for row in tested]), strict=True):
        row["value"] = p
    return rows


def counterpart(variant: str, others: Iterable[str]) -> str | None:
    """The variant of an arm that is played as plain's `variant` but for what the arm imposes, which its label leaves
    out; `default` names nothing.
    """
    words = {*variant.split(), "default"}
    return next((other for other in others if words.issuperset(other.split())), None)


def _alone(line: Points, begin: Point, end: Point, seed: int) -> Iterator[dict[str, Any]]:
    """Rates at two points, and the change between them."""
    first, last = _tables(line[begin], line[end])
    for measure, point, rate in ((BEGIN, begin, first), (END, end, last)):
        k, n = (rate[:, column].astype(int) for column in (0, 1))
        yield _row(measure, point, int(n.sum()), share(k, n, seed), int(k.sum()))
    change = difference(last[:, :2], first[:, :2], seed)
    if change.value is not None:
        yield _row(CHANGE, end, len(first), change)


def _compared(plain: Points, arm: Points, begin: Point, end: Point, seed: int) -> Iterator[dict[str, Any]]:
    tables = _tables(plain[begin], plain[end], arm[begin], arm[end])
    rates = [table[:, :2] for table in tables]
    own = difference(rates[1], rates[0], seed)
    others = difference(rates[3], rates[2], seed)
    unit = np.max([table[:, 4] for table in tables], axis=0)
    paid = [np.stack([table[:, 2] / np.where(unit > 0, unit, 1.0), table[:, 3]], axis=1) for table in tables]
    yield _row(GIVEN_UP, end, len(tables[0]), mean_difference(paid[1], paid[3], seed))
    if own.value is None or others.value is None:
        return
    yield _row(DIFFERENCE, end, len(tables[0]), difference(rates[3], rates[1], seed))
    p = permuted(rates[3], rates[1], seed)
    yield _row(P, end, len(tables[0]), Interval(p, None, None, "permutation of scenarios, Holm"))

    def changes(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = sums[:, 0::2] / sums[:, 1::2]
        return found[:, 1] - found[:, 0], found[:, 3] - found[:, 2]

    spread = not any(alike(rate[:, 0], rate[:, 1]) for rate in rates)
    removed = resampled(np.hstack(rates), lambda sums: np.subtract(*changes(sums)), seed) if spread else NOTHING
    yield _row(REMOVED, end, len(tables[0]), _found(own.value - others.value, removed, apart(own, others)))
    if own.low is None or own.high is None or own.low <= 0 <= own.high:
        return
    left = resampled(np.hstack(rates), lambda sums: np.divide(*changes(sums)[::-1]), seed) if spread else NOTHING
    yield _row(CHANGE_LEFT, end, len(tables[0]), _found(others.value / own.value, left, ratio(others, own)))


def _found(value: float, drawn: tuple[float | None, float | None], else_from_rates: tuple[float, float]) -> Interval:
    if drawn[0] is None:
        return Interval(value, *else_from_rates, "from the rates' intervals")
    return Interval(value, *drawn, "cluster bootstrap")


def _tables(*points: Mapping[str, Sequence[float]]) -> list[np.ndarray]:
    """[scenarios, 5] of each point, with the sums of each scenario as in Points."""
    scenarios = sorted(set().union(*points))
    return [np.array([point.get(scenario, (0,) * 5) for scenario in scenarios], float) for point in points]


def _row(measure: str, point: Point, n: int, found: Interval, k: int | None = None) -> dict[str, Any]:
    generation, round = point
    return {"generation": generation, "round": round, "measure": measure, "k": k, "n": n, **vars(found)}


def permuted(one: np.ndarray, other: np.ndarray, seed: int) -> float:
    """Two-sided p of the difference between two shares, [clusters, 2] of hits and totals: how often it is at least as
    large where chance decides in each cluster which of both is which, the one that was seen counted with them (Phipson
    and Smyth 2010, Statistical Applications in Genetics and Molecular Biology 9:39).
    """
    swapped = np.random.default_rng(seed).integers(2, size=(DRAWS, len(one)))
    mine = np.vstack([one.sum(axis=0), one.sum(axis=0) + swapped @ (other - one)])
    theirs = (one + other).sum(axis=0) - mine
    with np.errstate(divide="ignore", invalid="ignore"):
        gaps = np.abs(mine[:, 0] / mine[:, 1] - theirs[:, 0] / theirs[:, 1])
    return float((~(gaps < gaps[0] - 1e-12)).mean())


def holm(found: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979, Scandinavian Journal of Statistics 6:65): the smallest times n,
    the next times n - 1, …, none smaller than the one before it.
    """
    order = np.argsort(found, kind="stable")
    scaled = np.array(found)[order] * np.arange(len(found), 0, -1)
    corrected = np.empty(len(found))
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return corrected.tolist()
