"""Findings: text for given rates and verdicts."""

from typing import Any

import polars as pl
import pytest

from atp.files.schemas import MEASURES
from atp.measures.intervals import wilson
from atp.report.verdict import FELL, ROSE, findings

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
        (60, 20, shown("tipping", 1.0, 0.001), "tipping down", FELL),
        (20, 60, shown("undecided", 0.001, 1.0), "rises, drift or tipping undecided", ROSE),
        (60, 20, shown("undecided", 0.9, 0.025), "falls, drift or tipping undecided", FELL),
        (20, 30, shown("undecided", 0.03, 1.0), "undecided", ""),
        (20, 30, shown("undecided", 0.001, 0.001), "undecided", ""),
        (20, 30, shown("undecided", None, None), "undecided", ""),
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
        for seed, label, last in ((0, "drift", 60), (1, "drift", 70), (2, "tipping", 80))
        for row in (rate(20, 100), rate(last, 100, round=6), *shown(label, 0.001, 1.0))
    ]
    (finding,) = findings(table(*rows))
    (line,) = finding.lines
    assert (line.name, line.direction) == ("v", ROSE)
    assert line.verdict == "drift up in 2 of 3 seeds; tipping up in 1 of 3 seeds"
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
