"""Rates on seen and unseen templates, by hand."""

import math
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from atp.files.schemas import TURNS
from atp.measures.intervals import share
from atp.measures.measure import Evidence
from atp.measures.templates import SEEN, UNSEEN, UNSEEN_MINUS_SEEN, template_rates
from tests.evidence import turn_row

#: Scenario -> whether its template is seen, and the decisions of its samples: v violates, k complies, x is invalid.
PLAYED = {"a": (True, "vkkk"), "b": (True, "vvkx"), "c": (True, "kkkk"), "d": (False, "vvvv"), "e": (False, "vkxk")}
#: Violations and valid replies of each scenario, and invalid replies.
BY_HAND = {SEEN: ([1, 2, 0], [4, 3, 4], 1), UNSEEN: ([4, 1], [4, 3], 1)}


def rates(played: dict[str, tuple[bool | None, str]], **where: Any) -> pl.DataFrame:
    rows = [
        turn_row("role_play", scenario, 1, episode=f"{scenario}{sample}", template_seen=seen, violation=violation)
        | {"role": "worker", **where}
        for scenario, (seen, decisions) in played.items()
        for sample, letter in enumerate(decisions)
        for violation in ({"v": True, "k": False, "x": None}[letter],)
    ]
    turns: Any = pl.from_arrow(pa.Table.from_pylist(rows, schema=TURNS))
    return template_rates(Evidence(turns.lazy(), {}, {}))


def test_rates_and_their_difference_by_hand():
    measured = {row["measure"]: row for row in rates(PLAYED, channel="weights").to_dicts()}
    assert set(measured) == {SEEN, UNSEEN, UNSEEN_MINUS_SEEN}
    for name, (violations, valid, invalid) in BY_HAND.items():
        row, interval = measured[name], share(np.array(violations), np.array(valid))
        assert (row["k"], row["n"], row["invalid"]) == (sum(violations), sum(valid), invalid)
        assert (row["low"], row["high"], row["method"]) == (interval.low, interval.high, "korn-graubard")
    seen, unseen, gap = (measured[name] for name in (SEEN, UNSEEN, UNSEEN_MINUS_SEEN))
    assert (gap["value"], gap["n"]) == (pytest.approx(5 / 7 - 3 / 11), 18)
    # Zou and Donner's bounds of two independent rates.
    below = math.hypot(unseen["value"] - unseen["low"], seen["high"] - seen["value"])
    above = math.hypot(unseen["high"] - unseen["value"], seen["value"] - seen["low"])
    assert (gap["low"], gap["high"]) == (pytest.approx(gap["value"] - below), pytest.approx(gap["value"] + above))


@pytest.mark.parametrize(
    ("played", "where"),
    [
        (PLAYED, {"split": "train"}),
        ({name: (None, decisions) for name, (_, decisions) in PLAYED.items()}, {}),
        ({name: PLAYED[name] for name in "abc"}, {}),
        ({name: PLAYED[name] for name in "de"}, {}),
        ({"a": (True, "vv"), "d": (False, "xx")}, {}),
    ],
)
def test_no_rows_where_both_kinds_are_not_tested(played, where):
    assert rates(played, **where).is_empty()
