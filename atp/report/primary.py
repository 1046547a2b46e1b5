"""Test the hypotheses that a study fixed before its first rollout, apart from everything else on the page."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from atp.measures.hypothesis import Hypothesis, primary_digest
from atp.measures.seeds import SEED, half_width, over_seeds
from atp.measures.trainings import ONE_TRAINING
from atp.report import spread

COLUMNS = ["hypothesis", "result", "value, and interval of the test", "seeds"]
SHOWN, NOT_SHOWN = "shown", "not shown"
EXPLORATORY = "This study fixes no hypotheses (key primary), so all of its results are exploratory."


@dataclass(frozen=True)
class Registration:
    """What a study fixed beforehand.

    Args:
        note: whether it was fixed before the artifacts were made, as a sentence.
        changed: whether artifacts were made with other hypotheses.
        rows: cells of COLUMNS, one row for each hypothesis.
    """

    note: str
    changed: bool
    rows: list[list[str]]


def registration(
    hypotheses: Sequence[Hypothesis], measures: pl.DataFrame, provenances: Sequence[Mapping[str, Any]]
) -> Registration:
    """Return the tests of a study's hypotheses, and whether its artifacts were made with them."""
    digest = primary_digest(hypotheses)
    digests = Counter(str(provenance.get("primary", "")) for provenance in provenances)
    others = {other: count for other, count in digests.items() if other != digest}
    rows = [_row(hypothesis, measures) for hypothesis in hypotheses]
    if not others:
        note = f"Fixed before the first rollout: all {digests.total()} artifacts have their digest, {digest}."
        return Registration(note if hypotheses else EXPLORATORY, False, rows)
    made = ", ".join(f"{count} with {other or 'none'}" for other, count in sorted(others.items()))
    note = (
        f"Changed after artifacts were made: of {digests.total()} artifacts {made} instead of {digest or 'none'}. "
        "These tests are exploratory too."
    )
    return Registration(note, True, rows)


def _row(hypothesis: Hypothesis, measures: pl.DataFrame) -> list[str]:
    bound = f"{hypothesis.bound:g}"
    claim = f"within {bound} of 0" if hypothesis.comparison == "within" else f"{hypothesis.comparison} {bound}"
    where = ", ".join(hypothesis.where.values())
    text = f"{hypothesis.measure}{f' ({where})' if where else ''} is {claim}, at {100 * hypothesis.alpha:g}\u00a0%"
    return [text, *_test(hypothesis, measures)]


def _test(hypothesis: Hypothesis, measures: pl.DataFrame) -> list[str]:
    """Return the result of a test, the value with its interval, and the seeds."""
    rows = measures.filter(pl.col("value").is_not_null(), pl.col(SEED).is_in(hypothesis.seeds))
    rows = rows.filter(measure=hypothesis.measure).filter(**hypothesis.where)
    if "split" not in hypothesis.where:
        rows = rows.filter(split="test")
    series = rows.select("model", "testbed", "alignment", "condition", "variant", "channel", "split").unique()
    if len(series) != 1:
        return [f"not tested: {len(series)} series match, must be 1" if len(series) else "not measured", "–", "–"]
    last = rows.filter(pl.struct("generation", pl.col("round").fill_null(0)) == _last_point(rows))
    missing = sorted(set(hypothesis.seeds) - set(last[SEED].to_list()))
    row = over_seeds(last).row(0, named=True)
    seeds, value = ", ".join(map(str, hypothesis.seeds)), f"{row['value']:.3f}".replace("-", "\u2212")
    if missing:
        return [f"not tested: seeds {missing} have no value", value, seeds]
    if row["low"] is None:
        return ["not tested: no interval", value, seeds]
    low, high = _bounds(row, 1 - 2 * hypothesis.alpha)
    value += f" ({low:.3f} to {high:.3f})".replace("-", "\u2212")
    if spread.trained_once(row):
        return [f"not tested: {ONE_TRAINING}", value, seeds]
    shown = {
        "above": low > hypothesis.bound,
        "below": high < hypothesis.bound,
        "within": -hypothesis.bound <= low and high <= hypothesis.bound,
    }[hypothesis.comparison]
    return [SHOWN if shown else NOT_SHOWN, value, seeds]


def _last_point(rows: pl.DataFrame) -> Any:
    return rows.select(pl.struct("generation", pl.col("round").fill_null(0)).sort().last()).item()


def _bounds(row: Mapping[str, Any], level: float) -> tuple[float, float]:
    """Return a row's interval at another level: the distances of its bounds change as those of its t or z do."""
    between, within, seeds = row["between"] or 0.0, row["within"] or 1.0, row["seeds"]
    factor = float(half_width(between, within, seeds, level) / half_width(between, within, seeds))
    value: float = row["value"]
    return value - factor * (value - row["low"]), value + factor * (row["high"] - value)
