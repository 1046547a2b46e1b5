"""Change that is left after the history is emptied, computed by hand on ten scenarios."""

from typing import Any

import polars as pl

from atp.files.schemas import CELL, MEASURES, TURNS
from atp.measures.measure import Evidence
from atp.measures.reset import AFTER, BEFORE, reset_effects

PLACE: dict[str, Any] = {"model": "m", "testbed": "t", "alignment": "none", "condition": "a", "seed": 0, "variant": "v"}
KEY = (*(PLACE[name] for name in CELL), "v")


def turns(channel: str, played: dict[tuple[int, int], str], shown: dict[int, str] | None = None) -> pl.LazyFrame:
    """Return turns.

    Args:
        played: (generation, round) -> one letter per scenario: v violates, k complies, x is invalid.
        shown: round -> its sentence about supervision.
    """
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
    rows = reset_effects(Evidence(frame, {channel: {KEY: {"reset_after": 2}}}, {}))
    assert rows.columns == MEASURES.names
    return {(row["measure"], row["generation"]): (round(row["value"], 9), row["round"]) for row in rows.to_dicts()}


def test_an_agent_with_all_experience_in_its_history_returns_to_its_first_rate():
    played = {(0, 1): "vvkkkkkkkk", (0, 2): "vvvvvvvkkk", (0, 3): "vvkkkkkkkx", (0, 4): "vvvvvvvvvv"}
    changes = measured(turns("context", played), "context")
    assert changes == {(BEFORE, 0): (0.5, 2), (AFTER, 0): (round(2 / 9 - 0.2, 9), 3)}


def test_each_generation_is_compared_with_the_first():
    played = {(0, 1): "vvkkkkkkkk", (0, 2): "vvvkkkkkkk", (0, 3): "vvkkkkkkkk"}
    played |= {(2, 1): "vvvvvvvkkk", (2, 2): "vvvvvvvvvv", (2, 3): "vvvvvvvvkk"}
    changes = measured(turns("weights", played), "weights")
    assert changes == {(BEFORE, 0): (0.1, 2), (AFTER, 0): (0, 3), (BEFORE, 2): (0.8, 2), (AFTER, 2): (0.6, 3)}


def test_no_rows_for_rounds_with_another_announcement_or_without_a_reset():
    played = {(0, 1): "vk", (0, 2): "vk", (0, 3): "vv"}
    assert measured(turns("context", played, {3: "checked"}), "context") == {(BEFORE, 0): (0, 2)}
    assert not len(reset_effects(Evidence(turns("context", played), {"context": {KEY: {"reset_after": None}}}, {})))
