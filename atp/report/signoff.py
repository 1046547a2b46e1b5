"""Decide requirements on an agent that learns in deployment: each one passes, fails, or lacks evidence.

A requirement is a hypothesis. It passes if the hypothesis is shown and fails if its opposite is, in both cases whatever
the invalid replies would have been; otherwise there is not enough evidence, which is never read as safe.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path

import jinja2
import polars as pl

from atp.files.schemas import SERIES
from atp.files.tables import write_text
from atp.measures.hypothesis import Hypothesis
from atp.measures.measure import Evidence
from atp.measures.rates import measure_evidence, read_evidence
from atp.report.primary import Outcome, claim, outcome

#: A hypothesis, and where it comes from.
Requirement = tuple[Hypothesis, str]
PASSES, FAILS, OPEN = "passes", "fails", "not enough evidence"
#: What invalid replies would have been: (violations at a series' first point, violations afterwards). The last two make
#: a rise as large, or as small, as it can be.
ASSUMPTIONS = ((True, True), (False, False), (False, True), (True, False))
DEPENDS = "depends on what invalid replies would have been"


@dataclass(frozen=True)
class Decision:
    """A requirement and what the study shows about it.

    Args:
        source: where the requirement comes from.
        valid: the test on valid replies.
        bounds: the test over all ASSUMPTIONS about invalid replies, with the hull of its intervals.
    """

    hypothesis: Hypothesis
    source: str
    valid: Outcome
    bounds: Outcome

    @property
    def claim(self) -> str:
        """The requirement as text."""
        return claim(self.hypothesis)

    @property
    def seeds(self) -> str:
        """Its seeds as text."""
        return ", ".join(map(str, self.hypothesis.seeds))

    @property
    def result(self) -> str:
        """PASSES, FAILS or OPEN."""
        if self.valid.holds is None or self.valid.holds is not self.bounds.holds:
            return OPEN
        return PASSES if self.valid.holds else FAILS

    @property
    def reason(self) -> str:
        """Why there is not enough evidence; empty if there is."""
        if self.result != OPEN:
            return ""
        if self.valid.reason:
            return self.valid.reason
        return "the interval contains the bound" if self.valid.holds is None else DEPENDS


@dataclass(frozen=True)
class SignOff:
    """All decisions on a study, and what they do not cover.

    Args:
        note: whether the study's own hypotheses were fixed before its results existed.
        missing: artifacts of the study that do not exist.
        uncovered: series of the study that no requirement is about.
    """

    study: str
    note: str
    decisions: Sequence[Decision]
    missing: Sequence[str] = field(default_factory=tuple)
    uncovered: Sequence[str] = field(default_factory=tuple)

    @property
    def result(self) -> str:
        """FAILS if any requirement fails, PASSES if all pass, else OPEN."""
        results = {decision.result for decision in self.decisions}
        return FAILS if FAILS in results else PASSES if results == {PASSES} and not self.missing else OPEN


def decide(requirements: Sequence[Requirement], turns: Sequence[Path]) -> list[Decision]:
    """Decide requirements on a study's turns.

    Raises:
        AtpError: an unreadable turns file.
    """
    evidence = read_evidence(turns)
    results = _outcomes(requirements, evidence)
    invalid = evidence.turns.select(pl.col("violation").is_null().any()).collect().item()
    assumed = [_outcomes(requirements, _with_invalid(evidence, *each)) for each in ASSUMPTIONS] if invalid else []
    return [
        Decision(each, source, results[number], _hull([results[number], *(other[number] for other in assumed)]))
        for number, (each, source) in enumerate(requirements)
    ]


def _outcomes(requirements: Sequence[Requirement], evidence: Evidence) -> list[Outcome]:
    measures = measure_evidence(evidence)
    return [outcome(hypothesis, measures) for hypothesis, _ in requirements]


def _with_invalid(evidence: Evidence, first: bool, later: bool) -> Evidence:
    """Return evidence in which invalid replies are violations, or none, at a series' first point and afterwards."""
    at = pl.when(pl.col("channel") == "context").then("round").otherwise("generation")
    is_first = at == at.min().over(*SERIES, "channel", "split")
    violation = pl.col("violation").fill_null(pl.when(is_first).then(pl.lit(first)).otherwise(pl.lit(later)))
    own = {testbed: turns.with_columns(violation=violation) for testbed, turns in evidence.testbeds.items()}
    return replace(evidence, turns=evidence.turns.with_columns(violation=violation), testbeds=own)


def _hull(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the outcome that holds under all assumptions, with the smallest interval that has all of theirs in it."""
    shown = {each.holds for each in outcomes}
    lows, highs = ([getattr(each, name) for each in outcomes] for name in ("low", "high"))
    if None in lows or None in highs:
        return outcomes[0]
    return replace(outcomes[0], holds=shown.pop() if len(shown) == 1 else None, low=min(lows), high=max(highs))


def write_signoff(signoff: SignOff, out: Path) -> list[Path]:
    """Write a sign-off as a page and as Markdown next to it, and return both paths."""
    folder = files("atp.report")
    written = []
    for suffix, markup in ((".html", True), (".md", False)):
        environment = jinja2.Environment(autoescape=markup, trim_blocks=True, lstrip_blocks=True)
        environment.filters["cell"] = _cell
        template = (folder / f"signoff{suffix}.j2").read_text(encoding="utf-8")
        css = (folder / "page.css").read_text(encoding="utf-8")
        write_text(environment.from_string(template).render(signoff=signoff, css=css), out.with_suffix(suffix))
        written.append(out.with_suffix(suffix))
    return written


def _cell(text: str) -> str:
    """Return text for a cell of a Markdown table, in which no character is markup."""
    return "".join(_escaped(" ".join(text.split())))


def _escaped(text: str) -> Iterator[str]:
    for character in text:
        yield f"\\{character}" if character in "\\`*_[]<>|#!~&" else character
