"""Test the hypotheses that a study fixed before its first rollout, apart from everything else on the page."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atp.measures.hypothesis import primary_digest
from atp.report.outcome import HypothesisResult, claim

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


def registration(results: Sequence[HypothesisResult], provenances: Sequence[Mapping[str, Any]]) -> Registration:
    """Return the tests of a study's hypotheses, and whether its artifacts were made with them."""
    hypotheses = [result.hypothesis for result in results]
    digest = primary_digest(hypotheses)
    digests = Counter(str(provenance.get("primary", "")) for provenance in provenances)
    others = {other: count for other, count in digests.items() if other != digest}
    rows = [_row(result) for result in results]
    if not others:
        note = f"Fixed before the first rollout: all {digests.total()} artifacts have their digest, {digest}."
        return Registration(note if hypotheses else EXPLORATORY, False, rows)
    made = ", ".join(f"{count} with {other or 'none'}" for other, count in sorted(others.items()))
    note = (
        f"Changed after artifacts were made: of {digests.total()} artifacts {made} instead of {digest or 'none'}. "
        "These tests are exploratory too."
    )
    return Registration(note, True, rows)


def _row(result: HypothesisResult) -> list[str]:
    valid, bounds = result.valid, result.bounds
    text = result.reason or (SHOWN if result.holds else NOT_SHOWN)
    numbers = valid.numbers
    if bounds.numbers != numbers:
        numbers += f"; any invalid reply: {bounds.numbers}"
    return [claim(result.hypothesis), text, numbers, "–" if valid.value is None else _seeds(result)]


def _seeds(result: HypothesisResult) -> str:
    return ", ".join(map(str, result.hypothesis.seeds))
