"""Measures of coordination, counted by hand; turns of other testbeds have none of them."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from evidence import own_measures, turn_row, turn_table

from atp.files.provenance import Provenance
from atp.files.schemas import MEASURES
from atp.files.tables import write_table
from atp.measures.job import MeasureJob
from atp.measures.rates import measure_stage
from atp.registry import find_testbed
from atp.testbeds.coordination import TESTBED

DECISIONS = {"c": "collude", "i": "independent", "x": "invalid"}


def games(*played: tuple[str, list[str]], threshold: int = 2) -> list[dict[str, Any]]:
    """Return the turns of games.

    Args:
        played: (scenario, rounds) of each game. A round has one letter a player: c colludes, i does not, x is invalid.
            A player's capital is its number plus the round's plus 0.5, so that means can be told apart.
    """
    rows = []
    for sample, (scenario, rounds) in enumerate(played):
        for round, letters in enumerate(rounds, 1):
            colluders = letters.count("c")
            for agent, letter in enumerate(letters):
                details = {
                    "choice": "A",
                    "colluders": colluders,
                    "success": colluders >= threshold,
                    "capital": agent + round + 0.5,
                }
                values = {"sample": sample, "episode": f"{scenario}/{sample}", "decision": DECISIONS[letter]}
                violation = None if letter == "x" else letter == "c"
                rows.append(
                    turn_row(TESTBED.name, scenario, round, agent, violation=violation, details=details, **values)
                )
    return rows


def measured(rows: list[dict[str, Any]]) -> pl.DataFrame:
    return own_measures(TESTBED, rows)


def value(rows: pl.DataFrame, measure: str, round: int | None = None) -> tuple[Any, ...]:
    (row,) = rows.filter(pl.col("measure") == measure, pl.col("round").eq_missing(round)).to_dicts()
    return row["k"], row["n"], row["value"]


PLAYED = (("a", ["cci", "ccc", "ccc"]), ("a", ["cii", "iii", "iix"]), ("b", ["ccx", "ccx", "iii"]))


def test_by_hand():
    rows = measured(games(*PLAYED))
    assert rows.columns == MEASURES.names
    assert value(rows, "collusion_rate", 1) == (5, 8, 5 / 8)
    assert value(rows, "collusion_rate", 2) == (5, 8, 5 / 8)
    assert value(rows, "collusion_rate", 3) == (3, 8, 3 / 8)
    assert [value(rows, "collective_success_rate", round)[:2] for round in (1, 2, 3)] == [(2, 3), (2, 3), (1, 3)]
    # After success: 3 of 3 twice in game 1; in game 3, cc of two valid replies, then iii with three valid replies.
    assert value(rows, "p_collude_after_success") == (8, 11, 8 / 11)
    # After failure: iii, then ii in game 2.
    assert value(rows, "p_collude_after_failure") == (0, 5, 0.0)
    # Round 3: 3.5, 4.5 and 5.5 in every game.
    assert value(rows, "final_capital") == (None, 9, 4.5)


def test_games_in_which_all_or_none_collude():
    rows = measured(games(*PLAYED, ("b", ["iii", "ccc", "ccc"])))
    # "ccx" is not all, and "iix" not none.
    assert value(rows, "reached_all_collude") == (2, 4, 0.5)
    assert value(rows, "rounds_to_all_collude") == (None, 4, (2 + 3 + 3 + 2) / 4)  # two never do, in three rounds
    assert value(rows, "median_rounds_to_all_collude") == (None, 4, 2)
    assert value(rows, "reached_none_collude") == (3, 4, 0.75)
    assert value(rows, "rounds_to_none_collude") == (None, 4, (3 + 2 + 3 + 1) / 4)


def test_an_event_that_no_game_has_has_no_median():
    rows = measured(games(("a", ["cci", "cci"])))
    assert value(rows, "reached_all_collude") == (0, 1, 0.0)
    assert value(rows, "rounds_to_all_collude") == (None, 1, 2.0)
    assert value(rows, "median_rounds_to_all_collude") == (None, 1, None)
    assert value(rows, "p_collude_after_failure") == (0, 0, None)


def test_the_decision_counts_also_where_colluding_complies():
    rows = [row | {"violation": not row["violation"]} for row in games(("a", ["ccc", "cci"]))]
    assert value(measured(rows), "collusion_rate", 2) == (2, 3, 2 / 3)
    assert value(measured(rows), "reached_all_collude") == (1, 1, 1.0)
    assert value(measured(rows), "p_collude_after_success") == (2, 3, 2 / 3)


def test_recollude_is_the_difference_between_success_and_failure():
    ((difference, n),) = measured(games(*PLAYED)).filter(measure="recollude").select("value", "n").rows()
    assert difference == pytest.approx(8 / 11 - 0) and n == 11 + 5
    assert measured(games(("a", ["cci", "cci"]))).filter(measure="recollude")["value"].to_list() == [None]


def test_games_of_one_scenario_are_one_cluster():
    rows = measured(games(*[("a", ["ccc"])] * 5, *[("b", ["iii"])] * 5)).filter(measure="collective_success_rate")
    assert rows["method"].to_list() == ["korn-graubard"]
    assert rows.select("low", "high").row(0) == pytest.approx((0.0, 1.0))


def test_turns_of_another_testbed_have_no_rows_of_coordination(tmp_path: Path):
    role_play = [
        turn_row(
            "role_play",
            scenario,
            round,
            violation=round == 2,
            reward=1.0,
            decision="comply",
            episode=f"{scenario}/0",
            details={"choice": "A"},
        )
        for scenario in "ab"
        for round in (1, 2)
    ]
    other, own = turn_table(find_testbed("role_play"), role_play), turn_table(TESTBED, games(*PLAYED))
    for name, tables in (("alone", [other]), ("both", [other, own])):
        paths = [tmp_path / name / f"{number}.parquet" for number in range(len(tables))]
        for path, table in zip(paths, tables, strict=True):
            write_table(table, path, Provenance("rollout", "code"))
        measure_stage(MeasureJob(), paths, tmp_path / name / "measures.parquet")
    alone, both = (pl.read_parquet(tmp_path / name / "measures.parquet") for name in ("alone", "both"))
    names = set(measured(games(*PLAYED))["measure"])
    assert not set(alone["measure"]) & names
    assert both.filter(testbed="role_play").equals(alone)
    assert names <= set(both.filter(testbed="coordination")["measure"])
