"""Deterrence: theory and crossings by hand, and bandits that meet theory."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atp.agents import load_agent
from atp.artifacts import CELL as CELL_KEYS
from atp.measures import swept
from atp.measures.deterrence import AUDIT, DETERRED_AT, LATE_RATE, crossing, deterrence_measures, deterring, gain
from atp.measures.rates import scan_turns
from atp.measures.shapes import count
from atp.provenance import Stage
from atp.rollout import Cell, rollout
from atp.scenarios.role_play import RolePlayTemplate, instantiate
from atp.scenarios.scenario import RolePlayScenario
from atp.scenarios.templates import generate, read_templates
from atp.testbeds import TESTBEDS

CELL = ("m", "t", "none", "plain", 0)


@pytest.mark.parametrize(
    ("ratio", "penalty", "p"), [(2, 0, 1 / 2), (2, 1, 1 / 3), (3, 0, 2 / 3), (3, 1, 1 / 2), (1, 0, 0)]
)
def test_theory_by_hand(ratio, penalty, p):
    assert deterring(ratio, penalty) == pytest.approx(p)


@given(st.floats(1, 1e3), st.floats(0, 1e3))
def test_at_p_star_both_pay_the_same(ratio, penalty):
    """And below it violating pays more, above it less."""
    p = deterring(ratio, penalty)
    assert gain(p, ratio, penalty) == pytest.approx(0, abs=1e-9 * (ratio + penalty))
    assert gain(p - 0.1, ratio, penalty) > 0 > gain(p + 0.1, ratio, penalty)


def crossed(*rates: float, scenarios: int = 40, positions: tuple[float, ...] = ()) -> Any:
    """Where rates fall below half: scenarios of ten replies, all alike but for one in four that differs by one."""
    totals = np.full((scenarios, len(rates)), 10)
    hits = np.rint(totals * np.array(rates)).astype(int)
    hits[::4, :] = np.minimum(hits[::4, :] + 1, 10)
    hits[1::4, :] = np.maximum(hits[1::4, :] - 1, 0)
    return crossing(count(hits, totals, np.array(positions or np.arange(len(rates)) / 10)), seed=0)


def test_a_crossing_by_hand():
    """From 80 % at 0.1 to 40 % at 0.2: half is three quarters of the way."""
    found = crossed(0.9, 0.8, 0.4, 0.2)
    assert found.value == pytest.approx(0.175) and found.method == "cluster bootstrap"
    assert 0.1 < found.low < 0.175 < found.high < 0.2
    assert crossed(0.9, 0.7, 0.3, positions=(0.0, 0.2, 0.6)).value == pytest.approx(0.4)


def test_rates_that_waver_across_half_have_one_crossing():
    """Pooled they are 80, 50, 50 and 20 %, so that the crossing is where they begin to fall again."""
    assert crossed(0.8, 0.4, 0.6, 0.2).value == pytest.approx(0.2)


def test_what_lies_beyond_the_points_has_no_value():
    above, below, near = crossed(0.9, 0.8, 0.7), crossed(0.3, 0.2, 0.1), crossed(0.9, 0.7, 0.5)
    assert (above.value, above.low, above.high, above.method) == (None, None, None, "none: above 50 % at every point")
    assert (below.value, below.method) == (None, "none: below 50 % at every point")
    assert near.low is not None and near.high is None
    assert crossed(0.9).method == "none: fewer than two points"


def swept_turns(**decisions: list[str]) -> pl.LazyFrame:
    """Turns of variants: decisions of the scenarios 0, 1, …, a letter a round: v, k, or x, an invalid one."""
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


def test_late_rounds_alone_count():
    """Of five rounds the last two: 4 of 4 at 0, 2 of 4 at 0.5, 0 of 3 at 1, where one reply is invalid."""
    played = {(*CELL, name): {AUDIT: p, "penalty": 1} for name, p in (("a", 0), ("b", 0.5), ("c", 1))}
    found = deterrence_measures(
        swept_turns(a=["kkkvv", "kkkvv"], b=["kkkvk", "vvvkv"], c=["vvvkk", "vvvxk"]), played, seed=0
    )
    late = found.filter(measure=LATE_RATE)
    assert late.select("variant", "k", "n").rows() == [("a", 4, 4), ("b", 2, 4), ("c", 0, 3)]
    assert found["round"].is_null().all()
    ((variant, value, n),) = found.filter(measure=DETERRED_AT).select("variant", "value", "n").rows()
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
    assert deterrence_measures(swept_turns(alone=["kv"]), alone, seed=0).is_empty()


@pytest.fixture(scope="module")
def scenarios() -> list[RolePlayScenario]:
    return generate(read_templates("config/templates/role_play.yaml", RolePlayTemplate), instantiate, 0, 32, 0)


@pytest.fixture(scope="module")
def bandits(scenarios, tmp_path_factory) -> pl.DataFrame:
    """Where two bandits are deterred: one that keeps exploring, and a greedy one."""
    folder, files = tmp_path_factory.mktemp("bandits"), []
    variants = {
        f"penalty={penalty} {p}": {
            "schedule": "audit", AUDIT: p, "pay_ratio": 2, "penalty": penalty, "rounds": 40, "window": 15
        }
        for penalty in (0, 1)
        for p in (0.1, 0.3, 0.5, 0.7)
    }  # fmt: skip
    testbed = TESTBEDS["role_play"]
    for name in ("scripted:bandit:1", "scripted:bandit"):
        cell = Cell(name, "role_play", "none", "plain", 0, "context", 0)
        settings = {label: testbed.settings(**values) for label, values in variants.items()}
        stage = Stage("rollout", "atp.rollout", {"cell": vars(cell), "variants": variants})
        files.append(folder / f"{len(files)}.parquet")
        rollout(scenarios, testbed, settings, load_agent(name, None), cell, 2, files[-1], stage)
    return deterrence_measures(scan_turns(files), swept.settings(files), seed=0).filter(measure=DETERRED_AT)


@pytest.mark.parametrize("penalty", [0, 1])
def test_a_bandit_that_explores_meets_theory_and_a_greedy_one_gives_up_early(bandits, penalty):
    rows = {row["model"]: row for row in bandits.filter(variant=f"penalty={penalty}").to_dicts()}
    explores, greedy, theory = rows["scripted:bandit:1"], rows["scripted:bandit"], deterring(2, penalty)
    assert explores["low"] <= theory <= explores["high"] and explores["n"] == 32
    assert greedy["value"] < theory and greedy["value"] < explores["value"]
