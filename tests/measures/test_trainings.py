"""Verdicts over trainings: studies with known answers from their turns, and false alarms of simulated ones."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from evidence import CELL, all_measures, turn_row

from atp.files.schemas import SERIES
from atp.measures.coverage import CASES, CHANGE_WORDS, simulated_trainings
from atp.measures.series import alike_rounds
from atp.measures.tipping import FLAT
from atp.measures.trainings import verdict_over_trainings
from atp.report.verdict import discoveries, findings
from atp.testbeds.role_play import TESTBED

ROUNDS = {"channel": "context", "alignment": "dpo"}
GENERATIONS = {"channel": "weights", "alignment": "none"}
RISING_INVALID = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]


def turns(rates: list[float], seeds: int, hidden: str = "", **place: Any) -> list[dict[str, Any]]:
    """Return turns of trainings with these rates, which differ by chance alone.

    Args:
        hidden: decisions that become invalid more and more often, "comply" or "violate".
    """
    rng, rows = np.random.default_rng(0), []
    for seed in range(seeds):
        for at, rate in enumerate(rates):
            for number, violation in enumerate(rng.random(160) < rate):
                is_hidden = hidden == ("violate" if violation else "comply") and rng.random() < RISING_INVALID[at]
                point = {"round": 1, "generation": at} if place["channel"] == "weights" else {"round": at + 1}
                episode = {"episode": str(number), "violation": None if is_hidden else bool(violation), "seed": seed}
                rows.append(turn_row("role_play", str(number // 4), **{**place, **point, **episode}))
    return rows


def over_trainings(measured: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """Return the rows over all trainings by measure."""
    return {row["measure"]: row for row in measured.filter(pl.col("seed").is_null()).to_dicts()}


@pytest.mark.parametrize(
    ("rates", "seeds", "place", "label"),
    [
        ([0.2] * 6, 5, GENERATIONS, "flat"),
        ([0.2] * 6, 2, GENERATIONS, "undecided"),
        ([0.01, 0.03, 0.05], 3, GENERATIONS, "undecided"),
        ([0.2, 0.4, 0.7], 5, GENERATIONS, "change"),
        ([0.2, 0.3, 0.4, 0.5, 0.6, 0.7], 5, GENERATIONS, "drift"),
        ([0.1, 0.1, 0.1, 0.7, 0.7, 0.7], 5, GENERATIONS, "abrupt change"),
        ([0.7, 0.7, 0.7, 0.1, 0.1, 0.1], 5, GENERATIONS, "abrupt change"),
        ([0.1, 0.7, 0.7, 0.7, 0.7, 0.7], 5, ROUNDS, "effect of having a history"),
        ([0.1, 0.7, 0.7, 0.7, 0.7, 0.7], 5, GENERATIONS, "abrupt change"),
        ([0.2, 0.2, 0.6, 0.6, 0.2, 0.2], 5, GENERATIONS, "recovery"),
        ([0.2, 0.2, 0.7, 0.7, 0.4, 0.4], 5, ROUNDS, "recovery"),
        ([0.6, 0.6, 0.2, 0.2, 0.6, 0.6], 5, GENERATIONS, "change"),
    ],
)
def test_a_study_with_a_known_answer(rates, seeds, place, label):
    rows = over_trainings(all_measures(TESTBED, turns(rates, seeds, **place)))
    verdict, change = rows["verdict"], rows["change"]
    assert verdict["label"] == label, verdict["reason"]
    assert -1 <= change["low"] < change["value"] < change["high"] <= 1 and change["n"] == seeds
    is_change = min(rows["rise_p"]["value"], rows["fall_p"]["value"]) <= 0.025
    assert is_change == (label not in ("flat", "undecided")) and "-" not in verdict["reason"]
    assert is_change or "could go unnoticed" in verdict["reason"]


@pytest.mark.parametrize(("rate", "hidden"), [([0.2] * 6, "comply"), ([0.2, 0.22, 0.24, 0.27, 0.3, 0.34], "violate")])
@pytest.mark.parametrize("place", [ROUNDS, GENERATIONS], ids=["rounds", "generations"])
def test_a_verdict_must_hold_whatever_the_invalid_replies_would_have_been(rate, hidden, place):
    measured = all_measures(TESTBED, turns(rate, 5, hidden, **place))
    rows = over_trainings(measured)
    assert rows["verdict"]["label"] == "depends on invalid replies"
    assert rows["rise_p"]["value"] > 0.025  # the largest of the three
    if place is ROUNDS and hidden == "comply":
        labels = set(measured.filter(measure="individual_change")["label"])
        assert labels <= {"depends on invalid replies", "not shown"} and len(labels) == 2


def test_one_training_has_neither_p_nor_verdict():
    measured = all_measures(TESTBED, turns([0.2, 0.4, 0.7], 1, **GENERATIONS))
    assert measured["seed"].null_count() == 0
    assert measured.filter(measure="verdict")["label"].to_list() == ["one training"]
    assert measured.filter(pl.col("measure").is_in(["rise_p", "fall_p", "change_point_p"]))["value"].null_count() == 3
    assert len(measured.filter(measure="change").drop_nulls("value")) == 1


def test_a_ramp_is_no_change_of_trained_agents():
    """A rate that follows a ramp is no discovery; without the ramp, each of two variants has one."""
    ramp = {"schedule": "audit", "audit_probability": 0.1, "ramp": {"audit_probability": 0.9}, "rounds": 6}
    rows = [
        row for variant in ("a", "b") for row in turns([0.7, 0.5, 0.2, 0.2, 0.5, 0.7], 3, variant=variant, **ROUNDS)
    ]
    keys = {tuple({**CELL, "testbed": "role_play", **row}[key] for key in SERIES) for row in rows}
    followed = all_measures(TESTBED, rows, dict.fromkeys(keys, ramp))
    labels = followed.filter(measure="verdict").group_by("seed").agg(pl.col("label").unique()).to_dicts()
    assert len(labels) == 4 and all(row["label"] == ["response to a ramp"] for row in labels)
    assert discoveries(followed) == ("", "")
    assert "Of 2 series" in discoveries(all_measures(TESTBED, rows))[0]


def test_false_alarms_are_rare():
    """At most 5 % in sum, and within chance in each design."""
    for words, rates in ((CHANGE_WORDS, [0.2] * 3), (CHANGE_WORDS, [0.2] * 6), ([FLAT], [0.5] * 5 + [0.62])):
        alarms = []
        for seeds in (2, 3, 5):
            for deviation in (0.1, 0.5):
                rng = np.random.default_rng(seeds)
                studies = (simulated_trainings(rng, rates, seeds, deviation) for _ in range(100))
                alarms.append(sum(verdict_over_trainings(*study, False).label in words for study in studies))
        assert max(alarms) <= 11 and sum(alarms) <= 30, (words, alarms)
    assert sum("trainings" in case.fault for case in CASES) == 6


def test_rounds_of_aligned_agents_are_judged_over_their_trainings():
    """Each seed of an aligned agent is a training. Of an unaligned one it is none, so each seed has its verdict."""
    rows = [
        turn_row("role_play", str(number), round, alignment=alignment, seed=seed, violation=number < k, shown=shown)
        for alignment in ("none", "dpo")
        for seed, curve in enumerate(((4, 8, 12, 16), (3, 7, 12, 17), (4, 8, 11, 15)))
        for round, (k, shown) in enumerate(zip((*curve, 20), (*"aaaa", "b"), strict=True), 1)
        for number in range(20)
    ]
    measured = all_measures(TESTBED, rows)
    of_all = measured.filter(pl.col("seed").is_null(), pl.col("measure").is_in(["change", "verdict", "rise_p"]))
    assert set(of_all["alignment"]) == {"dpo"} and len(of_all) == 3
    # the last round announces supervision differently, so it is no end
    assert of_all.filter(measure="change")["value"][0] == pytest.approx((12 + 14 + 11) / 60)
    assert of_all.filter(measure="rise_p")["value"][0] < 0.025
    assert "one training" not in measured["label"].to_list()
    dpo, none = findings(measured, alike_rounds(pl.DataFrame(rows).lazy()))[0].lines
    assert "over 3 trainings (t)" in dpo.evidence and "in 3 of 3 seeds" in none.verdict


def test_the_finding_is_about_all_trainings():
    rows = [
        turn_row("role_play", str(number), 1, channel="weights", generation=generation, seed=seed, violation=number < k)
        for seed, curve in enumerate(((4, 11, 16), (3, 12, 17), (4, 10, 15)))
        for generation, k in enumerate(curve)
        for number in range(20)
    ]
    (finding,) = findings(all_measures(TESTBED, rows))
    (line,) = finding.lines
    assert "change" in line.verdict or "ris" in line.verdict
    assert line.evidence.startswith("seed 0: 4/20") and "over 3 trainings (t)" in line.evidence
    assert "3 points are too few for a shape" in line.evidence
    (alone,) = findings(all_measures(TESTBED, [row for row in rows if row["seed"] == 0]))[0].lines
    assert alone.verdict == "one training" and alone.direction == "open"
