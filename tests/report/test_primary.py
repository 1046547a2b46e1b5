"""Hypotheses of a study: their tests by hand, and whether they were fixed before the artifacts were made."""

import pytest
from evidence import evidence, turn_row

from atp.measures.hypothesis import Hypothesis, primary_digest
from atp.measures.measure import measure_rows
from atp.registry import find_testbed
from atp.report.outcome import DEPENDS, HypothesisResult, hypothesis_results
from atp.report.outcome import outcome as single_outcome
from atp.report.primary import EXPLORATORY, registration

GIVEN_AGENT = "given:mine"
G = {"alignment": GIVEN_AGENT}
KEYS = dict(model="m", testbed="role_play", condition="baseline", variant="v", split="test", n=64, method="t")


def gap(seed: int, value: float, alignment: str = "dpo", round: int = 6, half: float = 0.098, **where) -> dict:
    """Return the row of a gap with a 95 % interval, by default with a standard error of 5 points."""
    place = {"seed": seed, "alignment": alignment, "channel": "context", "generation": 0, "round": round}
    return (
        KEYS | place | {"measure": "alignment_gap", "value": value, "low": value - half, "high": value + half} | where
    )


def hypothesis(comparison: str, bound: float, seeds: tuple[int, ...] = (0,), **where: str) -> Hypothesis:
    return Hypothesis(measure="alignment_gap", comparison=comparison, bound=bound, seeds=seeds, where=where)


def on_valid(claim: Hypothesis, *rows: dict) -> HypothesisResult:
    result = single_outcome(claim, measure_rows(rows))
    return HypothesisResult(claim, result, result)


def outcome(claim: Hypothesis, *rows: dict) -> list[str]:
    digest = {"primary": primary_digest([claim])}
    found = registration([on_valid(claim, *rows)], [digest] * 3)
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
    found = registration([on_valid(after, *ONE)], made)
    assert found.changed and found.rows[0][1] == "shown"
    assert found.note.startswith(
        f"Changed after artifacts were made: of 6 artifacts 1 with none, 4 with {made[0]['primary']}"
    )
    removed = registration([], made[:1])
    assert removed.changed and removed.note.endswith("instead of none. These tests are exploratory too.")


def test_a_study_without_hypotheses_is_exploratory():
    found = registration([], [{}, {"primary": ""}])
    assert (found.note, found.changed, found.rows) == (EXPLORATORY, False, [])


def turns(alignment: str, violations: int, invalid: int) -> list[dict]:
    """Return one reply in each of 40 scenarios and two rounds: no violation in the first, and these in the second."""
    rows = []
    for number in range(40):
        later = None if number < invalid else number < invalid + violations
        for round, violation in ((1, False), (2, later)):
            place = {"alignment": alignment, "agent": 0, "reply": "x"}
            rows.append(turn_row("role_play", f"s{number}", round, violation=violation, **place))
    return rows


@pytest.mark.parametrize(
    ("claim", "rows", "holds", "valid", "bounds"),
    [  # of the agent that is given, 10 of 40 replies are invalid
        (("change", "below", 0.2, {}), turns("none", 0, 0), True, 0.0, (0.0, 0.0)),
        (("change", "below", 0.2, {}), turns("none", 0, 10), None, 0.0, (0.0, 0.25)),
        (("change", "above", 0.3, {}), turns("none", 30, 10), True, 1.0, (0.75, 1.0)),
        (("alignment_gap", "above", 0.3, G), turns("none", 20, 0) + turns(GIVEN_AGENT, 0, 10), None, 0.5, (0.25, 0.5)),
        (("alignment_gap", "above", 0.3, G), turns("none", 30, 0) + turns(GIVEN_AGENT, 0, 4), True, 0.75, (0.65, 0.75)),
    ],
)
def test_a_hypothesis_holds_whatever_invalid_replies_would_have_been(claim, rows, holds, valid, bounds):
    measure, comparison, bound, where = claim
    hypothesis = Hypothesis(measure=measure, comparison=comparison, bound=bound, where=where, seeds=(0,))
    (result,) = hypothesis_results([hypothesis], evidence(find_testbed("role_play"), rows))
    assert (result.holds, result.valid.value) == (holds, pytest.approx(valid))
    assert result.bounds.low <= bounds[0] + 1e-9 and result.bounds.high >= bounds[1] - 1e-9
    if holds is None:
        assert result.valid.holds and result.reason == DEPENDS


def test_the_change_left_over_seeds_is_the_ratio_of_mean_changes():
    """Seeds whose baseline changes by 0.5 and 0.1, of which a condition keeps 0.1 and 0.1: 1/3, and not the mean of 1/5
    and 1."""
    changes = {"change_in_baseline": (0.5, 0.1), "change_in_condition": (0.1, 0.1), "change_left": (0.2, 1.0)}
    rows = [
        gap(seed, value, "none", half=0.02, measure=measure, invalid=0)
        for measure, values in changes.items()
        for seed, value in enumerate(values)
    ]
    claim = Hypothesis(measure="change_left", comparison="below", bound=0.5, seeds=(0, 1))
    result = single_outcome(claim, measure_rows(rows))
    assert result.value == pytest.approx(1 / 3) and result.holds
