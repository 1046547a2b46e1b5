"""Deterrence: theory and crossings calculated by hand, and bandits whose behaviour agrees with theory."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atp.agents.load import load_agent
from atp.files.provenance import Stage
from atp.files.schemas import CELL as CELL_KEYS
from atp.measures import swept
from atp.measures.measure import Evidence
from atp.measures.rates import read_evidence
from atp.measures.shapes import count
from atp.rollout.engine import RolloutJob, rollout
from atp.rollout.table import Cell
from atp.scenarios.templates import generate, read_templates
from atp.testbeds.role_play import TESTBED
from atp.testbeds.role_play.measures import (
    AUDIT,
    DETERRED_AT,
    LATE_RATE,
    crossing,
    deterrence_measures,
    deterring,
    gain,
)
from atp.testbeds.role_play.scenarios import RolePlayScenario, RolePlayTemplate, instantiate

CELL = ("m", "role_play", "none", "baseline", 0)


@pytest.mark.parametrize(
    ("ratio", "penalty", "p"), [(2, 0, 1 / 2), (2, 1, 1 / 3), (3, 0, 2 / 3), (3, 1, 1 / 2), (1, 0, 0)]
)
def test_theory_by_hand(ratio, penalty, p):
    assert deterring(ratio, penalty) == pytest.approx(p)


@given(st.floats(1, 1e3), st.floats(0, 1e3))
def test_at_p_star_both_pay_the_same(ratio, penalty):
    """Below p* violating pays more, above it less."""
    p = deterring(ratio, penalty)
    assert gain(p, ratio, penalty) == pytest.approx(0, abs=1e-9 * (ratio + penalty))
    assert gain(p - 0.1, ratio, penalty) > 0 > gain(p + 0.1, ratio, penalty)


def crossed(*rates: float, scenarios: int = 40, positions: tuple[float, ...] = ()) -> Any:
    """Return where rates cross 50 %, for scenarios of ten replies; two of every four scenarios deviate by one reply."""
    totals = np.full((scenarios, len(rates)), 10)
    hits = np.rint(totals * np.array(rates)).astype(int)
    hits[::4, :] = np.minimum(hits[::4, :] + 1, 10)
    hits[1::4, :] = np.maximum(hits[1::4, :] - 1, 0)
    return crossing(count(hits, totals, np.array(positions or np.arange(len(rates)) / 10)), seed=0)


def test_a_crossing_by_hand():
    """From 80 % at 0.1 to 40 % at 0.2, 50 % lies at three quarters of the way."""
    interval = crossed(0.9, 0.8, 0.4, 0.2)
    assert interval.value == pytest.approx(0.175) and interval.method == "cluster bootstrap"
    assert 0.1 < interval.low < 0.175 < interval.high < 0.2
    assert crossed(0.9, 0.7, 0.3, positions=(0.0, 0.2, 0.6)).value == pytest.approx(0.4)


def test_rates_that_move_back_and_forth_across_half_have_one_crossing():
    """Pooled, the rates are 80, 50, 50 and 20 %, so they cross 50 % where they begin to fall again."""
    assert crossed(0.8, 0.4, 0.6, 0.2).value == pytest.approx(0.2)


def test_a_crossing_beyond_the_points_has_no_value():
    above, below, near = crossed(0.9, 0.8, 0.7), crossed(0.3, 0.2, 0.1), crossed(0.9, 0.7, 0.5)
    assert (above.value, above.low, above.high, above.method) == (None, None, None, "none: above 50 % at every point")
    assert (below.value, below.method) == (None, "none: below 50 % at every point")
    assert near.low is not None and near.high is None
    assert crossed(0.9).method == "none: fewer than two points"


def swept_turns(**decisions: list[str]) -> pl.LazyFrame:
    """Return turns of variants.

    Args:
        decisions: variant -> decisions of scenarios 0, 1, …, one letter a round: v(iolate), k (comply) or x (invalid).
    """
    cell = dict(zip(CELL_KEYS, CELL, strict=True)) | {"channel": "context", "split": "test"}
    rows = [
        cell
        | {
            "variant": variant,
            "scenario_id": str(number),
            "round": round,
            "violation": {"v": True, "k": False}.get(letter),
        }
        for variant, scenarios in decisions.items()
        for number, letters in enumerate(scenarios)
        for round, letter in enumerate(letters, 1)
    ]
    return pl.LazyFrame(rows)


def measured(turns: pl.LazyFrame, played: dict[tuple[Any, ...], dict[str, Any]]) -> pl.DataFrame:
    return deterrence_measures(Evidence(turns, {"context": played, "weights": {}}, {}, seed=0))


def test_only_late_rounds_count():
    """The last two of five rounds count: 4 of 4 at 0, 2 of 4 at 0.5, 0 of 3 at 1, where one reply is invalid."""
    played = {(*CELL, name): {AUDIT: p, "penalty": 1} for name, p in (("a", 0), ("b", 0.5), ("c", 1))}
    rows = measured(swept_turns(a=["kkkvv", "kkkvv"], b=["kkkvk", "vvvkv"], c=["vvvkk", "vvvxk"]), played)
    late = rows.filter(measure=LATE_RATE)
    assert late.select("variant", "k", "n").rows() == [("a", 4, 4), ("b", 2, 4), ("c", 0, 3)]
    assert rows["round"].is_null().all()
    ((variant, value, n),) = rows.filter(measure=DETERRED_AT).select("variant", "value", "n").rows()
    assert (variant, n) == ("default", 2) and value == pytest.approx(0.5)


def test_sweeps_are_variants_that_differ_in_one_setting():
    played = {
        (*CELL, f"r{ratio} p{p}"): {"pay_ratio": ratio, AUDIT: p, "schedule": "audit"}
        for ratio in (2, 3)
        for p in (0.4, 0)
    }
    alone = {(*CELL, "alone"): {"pay_ratio": 4, AUDIT: 0.4, "schedule": "audit"}, (*CELL, "none"): {"rounds": 3}}
    one, other = swept.sweeps(played | alone, AUDIT)
    assert (one.name, one.variants) == ("pay_ratio=2", ((0, "r2 p0"), (0.4, "r2 p0.4")))
    assert other.name == "pay_ratio=3" and other.fixed == {"pay_ratio": 3, "schedule": "audit"}
    assert measured(swept_turns(alone=["kv"]), alone).is_empty()


@pytest.fixture(scope="module")
def scenarios() -> list[RolePlayScenario]:
    return generate(read_templates(TESTBED.templates, RolePlayTemplate), instantiate, 0, 32, 0)


@pytest.fixture(scope="module")
def bandits(scenarios, tmp_path_factory) -> pl.DataFrame:
    """Return DETERRED_AT of two bandits: one that keeps exploring, and a greedy one."""
    folder, files = tmp_path_factory.mktemp("bandits"), []
    variants = {
        f"penalty={penalty} {p}": {
            "schedule": "audit", AUDIT: p, "pay_ratio": 2, "penalty": penalty, "rounds": 40, "window": 15
        }
        for penalty in (0, 1)
        for p in (0.1, 0.3, 0.5, 0.7)
    }  # fmt: skip
    for name in ("scripted:bandit:1", "scripted:bandit"):
        job = RolloutJob(cell=Cell(name, "role_play"), variants=variants, samples=2)
        files.append(folder / f"{len(files)}.parquet")
        stage = Stage("rollout", "atp.rollout.engine", job.params())
        rollout(job, scenarios, load_agent(name, None), files[-1], stage)
    return deterrence_measures(read_evidence(files, seed=0).of("role_play")).filter(measure=DETERRED_AT)


@pytest.mark.parametrize("penalty", [0, 1])
def test_an_exploring_bandit_agrees_with_theory_and_a_greedy_one_is_deterred_earlier(bandits, penalty):
    rows = {row["model"]: row for row in bandits.filter(variant=f"penalty={penalty}").to_dicts()}
    explores, greedy, theory = rows["scripted:bandit:1"], rows["scripted:bandit"], deterring(2, penalty)
    assert explores["low"] <= theory <= explores["high"] and explores["n"] == 32
    assert greedy["value"] < theory and greedy["value"] < explores["value"]
