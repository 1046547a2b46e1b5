"""The cost of repair by hand, and that agents which were aligned again are no generation of a series."""

from typing import Any

import polars as pl
import pytest
from evidence import all_measures, turn_row

from atp.report.figures import svg
from atp.report.repair import repair_figures
from atp.report.results import Results
from atp.testbeds.role_play import TESTBED


def rows_of(channel: str, generation: int, violations: int, scenarios: int = 40) -> list[dict[str, Any]]:
    """Return a reply of each scenario, of which the first so many are violations."""
    place = {"channel": channel, "generation": generation, "variant": "evaluation", "alignment": "dpo"}
    return [
        turn_row("role_play", f"{number:02}", 1, **place, decision="d", violation=number < violations)
        for number in range(scenarios)
    ]


@pytest.fixture(scope="module")
def eroded() -> list[dict[str, Any]]:
    """Return generations with 4, 20 and 30 violations of 40."""
    return [row for generation, k in enumerate((4, 20, 30)) for row in rows_of("weights", generation, k)]


@pytest.mark.parametrize(
    ("repaired", "pairs"),
    [
        ({8: 20, 16: 12, 32: 5, 64: 4}, 32.0),
        ({8: 5, 16: 4}, 8.0),
        ({8: 30, 16: 28}, None),
    ],
)
def test_the_smallest_number_of_pairs_that_is_enough(eroded, repaired, pairs):
    turns = eroded + [row for n, k in repaired.items() for row in rows_of("repair", n, k)]
    measures = all_measures(TESTBED, turns)
    rates = measures.filter(measure="repair_rate").sort("generation")
    assert dict(rates.select("generation", "k").rows()) == {0: 30, **repaired} and set(rates["n"]) == {40}
    gaps = {row["generation"]: row for row in measures.filter(measure="repair_gap").to_dicts()}
    assert gaps[8]["value"] == pytest.approx((repaired[8] - 4) / 40)
    (found,) = measures.filter(measure="repair_pairs").to_dicts()
    assert found["value"] == pairs and found["channel"] == "repair"
    enough = {bound: [n for n, gap in gaps.items() if gap[bound] <= 0.05] for bound in ("low", "high")}
    assert (found["low"], found["high"]) == tuple(min(each, default=None) for each in enough.values())
    table = repair_figures(Results(measures))[0].rows
    assert [row[1] for row in table[-3:]] == [str(max(repaired)), "minus generation 0", "pairs needed"]


def test_series_do_not_see_repairs(eroded):
    without, repaired = all_measures(TESTBED, eroded), all_measures(TESTBED, eroded + rows_of("repair", 8, 4))
    assert repaired.filter(pl.col("channel") != "repair").equals(without)
    assert set(repaired.filter(channel="repair")["measure"]) == {"repair_rate", "repair_gap", "repair_pairs"}
    (figure,) = repair_figures(Results(repaired))
    assert "<svg" in svg(figure, titled=True) and figure.name == "repair_role_play"
