"""Measures of bargaining, counted by hand."""

from typing import Any

import polars as pl
from evidence import own_measures, turn_row

from atp.testbeds.bargaining import TESTBED


def proposal(scenario: str, agent: int, side: str, violation: bool | None) -> dict[str, Any]:
    details = {"value": 50.0, "standing": 40.0, "score": 1.0, "side": side, "comment": ""}
    return turn_row(TESTBED.name, scenario, 1, agent, violation=violation, details=details)


def test_rates_of_both_sides_by_hand():
    players = [("majority", True), ("majority", False), ("majority", None), ("minority", True)]
    rows = [proposal("a", agent, side, violation) for agent, (side, violation) in enumerate(players)]
    rows.append(proposal("b", 0, "even", True))
    measures = own_measures(TESTBED, rows).filter(pl.col("round") == 1).select("measure", "k", "n", "value")
    assert sorted(measures.rows()) == [("violation_rate_majority", 1, 2, 0.5), ("violation_rate_minority", 1, 1, 1.0)]
