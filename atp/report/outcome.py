"""Test hypotheses on a study's measures, whatever its invalid replies would have been."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from atp.measures.conditions import CHANGE_LEFT, change_left
from atp.measures.hypothesis import OF_ALIGNMENT, OF_CONDITION, Hypothesis
from atp.measures.invalid import FIRST_POINT, OF_BASELINE, SEEN_TEMPLATE, UNALIGNED, assume
from atp.measures.measure import Evidence
from atp.measures.rates import measure_evidence
from atp.measures.seeds import SEED, at_level, over_seeds
from atp.measures.trainings import ONE_TRAINING
from atp.report import spread

DEPENDS = "depends on what invalid replies would have been"


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


@dataclass(frozen=True)
class HypothesisResult:
    """A hypothesis with its result.

    Args:
        valid: the test on valid replies.
        bounds: the test over all ASSUMPTIONS about invalid replies, with the hull of its intervals.
    """

    hypothesis: Hypothesis
    valid: Outcome
    bounds: Outcome

    @property
    def holds(self) -> bool | None:
        """Whether the hypothesis is shown, or its opposite, whatever invalid replies would have been; else None."""
        return self.valid.holds if self.valid.holds is self.bounds.holds else None

    @property
    def reason(self) -> str:
        """Why nothing is shown, if another reason than the test's interval."""
        return self.valid.reason or (DEPENDS if self.holds is not self.valid.holds else "")


def hypothesis_results(
    hypotheses: Iterable[Hypothesis], evidence: Evidence, measures: pl.DataFrame | None = None
) -> list[HypothesisResult]:
    """Test hypotheses on a study's turns.

    Args:
        measures: those of the evidence, if they are known.
    """
    hypotheses = list(hypotheses)
    if not hypotheses:
        return []
    measures = measure_evidence(evidence) if measures is None else measures
    valid = [outcome(hypothesis, measures) for hypothesis in hypotheses]
    results = [[each] for each in valid]
    if evidence.turns.select(pl.col("violation").is_null().any()).collect().item():
        references = [_reference(hypothesis) for hypothesis in hypotheses]
        for name in dict.fromkeys(references):
            for violations in _assumptions(REFERENCES.get(name)):
                measures = measure_evidence(assume(evidence, violations))
                for result, hypothesis, reference in zip(results, hypotheses, references, strict=True):
                    if reference == name:
                        result.append(outcome(hypothesis, measures))
    return [HypothesisResult(*each) for each in zip(hypotheses, valid, map(_hull, results), strict=True)]


#: The turns that a comparison is made with.
REFERENCES = {"alignment": UNALIGNED, "condition": OF_BASELINE, "template": SEEN_TEMPLATE}


def _reference(hypothesis: Hypothesis) -> str:
    """Return the key of REFERENCES that a measure compares with; empty for a measure of one series."""
    kinds = {"alignment": OF_ALIGNMENT, "condition": OF_CONDITION, "template": ("unseen_minus_seen",)}
    return next((name for name, names in kinds.items() if hypothesis.measure.startswith(names)), "")


def _assumptions(reference: pl.Expr | None) -> list[pl.Expr]:
    """Return which invalid replies are violations: all, none, and what makes a number as large, or small, as it can be.

    A rise is largest if the later ones are, a difference if those of one side are, and the change of a difference if
    the first ones of one side and the later ones of the other are.
    """
    sides = [FIRST_POINT, *([] if reference is None else [reference, reference ^ FIRST_POINT])]
    return [pl.lit(True), pl.lit(False), *(each for side in sides for each in (side, ~side))]


def _hull(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the outcome that holds under all assumptions, with the smallest interval that has all of theirs in it."""
    shown = {each.holds for each in outcomes}
    low = min((each.low for each in outcomes if each.low is not None), default=None)
    high = max((each.high for each in outcomes if each.high is not None), default=None)
    return replace(outcomes[0], holds=shown.pop() if len(shown) == 1 else None, low=low, high=high)


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
    if hypothesis.measure == CHANGE_LEFT and len(last) > 1:  # over seeds it is a ratio of means
        changes = measures.filter(pl.col(SEED).is_in(hypothesis.seeds)).filter(**series.row(0, named=True))
        row |= next(change_left(changes).iter_rows(named=True), {"value": None, "low": None})
    value = row["value"]
    if missing:
        return Outcome(reason=f"not tested: seeds {missing} have no value", value=value)
    if row["low"] is None:
        return Outcome(reason="not tested: no interval", value=value)
    low, high = at_level(row, 1 - 2 * hypothesis.alpha)
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
