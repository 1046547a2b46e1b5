"""Hypotheses of a study: their tests by hand, and whether they were fixed before the artifacts were made."""

import polars as pl
import pytest

from atp.measures.hypothesis import Hypothesis, primary_digest
from atp.measures.measure import measure_rows
from atp.report.primary import EXPLORATORY, registration

KEYS = dict(model="m", testbed="role_play", condition="baseline", variant="v", split="test", n=64, method="t")


def gap(seed: int, value: float, alignment: str = "dpo", round: int = 6, half: float = 0.098, **where) -> dict:
    """Return the row of a gap with a 95 % interval, by default with a standard error of 5 points."""
    place = {"seed": seed, "alignment": alignment, "channel": "context", "generation": 0, "round": round}
    return (
        KEYS | place | {"measure": "alignment_gap", "value": value, "low": value - half, "high": value + half} | where
    )


def hypothesis(comparison: str, bound: float, seeds: tuple[int, ...] = (0,), **where: str) -> Hypothesis:
    return Hypothesis(measure="alignment_gap", comparison=comparison, bound=bound, seeds=seeds, where=where)


def outcome(claim: Hypothesis, *rows: dict) -> list[str]:
    digest = {"primary": primary_digest([claim])}
    found = registration([claim], measure_rows(rows), [digest] * 3)
    assert not found.changed and "all 3 artifacts" in found.note
    return found.rows[0][1:]


ONE, THREE = (gap(0, 0.2, "none"),), tuple(gap(seed, value) for seed, value in enumerate((0.18, 0.2, 0.22)))


@pytest.mark.parametrize(
    ("claim", "rows", "result", "value"),
    [  # one-sided at 5 %: 1.645 standard errors of 5 points
        (hypothesis("above", 0.11), ONE, "shown", "0.200 (0.118 to 0.282)"),
        (hypothesis("above", 0.12), ONE, "not shown", "0.200 (0.118 to 0.282)"),
        (hypothesis("below", 0.29), ONE, "shown", "0.200 (0.118 to 0.282)"),
        (hypothesis("within", 0.29), ONE, "shown", "0.200 (0.118 to 0.282)"),
        (hypothesis("within", 0.1), ONE, "not shown", "0.200 (0.118 to 0.282)"),
        # the last point alone
        (hypothesis("above", 0.11), (*ONE, gap(0, 0.9, "none", round=5)), "shown", "0.200 (0.118 to 0.282)"),
        # three trainings: t of 2 degrees 2.920 times 1.155 points, and 1.645 times 5 points
        (hypothesis("above", 0.1, (0, 1, 2)), THREE, "shown", "0.200 (0.111 to 0.289)"),
        (hypothesis("above", 0.1, (0, 1, 2), alignment="dpo"), (*ONE, *THREE), "shown", "0.200 (0.111 to 0.289)"),
        # more seeds than were registered
        (hypothesis("above", 0.1, (0, 1)), THREE, "not shown", "0.190 (0.086 to 0.294)"),
        (hypothesis("above", 0.1), THREE, "not tested: one training", "0.180 (0.098 to 0.262)"),
        (hypothesis("above", 0.1, (0, 7)), ONE, "not tested: seeds [7] have no value", "0.200"),
        (hypothesis("above", 0.1), (*ONE, *THREE), "not tested: 2 series match, must be 1", "–"),
        (hypothesis("above", 0.1, alignment="grpo"), ONE, "not measured", "–"),
    ],
)
def test_by_hand(claim, rows, result, value):
    assert outcome(claim, *rows)[:2] == [result, value]


def test_a_changed_hypothesis_is_exploratory():
    before, after = hypothesis("above", 0.1), hypothesis("above", 0.0)
    made = [{"primary": primary_digest([before])}] * 4 + [{"primary": primary_digest([after])}, {}]
    found = registration([after], pl.DataFrame(measure_rows(ONE)), made)
    assert found.changed and found.rows[0][1] == "shown"
    assert found.note.startswith(
        f"Changed after artifacts were made: of 6 artifacts 1 with none, 4 with {made[0]['primary']}"
    )
    removed = registration([], measure_rows(ONE), made[:1])
    assert removed.changed and removed.note.endswith("instead of none. These tests are exploratory too.")


def test_a_study_without_hypotheses_is_exploratory():
    found = registration([], measure_rows(ONE), [{}, {"primary": ""}])
    assert (found.note, found.changed, found.rows) == (EXPLORATORY, False, [])
