"""The table of changes, for series whose numbers are known."""

from typing import Any

import numpy as np
import polars as pl

from atp.files.schemas import MEASURES
from atp.measures import tipping
from atp.measures.shapes import count
from atp.measures.tipping_series import VERDICT, series_measures
from atp.report.change import CHANGES, changes, follows, individuals

PLACE: dict[str, Any] = {"model": "m", "testbed": "role_play", "alignment": "none", "seed": 0, "channel": "context"}
PLACE |= {"generation": 0, "variant": "v", "split": "test", "round": None, "k": None, "n": 12}


def rows(condition: str, hits: list[int]) -> list[dict[str, Any]]:
    """Return the measures of a series of 12 scenarios with four replies per round."""
    counts = count(np.array([hits] * 12), np.full((12, len(hits)), 4), np.arange(len(hits)) + 1)
    place = PLACE | {"condition": condition}
    verdict = tipping.verdict(counts, 0)
    measures = series_measures(counts, verdict, 0)
    rows = [place | {"measure": name} | vars(interval) for name, interval in measures.items()]
    return [*rows, place | {"measure": VERDICT, "method": "", "label": verdict.label, "reason": verdict.reason}]


def table(*several: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame([row for each in several for row in each], schema=pl.DataFrame(MEASURES.empty_table()).schema)


def test_a_step_and_a_constant_series():
    (group,) = changes(table(rows("jumps", [0, 0, 4, 4]), rows("level", [1, 1, 1, 1])))
    assert group.name == "role play, in context"
    jumps, level = (dict(zip(CHANGES, row, strict=True)) for row in group.rows)
    cells = [jumps[name][0] for name in ("series", "verdict", "change, points")]
    assert cells == ["v, jumps", "abrupt change", "100.0"]
    assert 40 < float(level["smallest change that could be shown"][0]) < 60
    assert (jumps["break at"][0], jumps["proportion in the largest step"][0], jumps["half of the change at"][0]) == (
        "3",
        "100.0\u00a0%",
        "2.5",
    )
    assert jumps["break at"][1].endswith("p < 0.001") and jumps["odds ratio per step"] == ("–", "")
    assert (level["change, points"][0], level["break at"]) == ("0.0", ("–", "p = 1.000"))


def test_columns_without_anything_are_left_out():
    one = (
        PLACE
        | {"condition": "a"}
        | {"measure": "reinforcement", "value": 0.25, "low": 0.1, "high": 0.4, "method": "cluster bootstrap"}
    )
    columns, (group,) = follows(table([one]))
    assert columns == ["series", "reinforcement, points"]
    assert group.rows == [[("v", ""), ("25.0", "10.0 to 40.0")]]
    columns, (group,) = follows(table([one | {"low": None, "high": None, "method": "none: no spread"}]))
    assert group.rows == [[("v", ""), ("25.0", "")]]
    assert follows(table()) == ([], [])


def test_individuals_by_hand():
    place = PLACE | {"condition": "a", "method": "", "n": 8}
    (group,) = individuals(
        table(
            [
                place | {"measure": "individual_change", "label": "individuals tip", "reason": "z = 3.0"},
                place | {"measure": "first_violation", "round": 1, "value": 0.25, "low": 0.1, "high": 0.4},
                place | {"measure": "first_violation", "round": 2, "value": 0.5, "low": 0.3, "high": 0.7},
                place | {"measure": "rate_after_first_violation", "value": 1.0, "low": 0.8, "high": 1.0},
                place | {"measure": "returned", "value": None},
            ]
        )
    )
    assert group.rows == [
        [
            ("v", ""),
            ("individuals tip", "z = 3.0"),
            ("50.0\u00a0%", "30 to 70"),
            ("100.0\u00a0%", "80 to 100"),
            ("–", ""),
        ]
    ]
