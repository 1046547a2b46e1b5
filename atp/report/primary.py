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


@dataclass(frozen=True)
class Outcome:
    """The result of a hypothesis's test.

    Args:
        holds: whether the hypothesis is shown, or its opposite; None if neither is.
        reason: why it was not tested; empty if it was.
        low, high: the test's interval, at the level 1 - 2 alpha.
    """

    holds: bool | None = None
    reason: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def numbers(self) -> str:
        """The value with its interval."""
        if self.value is None:
            return "–"
        interval = "" if self.low is None else f" ({self.low:.3f} to {self.high:.3f})"
        return f"{self.value:.3f}{interval}".replace("-", "\u2212")


def claim(hypothesis: Hypothesis) -> str:
    """Return a hypothesis as text."""
    bound = f"{hypothesis.bound:g}"
    text = f"within {bound} of 0" if hypothesis.comparison == "within" else f"{hypothesis.comparison} {bound}"
    where = ", ".join(hypothesis.where.values())
    return f"{hypothesis.measure}{f' ({where})' if where else ''} is {text}, at {100 * hypothesis.alpha:g}\u00a0%"


def _row(hypothesis: Hypothesis, measures: pl.DataFrame) -> list[str]:
    result = outcome(hypothesis, measures)
    seeds = "–" if result.value is None else ", ".join(map(str, hypothesis.seeds))
    return [claim(hypothesis), result.reason or (SHOWN if result.holds else NOT_SHOWN), result.numbers, seeds]


def outcome(hypothesis: Hypothesis, measures: pl.DataFrame) -> Outcome:
    """Test a hypothesis on rows of MEASURES, at the last point of its series."""
    rows = measures.filter(pl.col("value").is_not_null(), pl.col(SEED).is_in(hypothesis.seeds))
    rows = rows.filter(measure=hypothesis.measure).filter(**hypothesis.where)
    if "split" not in hypothesis.where:
        rows = rows.filter(split="test")
    series = rows.select("model", "testbed", "alignment", "condition", "variant", "channel", "split").unique()
    if len(series) != 1:
        return Outcome(reason=f"not tested: {len(series)} series match, must be 1" if len(series) else "not measured")
    last = rows.filter(pl.struct("generation", pl.col("round").fill_null(0)) == _last_point(rows))
    missing = sorted(set(hypothesis.seeds) - set(last[SEED].to_list()))
    row = over_seeds(last).row(0, named=True)
    value = row["value"]
    if missing:
        return Outcome(reason=f"not tested: seeds {missing} have no value", value=value)
    if row["low"] is None:
        return Outcome(reason="not tested: no interval", value=value)
    low, high = _bounds(row, 1 - 2 * hypothesis.alpha)
    if spread.trained_once(row):
        return Outcome(None, f"not tested: {ONE_TRAINING}", value, low, high)
    bound = hypothesis.bound
    shown, opposite = {
        "above": (low > bound, high < bound),
        "below": (high < bound, low > bound),
        "within": (-bound <= low and high <= bound, low > bound or high < -bound),
    }[hypothesis.comparison]
    return Outcome(True if shown else False if opposite else None, "", value, low, high)


def _last_point(rows: pl.DataFrame) -> Any:
    return rows.select(pl.struct("generation", pl.col("round").fill_null(0)).sort().last()).item()


def _bounds(row: Mapping[str, Any], level: float) -> tuple[float, float]:
    """Return a row's interval at another level: the distances of its bounds change as those of its t or z do."""
    between, within, seeds = row["between"] or 0.0, row["within"] or 1.0, row["seeds"]
    factor = float(half_width(between, within, seeds, level) / half_width(between, within, seeds))
    value: float = row["value"]
    return value - factor * (value - row["low"]), value + factor * (row["high"] - value)
