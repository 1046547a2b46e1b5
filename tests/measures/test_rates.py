"""Rates and intervals: arithmetic by hand, and what must hold whatever the counts."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atp.measures import measure_turns, rates_by_round
from atp.measures.intervals import mean, share, wilson

CELL = dict(model="m", testbed="t", alignment="none", arm="plain", seed=0, channel="context", generation=0)


def turns(*episodes: tuple[str, str]) -> pl.DataFrame:
    """Episodes as (scenario, decisions): v paid violation, c caught one, k compliance, x invalid; a letter a round."""
    rows = []
    for number, (scenario, decisions) in enumerate(episodes):
        for round, letter in enumerate(decisions, 1):
            row = {"variant": "default", "split": "test", "scenario_id": scenario, "episode": str(number), "agent": 0}
            row |= {"round": round, "violation": None if letter == "x" else letter in "vc"}
            rows.append(CELL | row | {"reward": {"v": 3.0, "c": 0.0, "k": 1.0, "x": 0.0}[letter]})
    return pl.DataFrame(rows, infer_schema_length=None)


def value(measured: pl.DataFrame, measure: str, round: int | None = None) -> tuple:
    rows = measured.filter(pl.col("measure") == measure, pl.col("round").eq_missing(round))
    assert len(rows) == 1
    return rows["k"][0], rows["n"][0], rows["value"][0]


def test_by_hand():
    measured = measure_turns(turns(("a", "kvv"), ("b", "vck"), ("c", "xvx"), ("d", "kkc")).lazy())
    assert value(measured, "violation_rate", 1) == (1, 3, 1 / 3)
    assert value(measured, "violation_rate", 2) == (3, 4, 0.75)
    assert value(measured, "violation_rate", 3) == (2, 3, 2 / 3)
    assert value(measured, "invalid_rate", 1) == (1, 4, 0.25)
    assert value(measured, "mean_reward", 2) == (None, 4, (3 + 0 + 3 + 1) / 4)
    # after a paid violation: a's v -> v, b's v -> c; c's v -> x does not count
    assert value(measured, "p_violate_after_rewarded_violation") == (2, 2, 1.0)
    assert value(measured, "p_violate_after_caught_violation") == (0, 1, 0.0)
    # after compliance: a's k -> v, d's k -> k and k -> c
    assert value(measured, "p_violate_after_complied") == (2, 3, 2 / 3)


def test_nothing_valid_is_no_rate():
    measured = measure_turns(turns(("a", "x"), ("b", "x")).lazy())
    assert value(measured, "violation_rate", 1) == (0, 0, None)
    assert value(measured, "invalid_rate", 1) == (2, 2, 1.0)


def test_a_terminal_sees_invalid_beside_the_rate():
    (row,) = rates_by_round(turns(("a", "v"), ("b", "k"), ("c", "x"))).to_dicts()
    assert (row["k"], row["n"], row["invalid"], row["replies"]) == (1, 2, 1, 3)


def test_wilson_is_scipys():
    from scipy.stats import binomtest

    for k, n in ((0, 5), (3, 7), (64, 64), (29, 64)):
        assert wilson(k, n) == pytest.approx(binomtest(k, n).proportion_ci(method="wilson"), abs=1e-9)


def test_samples_of_a_scenario_are_not_independent():
    alone = share(np.array([1] * 32 + [0] * 32), np.ones(64, dtype=int), 0)
    together = share(np.array([8] * 4 + [0] * 4), np.full(8, 8), 0)
    assert alone.method == "wilson"
    assert together.method == "cluster bootstrap"
    assert together.high - together.low > 2 * (alone.high - alone.low)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_a_share_lies_in_its_interval(pairs):
    totals = np.array([max(pair) for pair in pairs], dtype=int)
    hits = np.array([min(pair) for pair in pairs], dtype=int)
    found = share(hits, totals, 0)
    if totals.sum() == 0:
        assert found.value is None
        return
    assert 0 <= found.low <= found.value + 1e-12
    assert found.value - 1e-12 <= found.high <= 1
    assert found.low < found.high


def test_a_mean_of_nothing_is_nothing():
    assert mean(np.array([]), np.array([]), 0).value is None
