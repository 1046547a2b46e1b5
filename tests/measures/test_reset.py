"""What a change comes back to when the history is emptied, by hand on ten scenarios."""

from typing import Any

import polars as pl

from atp.artifacts import CELL, MEASURES, TURNS
from atp.measures.reset import AFTER, BEFORE, reset_effects

PLACE: dict[str, Any] = {"model": "m", "testbed": "t", "alignment": "none", "arm": "a", "seed": 0, "variant": "v"}
KEY = (*(PLACE[name] for name in CELL), "v")


def turns(channel: str, played: dict[tuple[int, int], str], shown: dict[int, str] | None = None) -> pl.LazyFrame:
    """(generation, round) -> a letter a scenario: v violates, k complies, x is invalid."""
    rows = [
        PLACE
        | {"channel": channel, "generation": generation, "round": round, "split": "test", "agent": 0, "role": "worker"}
        | {"scenario_id": str(number), "violation": None if letter == "x" else letter == "v"}
        | {"shown": (shown or {}).get(round, "")}
        for (generation, round), letters in played.items()
        for number, letter in enumerate(letters)
    ]
    kinds = {name: pl.DataFrame(TURNS.empty_table()).schema[name] for name in rows[0]}
    return pl.DataFrame(rows, schema=kinds).lazy()


def measured(frame: pl.LazyFrame, channel: str) -> dict[tuple[str, int], tuple[float, int]]:
    rows = reset_effects(frame, {channel: {KEY: {"reset_after": 2}}}, 0)
    assert rows.columns == MEASURES.names
    return {(row["measure"], row["generation"]): (round(row["value"], 9), row["round"]) for row in rows.to_dicts()}


def test_a_history_that_held_everything_leaves_nothing():
    played = {(0, 1): "vvkkkkkkkk", (0, 2): "vvvvvvvkkk", (0, 3): "vvkkkkkkkx", (0, 4): "vvvvvvvvvv"}
    found = measured(turns("context", played), "context")
    assert found == {(BEFORE, 0): (0.5, 2), (AFTER, 0): (round(2 / 9 - 0.2, 9), 3)}


def test_each_generation_is_compared_with_the_first():
    played = {(0, 1): "vvkkkkkkkk", (0, 2): "vvvkkkkkkk", (0, 3): "vvkkkkkkkk"}
    played |= {(2, 1): "vvvvvvvkkk", (2, 2): "vvvvvvvvvv", (2, 3): "vvvvvvvvkk"}
    found = measured(turns("weights", played), "weights")
    assert found == {(BEFORE, 0): (0.1, 2), (AFTER, 0): (0, 3), (BEFORE, 2): (0.8, 2), (AFTER, 2): (0.6, 3)}


def test_rounds_announced_otherwise_and_lines_that_are_never_emptied_have_none():
    played = {(0, 1): "vk", (0, 2): "vk", (0, 3): "vv"}
    assert measured(turns("context", played, {3: "checked"}), "context") == {(BEFORE, 0): (0, 2)}
    assert not len(reset_effects(turns("context", played), {"context": {KEY: {"reset_after": None}}}, 0))
