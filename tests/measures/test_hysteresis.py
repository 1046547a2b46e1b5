"""Loops of ramps: policies whose loops are known exactly, controls, and settings that cannot change."""

import math
import re
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from atp.agents.load import load_agent
from atp.explain import explain
from atp.files.provenance import Stage
from atp.measures.hysteresis import hysteresis_measures
from atp.measures.rates import measure_evidence, read_evidence
from atp.registry import find_testbed
from atp.rollout.engine import RolloutJob, rollout
from atp.rollout.table import Cell
from atp.scenarios.templates import generate, read_templates
from atp.testbeds.coordination.game import CoordinationSettings
from atp.testbeds.coordination.theory import chain_of, expected_rates

AUDITS = {"schedule": "audit", "audit_probability": 0.1, "rounds": 9, "window": 8}
GAME = {"fixed": 4, "committed": 0, "high_to": "colluders", "rounds": 13, "window": 1, "ramp_hold": 3}


def play(folder: Path, agent: str, testbed: str, variants: dict[str, dict[str, Any]], samples: int = 4) -> Path:
    """Play variants with a scripted policy on 32 scenarios of a testbed, and return the turns."""
    kind = find_testbed(testbed)
    scenarios = generate(read_templates(kind.templates, kind.template), kind.instantiate, 0, 32, 0)
    job = RolloutJob(cell=Cell(agent, testbed), variants=variants, samples=samples)
    out = folder / "turns.parquet"
    rollout(
        job,
        scenarios,
        load_agent(agent, None, None, testbed),
        out,
        Stage("rollout", "atp.rollout.engine", job.params()),
    )
    return out


def loops(turns: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of loops by measure."""
    rows = hysteresis_measures(read_evidence([turns])).filter(pl.col("round").is_null()).to_dicts()
    return {row["measure"]: row for row in rows}


def near(row: dict[str, Any], expected: float) -> bool:
    """Return whether a value is within 4.5 standard errors of the expected one."""
    error = (row["high"] - row["low"]) / 4 if row["low"] is not None else 0
    return math.isclose(row["value"], expected, abs_tol=4.5 * error + 1e-9)


def violating(p: list[float]) -> list[float]:
    """Return the rates of win-stay, lose-shift by round: it violates until it is caught, and then complies for good."""
    return list(accumulate([1 - each for each in p[:-1]], lambda rate, free: rate * free, initial=1.0))


def area(rates: list[float]) -> float:
    return float(np.mean([rates[-1 - t] - rates[t] for t in range(len(rates) // 2)]))


@pytest.mark.parametrize("peak", [0.5, 0.0])
def test_the_loop_of_an_agent_that_stops_once_it_was_caught(tmp_path, peak):
    """Its rate falls with a ramp and without one, so what the ramp adds is the difference from the control."""
    ramped = AUDITS | {"ramp": {"audit_probability": peak}}
    turns = play(tmp_path, "scripted:win_stay_lose_shift", "role_play", {"ramp": ramped, "constant": AUDITS})
    levels = [0.1 + (peak - 0.1) * min(t, 8 - t) / 4 for t in range(9)]
    rates, constant = violating(levels), violating([0.1] * 9)
    rows = loops(turns)
    assert near(rows["loop_area"], area(rates)) and near(rows["loop_area_of_control"], area(constant))
    assert near(rows["loop_area_over_control"], area(rates) - area(constant))
    assert near(rows["change_after_ramp"], rates[-1] - rates[0])
    assert near(rows["change_after_ramp_over_control"], rates[-1] - constant[-1])
    assert {row["n"] for row in rows.values()} == {32}
    verdicts = measure_evidence(read_evidence([turns])).filter(measure="verdict")
    labels = {row["variant"]: (row["label"], row["reason"]) for row in verdicts.to_dicts()}
    assert labels["ramp"][0] == "response to a ramp" != labels["constant"][0]
    assert labels["ramp"][1].startswith("audit_probability changes within the episode")


@pytest.mark.parametrize("ramp", [{"audit_probability": 0.9}, {"pay_ratio": 3}, {"penalty": 2}])
def test_an_agent_without_memory_makes_no_loop(tmp_path, ramp):
    settings = AUDITS | {"pay_ratio": 1.5, "rounds": 6}
    turns = play(tmp_path, "scripted:random:0.3", "role_play", {"ramp": settings | {"ramp": ramp}, "none": settings})
    rows = loops(turns)
    assert near(rows["loop_area"], 0) and 0 < rows["loop_area"]["high"] - rows["loop_area"]["low"] < 0.2
    assert near(rows["loop_area_over_control"], 0)


def test_the_pay_of_each_round_is_in_its_question_and_in_the_history(tmp_path):
    settings = {"rounds": 5, "window": 5, "pay_ratio": 1, "ramp": {"pay_ratio": 3}}
    turns = pl.read_parquet(play(tmp_path, "scripted:violate", "role_play", {"v": settings}, samples=1))
    for _, episode in turns.group_by("episode"):
        rounds = episode.sort("round").to_dicts()
        low = rounds[0]["reward"]
        assert [row["reward"] / low for row in rounds] == pytest.approx([1, 2, 3, 2, 1])
        asked = [message["content"] for message in rounds[-1]["messages"] if message["role"] == "user"]
        pays = [row["reward"] for row in rounds]
        assert all(f"${pay:.10g}" in text for pay, text in zip(pays, asked, strict=True))


@pytest.mark.parametrize(
    ("threshold", "during", "after"),
    [(4, 1.0, 1.0), (5, 1.0, 0.0), (6, 0.0, 0.0)],
)
def test_collusion_stays_where_the_free_players_are_a_closed_class(tmp_path, threshold, during, after):
    """Four free best responders join once four committed ones make a success likely, and go on if they are enough."""
    settings = GAME | {"threshold": threshold}
    ramped = settings | {"ramp": {"committed": 4}}
    turns = play(tmp_path, "scripted:best_response:0", "coordination", {"ramp": ramped, "none": settings}, samples=1)
    rows = loops(turns)
    stays = chain_of(CoordinationSettings(**settings), 0).transition[4, 4] == 1
    assert rows["change_after_ramp"]["value"] == after == float(stays and during)
    assert rows["change_after_ramp_of_control"]["value"] == 0
    rates = (
        pl.read_parquet(turns).filter(variant="ramp").group_by("round").agg(pl.col("violation").mean()).sort("round")
    )
    assert rates["violation"].max() == during
    assert rates["violation"].to_list() == expected_rates(CoordinationSettings(**ramped), 0).tolist()


def test_committed_players_enter_and_leave_as_theory_expects(tmp_path):
    """Rates of best responders who make errors, by the chain whose committed players differ from round to round."""
    settings = GAME | {"threshold": 5, "ramp": {"committed": 4}}
    turns = play(tmp_path, "scripted:best_response:0.1", "coordination", {"ramp": settings}, samples=8)
    rates = pl.read_parquet(turns).group_by("round").agg(pl.col("violation").mean()).sort("round")["violation"]
    expected = expected_rates(CoordinationSettings(**settings), 0.1)
    assert np.abs(rates.to_numpy() - expected).max() < 4.5 * 0.5 / math.sqrt(32 * 8)
    assert expected.max() > 0.5 and expected[0] < 0.2
    rows = loops(turns)
    assert near(rows["loop_area"], area(expected.tolist())) and "loop_area_of_control" not in rows


def test_rates_by_level_and_direction(tmp_path):
    settings = GAME | {"threshold": 4, "ramp": {"committed": 4}}
    turns = play(tmp_path, "scripted:best_response:0", "coordination", {"ramp": settings}, samples=1)
    rows = hysteresis_measures(read_evidence([turns])).filter(pl.col("round").is_not_null())
    committed = {round: CoordinationSettings(**settings).level(round) for round in range(1, 14)}
    assert list(committed.values()) == [0, 0, 0, 1, 2, 3, 4, 3, 2, 1, 0, 0, 0]
    there, back = (
        {committed[row["round"]]: row["value"] for row in rows.filter(measure=name).to_dicts()}
        for name in ("rate_there", "rate_back")
    )
    assert there == {0: 0, 1: 0, 2: 0, 3: 0, 4: 1} and back == dict.fromkeys(range(5), 1)


@pytest.mark.parametrize(
    ("testbed", "settings", "message"),
    [
        ("role_play", {"ramp": {"window": 3}}, "'window' cannot change .*: audit_probability, pay_ratio, penalty"),
        (
            "bargaining",
            {"ramp": {"scale": 3}},
            "'scale' cannot change within an episode, allowed: none on this testbed",
        ),
        ("role_play", {"ramp": {"pay_ratio": 3}}, "ramp.pay_ratio: set pay_ratio too"),
        ("role_play", AUDITS | {"ramp": {"audit_probability": 2}}, "ramp.audit_probability: .* equal to 1, found 2"),
        (
            "role_play",
            AUDITS | {"rounds": 2, "ramp": {"audit_probability": 1}},
            "ramp: rounds is 2, must be above twice ramp_hold",
        ),
        ("role_play", {"ramp": {"penalty": 1, "pay_ratio": 2}}, "ramp: .* at most 1 item"),
        (
            "coordination",
            {"fixed": 2, "committed": 0, "ramp": {"committed": 3}},
            "committed is 3, must be at most fixed",
        ),
        ("coordination", {"committed": 1}, r"committed is 1, must be at most fixed \(0\)"),
    ],
)
def test_ramps_that_cannot_be(testbed, settings, message):
    kind = find_testbed(testbed).settings
    with pytest.raises(ValidationError) as error:
        kind(**settings)
    assert re.search(message, explain(error.value, kind))
