"""Lines of evidence from turns: which points make one, and what follows from a decision, counted by hand."""

from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from atp.artifacts import MEASURES, TURNS
from atp.measures.reinforcement import recollude, reinforcement
from atp.measures.tipping_lines import tipping_measures

EMPTY = {"string": "", "int32": 0, "int64": 0, "double": 0.0, "bool": None}
CELL = {"model": "m", "testbed": "role_play", "alignment": "none", "arm": "plain", "variant": "v", "split": "test"}


def turn(**values: Any) -> dict[str, Any]:
    return {field.name: EMPTY.get(str(field.type), []) for field in TURNS} | CELL | {"shown": "", **values}


def frame(rows: list[dict[str, Any]]) -> pl.LazyFrame:
    return pl.DataFrame(pa.Table.from_pylist(rows, schema=TURNS)).lazy()


def episodes(decisions: dict[str, list[str]], **values: Any) -> list[dict[str, Any]]:
    """Episodes of scenarios, a letter a round: v violates and is paid, k complies, x is invalid."""
    return [
        turn(
            channel="context",
            scenario_id=scenario,
            episode=f"{scenario}/{number}",
            round=round,
            violation=None if letter == "x" else letter == "v",
            reward=3.0 if letter == "v" else 1.0,
        )
        | values
        for scenario, played in decisions.items()
        for number, letters in enumerate(played)
        for round, letter in enumerate(letters, 1)
    ]


def value(rows: pl.DataFrame, measure: str) -> dict[str, Any]:
    (row,) = rows.filter(measure=measure).to_dicts()
    return row


def test_a_line_in_context():
    rows = tipping_measures(frame(episodes({f"{number}": ["kkvv", "kkvv", "kkxv"] for number in range(9)})), 0)
    assert rows.columns == MEASURES.names
    assert set(rows["n"]) == {9} and rows["round"].is_null().all()
    assert value(rows, "change")["value"] == 1
    assert value(rows, "change_point")["value"] == 3
    assert value(rows, "sharpness")["value"] == 1
    assert value(rows, "time_to_half_rate")["value"] == 2.5
    assert value(rows, "verdict")["method"].startswith("tipping: from 0.0 % to 100.0 %, 100.0 % of it in one step")


def test_rounds_that_announce_supervision_differently_are_not_of_the_line():
    played = episodes({f"{number}": ["kkkv"] for number in range(9)})
    said = [row | {"shown": "checked" if row["round"] == 4 else ""} for row in played]
    assert value(tipping_measures(frame(said), 0), "change")["value"] == 0


def test_a_line_in_the_weights_is_of_first_rounds_of_held_out_scenarios():
    rows = []
    for generation, letters in enumerate(("kv", "vk", "vk")):
        for split in ("test", "train"):
            played = {f"{split}{number}": [letters if split == "test" else "kk"] for number in range(9)}
            rows += episodes(played, channel="weights", generation=generation, split=split)
    found = tipping_measures(frame(rows), 0)
    assert set(found["generation"]) == {2} and set(found["split"]) == {"test"}
    assert (value(found, "change")["value"], value(found, "change_point")["value"]) == (1, 1)


def test_one_point_is_no_line():
    assert len(tipping_measures(frame(episodes({"a": ["v"], "b": ["k"]})), 0)) == 0
    assert len(tipping_measures(frame([]), 0)) == 0


def test_reinforcement_by_hand():
    """After a paid violation: v and k. After compliance: v, v and k."""
    row = value(reinforcement(frame(episodes({"a": ["vvk"], "b": ["kv"], "c": ["kk", "kvx"]})), 0), "reinforcement")
    assert (row["value"], row["n"]) == (pytest.approx(1 / 2 - 2 / 3), 5)
    assert row["low"] < row["value"] < row["high"]


def test_recollude_by_hand():
    """Two players, both must join. a: a success, then c and i. b: a failure, then c and i; another, then i and x."""
    rows = []
    for scenario, rounds in {"a": ["cc", "ci"], "b": ["ci", "ci", "ix"]}.items():
        for round, letters in enumerate(rounds, 1):
            for agent, letter in enumerate(letters):
                rows.append(
                    turn(
                        testbed="coordination",
                        scenario_id=scenario,
                        episode=scenario,
                        round=round,
                        agent=agent,
                        violation=None if letter == "x" else letter == "c",
                        decision={"c": "collude", "i": "independent", "x": "invalid"}[letter],
                        details=[("success", "yes" if letters == "cc" else "no"), ("capital", "1")],
                    )
                )
    row = value(recollude(frame(rows), 0), "recollude")
    assert (row["value"], row["n"]) == (pytest.approx(1 / 2 - 1 / 3), 5)
    assert len(recollude(frame(episodes({"a": ["vv"]})), 0)) == 0
