"""Bimodality of games: by hand, and on simulated populations with a known answer."""

from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import betabinom

from atp.files.schemas import MEASURES, TURNS
from atp.measures.measure import Evidence
from atp.measures.populations import bimodality, population_measures

EMPTY = {"string": "", "int32": 0, "int64": 0, "double": 0.0, "bool": None}


def of(violators: list[int], players: int = 8) -> Any:
    games = np.array(violators)
    return bimodality(games, np.full_like(games, players), np.arange(len(games)))


def test_the_largest_likelihood_is_that_of_scipy():
    violators = [0, 1, 1, 2, 5, 7, 8, 8, 3]

    def loss(parameters: np.ndarray) -> float:
        return -betabinom.logpmf(violators, 8, *np.exp(parameters)).sum()

    a, b = np.exp(minimize(loss, [0.0, 0.0]).x)
    rate, correlation = a / (a + b), 1 / (a + b + 1)
    assert of(violators).value == pytest.approx(correlation * (1 + max(rate, 1 - rate)) / max(rate, 1 - rate), abs=0.03)


def test_games_of_one_scenario_that_agree_count_once():
    violators = np.repeat([0, 1, 4, 8, 7, 8, 0], 3)
    once = of([0, 1, 4, 8, 7, 8, 0])
    thrice = bimodality(violators, np.full(21, 8), np.arange(21) // 3)
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high), abs=0.05)


def test_all_or_none_is_two_peaks_and_alike_is_none():
    assert of([0] * 7 + [8] * 7).value == pytest.approx(3)
    assert of([8] * 12 + [0] * 2).low > 1
    assert of([4] * 14).high < 0.5
    assert of([0] * 10 + [1] * 4).high < 0.5  # which Hartigan's dip (p = 0.008) and Sarle's coefficient (0.76) call two


def test_no_value_without_spread():
    assert of([]).value is None
    assert of([3]).value is None
    assert of([8] * 5).value is None
    assert of([1, 0, 1], 1).value is None


def test_known_populations():
    rng = np.random.default_rng(0)
    apart, together = [], []
    for _ in range(100):
        apart.append(of(rng.binomial(8, 0.4, size=28)).low > 1)
        together.append(of(rng.binomial(8, rng.beta(0.2, 0.2, size=28))).low > 1)
    assert sum(apart) == 0
    assert sum(together) >= 90


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 3)), max_size=9))
def test_any_counts(games):
    violators, players, scenarios = np.array([(min(k, n), n, at) for k, n, at in games], dtype=int).reshape(-1, 3).T
    interval = bimodality(violators, players, scenarios)
    if interval.low is not None:
        assert interval.low <= interval.value <= interval.high
        assert np.isfinite([interval.low, interval.high]).all()


def test_rows_are_of_rounds_of_populations():
    rows = []
    for testbed, game, round, agent, violation in [
        ("coordination", game, round, agent, None if (game, agent) == (2, 0) else round == 2 and game == 1)
        for game in range(3)
        for round in (1, 2)
        for agent in range(3)
    ]:
        blank = {field.name: EMPTY.get(str(field.type), []) for field in TURNS}
        place = {"scenario_id": str(game), "episode": str(game), "round": round, "agent": agent}
        rows.append(blank | place | {"testbed": testbed, "violation": violation, "shown": ""})
    turns = pl.DataFrame(pa.Table.from_pylist(rows, schema=TURNS)).lazy()
    measured = population_measures(Evidence(turns, {}, {"coordination": turns}))
    assert measured.columns == MEASURES.names
    assert measured.select("round", "n", "method").rows()[0] == (1, 3, "none: no spread")
    assert measured["value"][1] > 1
    alone = turns.with_columns(testbed=pl.lit("role_play"))
    assert len(population_measures(Evidence(alone, {}, {"role_play": alone}))) == 0
