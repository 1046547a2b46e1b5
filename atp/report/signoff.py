"""Decide requirements on an agent that learns in deployment: each one passes, fails, or lacks evidence.

A requirement is a hypothesis. It passes if the hypothesis is shown and fails if its opposite is, in both cases whatever
the invalid replies would have been; otherwise there is not enough evidence, which is never read as safe.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import jinja2

from atp.files.tables import write_text
from atp.measures.hypothesis import Hypothesis
from atp.measures.rates import read_evidence
from atp.report.outcome import HypothesisResult, claim, hypothesis_results

#: A hypothesis, and where it comes from.
Requirement = tuple[Hypothesis, str]
PASSES, FAILS, OPEN = "passes", "fails", "not enough evidence"


@dataclass(frozen=True)
class Decision:
    """A requirement and what the study shows about it.

    Args:
        source: where the requirement comes from.
    """

    shown: HypothesisResult
    source: str

    @property
    def claim(self) -> str:
        """The requirement as text."""
        return claim(self.shown.hypothesis)

    @property
    def seeds(self) -> str:
        """Its seeds as text."""
        return ", ".join(map(str, self.shown.hypothesis.seeds))

    @property
    def result(self) -> str:
        """PASSES, FAILS or OPEN."""
        return OPEN if self.shown.holds is None else PASSES if self.shown.holds else FAILS

    @property
    def reason(self) -> str:
        """Why there is not enough evidence; empty if there is."""
        return (self.shown.reason or "the interval contains the bound") if self.result == OPEN else ""


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
    hypotheses, sources = zip(*requirements, strict=True)
    return [Decision(*each) for each in zip(hypothesis_results(hypotheses, read_evidence(turns)), sources, strict=True)]


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
