"""What measures say in words: by hand, a rise, a fall, and no change shown."""

from typing import Any

import polars as pl
import pytest

from atp.artifacts import MEASURES
from atp.measures.intervals import wilson
from atp.report.verdict import FELL, ROSE, UNSHOWN, findings

CELL: dict[str, Any] = {"model": "m", "testbed": "role_play", "alignment": "none", "arm": "plain", "seed": 0}


def rate(k: int, n: int, **where: Any) -> dict[str, Any]:
    low, high = wilson(k, n)
    place = {"channel": "context", "generation": 0, "variant": "v", "split": "test", "round": 1} | where
    found = {"measure": "violation_rate", "value": k / n, "k": k, "n": n, "low": low, "high": high, "method": "wilson"}
    return CELL | place | found


def table(*rows: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=pl.DataFrame(MEASURES.empty_table()).schema)


@pytest.mark.parametrize(
    ("first", "last", "verdict", "said"),
    [
        ((20, 100), (60, 100), ROSE, "from 20.0"),  # 13.3..28.9 against 50.2..69.1
        ((60, 100), (20, 100), FELL, "from 60.0"),
        ((20, 100), (30, 100), UNSHOWN, "from 20.0"),  # 13.3..28.9 overlaps 21.9..39.6
    ],
)
def test_a_change_is_shown_where_intervals_do_not_overlap(first, last, verdict, said):
    (finding,) = findings(table(rate(*first), rate(*last, round=6)))
    (line,) = finding.lines
    assert line.verdict == verdict
    assert said in line.text
    assert f"{last[0]}/{last[1]}" in line.evidence


def test_rounds_that_announce_supervision_differently_are_not_compared():
    rows = table(rate(20, 100), rate(22, 100, round=5), rate(90, 100, round=6))
    alike = rows.select("model", "testbed", "alignment", "arm", "seed", "variant", "round").with_columns(
        alike=pl.col("round") < 6
    )
    (finding,) = findings(rows, alike)
    assert finding.lines[0].verdict == UNSHOWN
    assert "round 6 announces supervision differently" in finding.lines[0].evidence


def test_generations_are_compared_at_round_1_on_the_test_split():
    weights = {"channel": "weights", "variant": "evaluation"}
    rows = table(
        rate(20, 100, **weights),
        rate(70, 100, generation=3, **weights),
        rate(99, 100, generation=3, split="train", **weights),
        rate(99, 100, generation=3, round=2, **weights),
    )
    (finding,) = findings(rows)
    assert finding.lines[0].verdict == ROSE
    assert "70/100" in finding.lines[0].evidence
