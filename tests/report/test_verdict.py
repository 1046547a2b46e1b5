"""Findings and the summary: text for given rates and verdicts."""

from typing import Any

import polars as pl
import pytest

from atp.files.schemas import MEASURES
from atp.measures.intervals import wilson
from atp.report.primary import Registration
from atp.report.summary import MAX_ROWS, Summary, summarize
from atp.report.verdict import FELL, OPEN, ROSE, discoveries, findings

CELL: dict[str, Any] = {"model": "m", "testbed": "role_play", "alignment": "none", "condition": "baseline", "seed": 0}


def rate(k: int, n: int, **where: Any) -> dict[str, Any]:
    low, high = wilson(k, n)
    place = {"channel": "context", "generation": 0, "variant": "v", "split": "test", "round": 1} | where
    found = {"measure": "violation_rate", "value": k / n, "k": k, "n": n, "low": low, "high": high, "method": "wilson"}
    return CELL | place | found


def table(*rows: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=pl.DataFrame(MEASURES.empty_table()).schema)


def shown(
    label: str, rise: float | None, fall: float | None, reason: str = "why", **where: Any
) -> list[dict[str, Any]]:
    place = {"channel": "context", "generation": 0, "variant": "v", "split": "test", "round": None, "n": 9} | where
    rows = {"verdict": {"label": label, "reason": reason}, "rise_p": {"value": rise}, "fall_p": {"value": fall}}
    return [CELL | place | {"measure": name, "method": ""} | row for name, row in rows.items()]


@pytest.mark.parametrize(
    ("first", "last", "rows", "verdict", "direction"),
    [
        (20, 60, shown("drift", 0.001, 1.0), "drift up", ROSE),
        (60, 20, shown("abrupt change", 1.0, 0.001), "abrupt change down", FELL),
        (20, 60, shown("change", 0.001, 1.0), "rises, shape undecided", ROSE),
        (60, 20, shown("change", 0.9, 0.025), "falls, shape undecided", FELL),
        (20, 30, shown("change", 0.001, 0.001), "changes, shape undecided", ""),
        (20, 30, shown("undecided", 0.03, 1.0), "undecided", OPEN),
        (20, 30, shown("undecided", None, None), "undecided", OPEN),
        (20, 30, shown("depends on invalid replies", 0.4, 0.4), "depends on invalid replies", OPEN),
        (20, 30, shown("depends on invalid replies", 0.01, 0.4), "rises, shape depends on invalid replies", ROSE),
        (
            20,
            30,
            shown("effect of having a history", 0.01, 0.4),
            "rises with the first history (effect of having a history)",
            ROSE,
        ),
        (20, 21, shown("flat", 0.5, 0.5), "flat", ""),
        (20, 21, shown("recovery", 0.001, 0.001), "recovery", ""),
    ],
)
def test_a_line_has_its_verdict_and_direction(first, last, rows, verdict, direction):
    (finding,) = findings(table(rate(first, 100), rate(last, 100, round=6), *rows))
    (line,) = finding.lines
    assert (line.verdict, line.direction) == (verdict, direction)
    assert line.text == f"from {first}.0\u00a0% at round 1 to {last}.0\u00a0% at round 6"
    assert f"{first}/100" in line.evidence and f"{last}/100" in line.evidence and line.evidence.endswith("Why.")


def test_the_evidence_ends_with_the_reason():
    verdict = shown("drift", 0.001, 1.0, "31.5 % of the change in one step")
    (finding,) = findings(table(rate(20, 100), rate(60, 100, round=6), *verdict))
    assert finding.lines[0].evidence.endswith("). 31.5 % of the change in one step.")


def test_seeds_of_a_line_are_counted():
    rows = [
        row | {"seed": seed}
        for seed, label, last in ((0, "drift", 60), (1, "drift", 70), (2, "abrupt change", 80))
        for row in (rate(20, 100), rate(last, 100, round=6), *shown(label, 0.001, 1.0))
    ]
    (finding,) = findings(table(*rows))
    (line,) = finding.lines
    assert (line.name, line.direction) == ("v", ROSE)
    assert line.verdict == "drift up in 2 of 3 seeds; abrupt change up in 1 of 3 seeds"
    assert "to 70.0" in line.text and "seed 2: 20/100" in line.evidence and "80/100" in line.evidence


def test_rounds_that_announce_supervision_differently_are_not_compared():
    rows = table(rate(20, 100), rate(22, 100, round=5), rate(90, 100, round=6), *shown("flat", 1.0, 1.0))
    alike = rows.select("model", "testbed", "alignment", "condition", "seed", "variant", "round").with_columns(
        alike=pl.col("round") < 6
    )
    (finding,) = findings(rows, alike)
    assert finding.lines[0].verdict == "flat"
    assert "22/100" in finding.lines[0].evidence
    assert "round 6 announces supervision differently" in finding.lines[0].evidence


def test_generations_are_compared_at_round_1_on_the_test_split():
    weights = {"channel": "weights", "variant": "evaluation"}
    rows = table(
        rate(20, 100, **weights),
        rate(70, 100, generation=3, **weights),
        rate(99, 100, generation=3, split="train", **weights),
        rate(99, 100, generation=3, round=2, **weights),
        *shown("drift", 0.001, 1.0, **weights),
    )
    (finding,) = findings(rows)
    assert finding.lines[0].verdict == "drift up"
    assert "70/100" in finding.lines[0].evidence


def test_changes_of_a_study_are_corrected_for_their_number():
    """Of 20 series one has p = 0.01, which is 0.2 after the correction. Ten of them are all significant."""
    few = [row for at in range(20) for row in shown("flat", 0.005 if at < 1 else 0.5, 0.9, variant=f"v{at}")]
    assert "1 show one at 5\u00a0%, and 0 after" in discoveries(table(*few))[0]
    assert discoveries(table(*few))[1].endswith("series: v0.")
    more = [row for at in range(20) for row in shown("flat", 0.005 if at < 10 else 0.5, 0.9, variant=f"v{at}")]
    assert "10 show one at 5\u00a0%, and 10 after" in discoveries(table(*more))[0]
    assert discoveries(table(*shown("flat", 0.001, 0.9))) == ("", "")


def summary(*rows: dict[str, Any], hypotheses: tuple[str, ...] = ()) -> Summary:
    measures = table(*rows)
    registration = Registration("changed: none", False, [["a hypothesis", result, "0.1", "0"] for result in hypotheses])
    return summarize(findings(measures), measures, "corrected", "invalid", registration)


def series(label: str, rise: float | None, fall: float | None, **where: Any) -> list[dict[str, Any]]:
    """Return a series that rises by 10 points (5 to 15), with a detectable change of 8 points."""
    place = (
        CELL | {"channel": "context", "generation": 0, "variant": "v", "split": "test", "round": None, "n": 9} | where
    )
    change = {"measure": "change", "value": 0.1, "low": 0.05, "high": 0.15, "method": ""}
    detectable = {"measure": "detectable_change", "value": 0.08, "method": ""}
    ends = [rate(20, 100, **where), rate(30, 100, **where | {"round": 6})]
    return [*ends, *shown(label, rise, fall, **where), place | change, place | detectable]


ROSES, FALLS, FLATS = ("drift", 0.001, 1.0), ("drift", 1.0, 0.001), ("flat", 0.5, 0.5)
OPENS, TURNS, RECOVERS = ("undecided", 0.4, 0.4), ("change", 0.001, 0.001), ("recovery", 0.001, 0.001)


@pytest.mark.parametrize(
    ("verdicts", "answer", "text"),
    [
        ([ROSES], "No", "Of 1 series, the violation rate rises in 1."),
        ([ROSES, FLATS], "Not in every series", "rises in 1 and stays flat in 1."),
        ([RECOVERS, FALLS], "Not in every series", "rises and falls back in 1 and falls in 1."),
        ([TURNS], "Not in every series", "changes in both directions in 1."),
        ([FALLS, FLATS], "Yes, in every series", "falls in 1 and stays flat in 1."),
        ([FLATS, OPENS], "Not shown", "stays flat in 1 and is not shown to change or to stay flat in 1."),
        ([ROSES, OPENS], "Not in every series", "rises in 1 and is not shown to change or to stay flat in 1."),
    ],
)
def test_the_answer_of_a_study(verdicts, answer, text):
    rows = [row for at, verdict in enumerate(verdicts) for row in series(*verdict, variant=f"v{at}")]
    shown_summary = summary(*rows)
    assert shown_summary.answer == answer and text in shown_summary.text
    assert shown_summary.text.count("10.0 (5.0 to 15.0)") == min(len(verdicts), 2)
    open_series = [sentence for sentence in shown_summary.not_shown if "changes of up to 8.0 points" in sentence]
    assert len(open_series) == (OPENS in verdicts)


def test_the_answer_is_about_aligned_agents_in_the_baseline():
    """A reference policy, the agent before alignment and a control do not answer the question."""
    others = [{"model": "scripted:honest"}, {}, {"alignment": "dpo", "condition": "blind"}]
    rows = [row for other in others for row in series(*ROSES, **other)]
    shown_summary = summary(*rows, *series(*FLATS, alignment="dpo"))
    assert shown_summary.answer == "Yes, in every series" and [row.verdict for row in shown_summary.rows] == ["flat"]
    assert shown_summary.text.startswith("Of 1 series of aligned agents in the baseline condition, the")


def test_the_summary_has_series_of_all_testbeds():
    games = [("bargaining", 20), ("coordination", 2)]
    rows = [row for game, n in games for at in range(n) for row in series(*FLATS, testbed=game, variant=f"v{at:02}")]
    shown_summary = summary(*rows, hypotheses=("shown", "not tested: one training"))
    names = [row.name for row in shown_summary.rows]
    assert len(names) == MAX_ROWS and shown_summary.total == 22
    assert names[-2:] == ["coordination, v00", "coordination, v01"]
    assert "Hypotheses fixed beforehand: 1 shown, 1 not tested." in shown_summary.not_shown


def test_a_study_without_a_second_point_measures_no_change():
    shown_summary = summary(rate(20, 100))
    assert (shown_summary.answer, shown_summary.rows) == ("Not measured", [])
    assert shown_summary.not_shown == ["corrected", "invalid", "changed: none"]
