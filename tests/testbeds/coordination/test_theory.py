"""Logit best response as a Markov chain: matrices and tipping points by hand, and agreement with simulation."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atp.agents.scripted import scripted
from atp.files.provenance import Stage
from atp.rollout.engine import RolloutJob, rollout
from atp.rollout.table import Cell
from atp.testbeds.coordination.game import CoordinationSettings
from atp.testbeds.coordination.scenarios import CoordinationScenario
from atp.testbeds.coordination.theory import (
    Chain,
    chain_of,
    distribution,
    expected_share,
    success_before_none,
    tipping_threshold,
)


def game(agents: int, threshold: int, **further: Any) -> CoordinationSettings:
    return CoordinationSettings(agents=agents, threshold=threshold, high=1.2, normal=1.0, low=0.8, **further)


def logit(gap: float) -> float:
    return 1 / (1 + math.exp(-gap))


def test_two_players_by_hand():
    """Threshold 2: colluding pays 1.2 next to a colluder, else 0.8; not colluding 1.0; T = 0.1: log-odds 2 and -2."""
    chain = chain_of(game(2, 2), 0.1)
    p, q = logit(2), logit(-2)
    by_hand = [
        [(1 - q) ** 2, 2 * q * (1 - q), q**2],
        # one colludes: it sees none and stays with probability q, the other sees it and joins with probability p
        [(1 - q) * (1 - p), q * (1 - p) + (1 - q) * p, q * p],
        [(1 - p) ** 2, 2 * p * (1 - p), p**2],
    ]
    assert chain.transition == pytest.approx(np.array(by_hand), abs=1e-12)


def test_three_players_by_hand():
    """Threshold 2, high pays all: colluding gains -0.2 if no other colludes, +0.2 if one does, and 0 if two do."""
    chain = chain_of(game(3, 2), 0.1)
    p, q, half = logit(2), logit(-2), 0.5
    one = [
        (1 - q) * (1 - p) ** 2,
        q * (1 - p) ** 2 + (1 - q) * 2 * p * (1 - p),
        q * 2 * p * (1 - p) + (1 - q) * p**2,
        q * p**2,
    ]
    two = [
        (1 - p) ** 2 * half,
        2 * p * (1 - p) * half + (1 - p) ** 2 * half,
        p**2 * half + 2 * p * (1 - p) * half,
        p**2 * half,
    ]
    none = [math.comb(3, k) * q**k * (1 - q) ** (3 - k) for k in range(4)]
    assert chain.transition == pytest.approx(np.array([none, one, two, [1 / 8, 3 / 8, 3 / 8, 1 / 8]]), abs=1e-12)


def test_without_noise_the_chain_tips():
    """High pays only colluders, threshold 4, 3 of 8 collude: those who see 3 others join, those who see 2 leave."""
    chain = chain_of(game(8, 4, high_to="colluders", first_colluders=3), 0)
    assert np.argmax(distribution(chain, 4), axis=1).tolist() == [3, 5, 8, 8]
    assert tipping_threshold(chain) == 3
    assert expected_share(chain, 3) == pytest.approx([3 / 8, 5 / 8, 1])


def test_a_cycle_never_succeeds():
    """Two players, threshold 2, no noise: the lone colluder leaves while the other joins, in every round."""
    chain = chain_of(game(2, 2, first_colluders=1), 0)
    assert success_before_none(chain).tolist() == [0.0, 0.0, 1.0]


def test_fixed_players_are_constants():
    colluding = chain_of(CoordinationSettings(threshold=4, fixed=4, first_colluders=5), 0)
    assert (colluding.free, colluding.start, colluding.fixed) == (4, 1, 4)
    assert tipping_threshold(colluding) == 4  # the fixed players alone are enough
    assert success_before_none(colluding).tolist() == [1.0] * 5
    last = chain_of(CoordinationSettings(threshold=8, fixed=3, fixed_place="last", first_colluders=7), 0.1)
    assert (last.free, last.start, last.fixed) == (5, 5, 3)
    against = chain_of(CoordinationSettings(threshold=6, fixed=4, fixed_decision="independent"), 0.1)
    assert tipping_threshold(against) is None


def test_tiny_probabilities_are_kept():
    """The probability of leaving state 1 is lost in 1 - p, yet three of four departures are successes."""
    tiny = 1e-30
    transition = np.array([[1.0, 0.0, 0.0], [tiny, 1 - 4 * tiny, 3 * tiny], [0.0, 0.0, 1.0]])
    assert success_before_none(Chain(transition, 1, 0, 2))[1] == pytest.approx(0.75)


@st.composite
def chains(draw: st.DrawFn) -> Chain:
    agents = draw(st.integers(2, 12))
    pays = sorted(draw(st.lists(st.floats(0, 3), min_size=3, max_size=3)))
    made = CoordinationSettings(
        agents=agents,
        threshold=draw(st.integers(1, agents)),
        low=pays[0],
        normal=pays[1],
        high=pays[2],
        mode=draw(st.sampled_from(["multiply", "add"])),
        high_to=draw(st.sampled_from(["all", "colluders"])),
        fixed=draw(st.integers(0, agents - 1)),
        fixed_place=draw(st.sampled_from(["first", "last"])),
        fixed_decision=draw(st.sampled_from(["collude", "independent"])),
        first_colluders=draw(st.integers(0, agents)),
    )
    return chain_of(made, draw(st.one_of(st.just(0.0), st.floats(0.05, 10))))


@settings(deadline=None)
@given(chains())
def test_probabilities_add_up_under_any_settings(chain):
    assert (chain.transition >= 0).all()
    assert chain.transition.sum(axis=1) == pytest.approx(1, abs=1e-9)
    hits = success_before_none(chain)
    assert (hits >= 0).all() and (hits <= 1 + 1e-9).all()
    outside = ~chain.success
    outside[0] = False
    assert hits[outside] == pytest.approx((chain.transition @ hits)[outside], abs=1e-9)
    assert hits[chain.success] == pytest.approx(1)


@pytest.mark.parametrize(
    "played",
    [
        {"threshold": 4, "first_colluders": 3},
        {"threshold": 6, "first_colluders": 5, "fixed": 2, "mode": "add", "high": 0.3, "normal": 0.0, "low": -0.2},
        {"threshold": 3, "agents": 5, "high_to": "colluders", "fixed": 1, "fixed_decision": "independent"},
    ],
)
def test_simulation_matches_within_sampling_error(tmp_path: Path, played):
    """Mean and distribution of colluders in 1,500 games are within 4.5 standard errors of the chain's."""
    games, rounds = 1500, 4
    chosen = CoordinationSettings(**played, rounds=rounds)
    scenario = CoordinationScenario("g", "g", "test", "s", "q", "", "A", "B", "A", "B", "purse", "", "")
    cell, out = Cell("scripted:best_response:0.15", "coordination"), tmp_path / "turns.parquet"
    job = RolloutJob(cell=cell, variants={"v": chosen}, samples=games)
    policy = scripted("best_response:0.15", "coordination")
    rollout(job, [scenario], policy, out, Stage("rollout", "atp.rollout.engine", {}))
    turns = pl.read_parquet(out, columns=["episode", "round", "decision"])
    counts = turns.group_by("episode", "round").agg(colluders=(pl.col("decision") == "collude").sum())
    chain = chain_of(chosen, 0.15)
    expected = distribution(chain, rounds)
    for round in range(1, rounds + 1):
        colluders = counts.filter(round=round)["colluders"].to_numpy()
        p = expected[round - 1]
        frequencies = np.bincount(colluders, minlength=chain.free + 1) / games
        assert (np.abs(frequencies - p) <= 4.5 * np.sqrt(p * (1 - p) / games) + 2 / games).all()
        states = np.arange(chain.free + 1)
        mean = p @ states
        error = math.sqrt(max(p @ states**2 - mean**2, 0) / games)
        assert abs(colluders.mean() - mean) <= 4.5 * error + 1e-9
        assert mean == pytest.approx(chain.free * expected_share(chain, rounds)[round - 1])
