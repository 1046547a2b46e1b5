"""The table of how lines change, of lines whose numbers are known."""

from typing import Any

import numpy as np
import polars as pl

from atp.artifacts import MEASURES
from atp.measures.shapes import count
from atp.measures.tipping_lines import line_measures
from atp.report.change import CHANGES, changes, follows

LINE: dict[str, Any] = {"model": "m", "testbed": "role_play", "alignment": "none", "seed": 0, "channel": "context"}


def rows(arm: str, hits: list[int]) -> list[dict[str, Any]]:
    """Measures of a line of 12 scenarios with four replies a round each."""
    counts = count(np.array([hits] * 12), np.full((12, len(hits)), 4), np.arange(len(hits)) + 1)
    place = LINE | {"arm": arm, "generation": 0, "variant": "v", "split": "test", "round": None, "k": None, "n": 12}
    return [place | {"measure": name} | vars(found) for name, found in line_measures(counts, 0).items()]


def table(*several: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame([row for each in several for row in each], schema=pl.DataFrame(MEASURES.empty_table()).schema)


def test_a_jump_and_a_level_line():
    (group,) = changes(table(rows("jumps", [0, 0, 4, 4]), rows("level", [1, 1, 1, 1])))
    assert group.name == "role play, in context"
    jumps, level = (dict(zip(CHANGES, row, strict=True)) for row in group.rows)
    assert (jumps["line"][0], jumps["verdict"][0], jumps["change, points"][0]) == ("v, jumps", "tipping", "100.0")
    assert (jumps["break at"][0], jumps["share in one step"][0], jumps["half-way at"][0]) == (
        "3",
        "100.0\u00a0%",
        "2.5",
    )
    assert jumps["break at"][1].endswith("p < 0.001") and jumps["odds ratio a step"] == ("–", "")
    assert (level["change, points"][0], level["break at"]) == ("0.0", ("–", "p = 1.000"))


def test_columns_without_anything_are_left_out():
    place = LINE | {"arm": "a", "generation": 0, "variant": "v", "split": "test", "round": None, "k": None, "n": 12}
    one = place | {"measure": "reinforcement", "value": 0.25, "low": 0.1, "high": 0.4, "method": "cluster bootstrap"}
    columns, (group,) = follows(table([one]))
    assert columns == ["line", "reinforcement, points"]
    assert group.rows == [[("v", ""), ("25.0", "10.0 to 40.0")]]
    assert follows(table()) == ([], [])
