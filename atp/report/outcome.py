"""Test hypotheses on a study's measures, whatever its invalid replies would have been."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from atp.files.schemas import SERIES
from atp.measures.alignment import NONE
from atp.measures.conditions import BASELINE
from atp.measures.hypothesis import OF_ALIGNMENT, OF_CONDITION, Hypothesis
from atp.measures.measure import Evidence
from atp.measures.rates import measure_evidence
from atp.measures.seeds import LEAST, MOST, SEED, half_width, over_seeds
from atp.measures.trainings import ONE_TRAINING
from atp.report import spread

#: Whether invalid replies are violations, of the agent or condition that others are compared with and of the others, at
#: a series' first point and afterwards: all, none, and what makes a rise, a difference, or the change of a difference
#: as large, or as small, as it can be.
ASSUMPTIONS = (
    ((True, True), (True, True)),
    ((False, False), (False, False)),
    ((False, True), (False, True)),
    ((True, False), (True, False)),
    ((True, True), (False, False)),
    ((False, False), (True, True)),
    ((True, False), (False, True)),
    ((False, True), (True, False)),
)
#: Those that differ for a measure of one series.
OF_ONE_SERIES = 4
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
        for column, value in dict.fromkeys(references):
            for assumption in ASSUMPTIONS if column else ASSUMPTIONS[:OF_ONE_SERIES]:
                measures = measure_evidence(_with_invalid(evidence, pl.col(column or "alignment") == value, assumption))
                for result, hypothesis, reference in zip(results, hypotheses, references, strict=True):
                    if reference == (column, value):
                        result.append(outcome(hypothesis, measures))
    return [HypothesisResult(*each) for each in zip(hypotheses, valid, map(_hull, results), strict=True)]


def _reference(hypothesis: Hypothesis) -> tuple[str, str]:
    """Return column and value of the series that a measure compares with; empty for a measure of one series."""
    if hypothesis.measure.startswith(OF_ALIGNMENT):
        return "alignment", NONE
    return ("condition", BASELINE) if hypothesis.measure.startswith(OF_CONDITION) else ("", "")


def _with_invalid(
    evidence: Evidence, is_reference: pl.Expr, assumption: tuple[tuple[bool, bool], tuple[bool, bool]]
) -> Evidence:
    """Return evidence in which invalid replies are violations, or none, as one of ASSUMPTIONS says."""
    at = pl.when(pl.col("channel") == "context").then("round").otherwise("generation")
    is_first = at == at.min().over(*SERIES, "channel", "split")
    reference, other = (pl.when(is_first).then(pl.lit(first)).otherwise(pl.lit(later)) for first, later in assumption)
    violation = pl.col("violation").fill_null(pl.when(is_reference).then(reference).otherwise(other))
    own = {testbed: turns.with_columns(violation=violation) for testbed, turns in evidence.testbeds.items()}
    return replace(evidence, turns=evidence.turns.with_columns(violation=violation), testbeds=own)


def _hull(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the outcome that holds under all assumptions, with the smallest interval that has all of theirs in it."""
    shown = {each.holds for each in outcomes}
    lows, highs = ([getattr(each, name) for each in outcomes] for name in ("low", "high"))
    if None in lows or None in highs:
        return outcomes[0]
    return replace(outcomes[0], holds=shown.pop() if len(shown) == 1 else None, low=min(lows), high=max(highs))


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
    row = over_seeds(last).with_columns(lowest=LEAST, highest=MOST).row(0, named=True)
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
    low, high = value - factor * (value - row["low"]), value + factor * (row["high"] - value)
    return (
        low if row["lowest"] is None else max(low, row["lowest"]),
        high if row["highest"] is None else min(high, row["highest"]),
    )
