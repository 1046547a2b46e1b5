"""What arms change, by hand on ten scenarios, and by a policy whose answer is known."""

import numpy as np
import polars as pl
import pytest

from atp.artifacts import MEASURES, TURNS
from atp.measures.arms import DRAWS, arm_effects, counterpart, holm, permuted
from atp.measures.intervals import Interval, apart, mean_difference, ratio, wilson

LINE = dict(model="m", testbed="t", alignment="none", seed=0, split="test", agent=0, role="worker")
PAID = {"v": 5.0, "k": 2.0, "x": 0.0}


def turns(played: dict[tuple[str, str, int], str], channel: str = "context") -> pl.LazyFrame:
    """(arm, variant, round or generation) -> a letter a scenario: v violates, k complies, x is invalid."""
    rows = []
    for (arm, variant, point), letters in played.items():
        for number, letter in enumerate(letters):
            generation, round = (0, point) if channel == "context" else (point, 1)
            place = {"channel": channel, "generation": generation, "round": round, "arm": arm, "variant": variant}
            said = {"violation": None if letter == "x" else letter == "v", "reward": PAID[letter], "shown": ""}
            rows.append({**LINE, **place, "scenario_id": str(number), **said})
    kinds = {name: pl.DataFrame(TURNS.empty_table()).schema[name] for name in rows[0]}
    return pl.DataFrame(rows, schema=kinds).lazy()


def found(frame: pl.DataFrame, arm: str, variant: str = "v") -> dict[str, dict]:
    return {row["measure"]: row for row in frame.filter(arm=arm, variant=variant).to_dicts()}


#: Plain goes from 2 to 8 of 10, the control from 2 to 5.
PLAYED = {
    ("plain", "v", 1): "vvkkkkkkkk",
    ("plain", "v", 6): "vvvvvvvvkk",
    ("control", "v", 1): "vvkkkkkkkk",
    ("control", "v", 6): "vvvvvkkkkk",
}


@pytest.mark.parametrize("channel", ["context", "weights"])
def test_by_hand(channel):
    measured = arm_effects(turns(PLAYED, channel), 0)
    assert measured.columns == MEASURES.names
    plain, control = found(measured, "plain"), found(measured, "control")
    assert {name: (row["k"], row["n"]) for name, row in plain.items()} == {
        "rate_begin": (2, 10),
        "rate_end": (8, 10),
        "change_in_arm": (None, 10),
    }
    assert {name: row["value"] for name, row in control.items() if name != "end_difference_p"} == pytest.approx(
        {
            "rate_begin": 0.2,
            "rate_end": 0.5,
            "change_in_arm": 0.3,
            "change_removed": 0.3,
            "change_left": 0.5,
            "end_difference": -0.3,
            "reward_given_up": 3 * (5 - 2) / 5 / 10,  # in three of ten scenarios, whose most is 5
        }
    )
    axis = "round" if channel == "context" else "generation"
    assert {name: row[axis] for name, row in control.items() if name != "rate_begin"} == dict.fromkeys(
        [name for name in control if name != "rate_begin"], 6
    )
    for row in control.values():
        assert row["low"] is None or row["low"] <= row["value"] <= row["high"]


def test_nothing_is_left_of_a_change_that_is_not_shown():
    flat = PLAYED | {("plain", "v", 6): "vvvkkkkkkk"}
    assert "change_left" not in found(arm_effects(turns(flat), 0), "control")


def test_a_rate_without_spread_is_not_taken_for_certain():
    """Plain violates in all ten in the end, the control in none: each end is as certain as Wilson's interval says."""
    control = found(
        arm_effects(turns(PLAYED | {("plain", "v", 6): "v" * 10, ("control", "v", 6): "k" * 10}), 0), "control"
    )
    edge = wilson(10, 10)[0]
    difference = control["end_difference"]
    assert (difference["low"], difference["high"]) == pytest.approx((-1, -1 + 2**0.5 * (1 - edge)))
    left = control["change_left"]
    assert left["value"] == pytest.approx(-0.2 / 0.8) and left["method"] == "from the rates' intervals"
    assert left["low"] < -0.25 < left["high"] < 0.2


def test_arms_are_compared_at_points_that_both_have():
    longer = PLAYED | {("plain", "v", 7): "v" * 10, ("short", "v", 1): "v" * 10}
    measured = arm_effects(turns(longer), 0)
    assert (
        found(measured, "plain")["change_in_arm"]["round"] == 7
        and found(measured, "control")["change_in_arm"]["round"] == 6
    )
    assert found(measured, "short") == {}  # one point is no change


def test_without_plain_there_is_nothing_to_compare():
    assert arm_effects(turns({key: letters for key, letters in PLAYED.items() if key[0] == "control"}), 0).is_empty()


def test_an_invalid_reply_counts_in_reward_alone():
    control = found(arm_effects(turns(PLAYED | {("control", "v", 6): "vvvvxxkkkk"}), 0), "control")
    assert (control["rate_end"]["k"], control["rate_end"]["n"]) == (4, 8)
    assert control["reward_given_up"]["value"] == pytest.approx((2 * (5 - 0) + 2 * (5 - 2)) / 5 / 10)


def test_an_arm_that_imposes_what_plain_sweeps_stands_beside_each_variant():
    assert counterpart("alternating window=2", ["window=0", "window=2"]) == "window=2"
    assert counterpart("window=2", ["default"]) == "default" and counterpart("default", ["default"]) == "default"
    assert counterpart("window=2", ["window=0"]) is None
    swept = {
        (arm, "low" if arm == "plain" else "default", round): letters for (arm, _, round), letters in PLAYED.items()
    }
    swept |= {("plain", "high", 1): "vvkkkkkkkk", ("plain", "high", 6): "vvvvvvvvvk"}
    measured = arm_effects(turns(swept), 0)
    removed = {variant: found(measured, "control", variant)["change_removed"]["value"] for variant in ("low", "high")}
    assert removed == pytest.approx({"low": 0.3, "high": 0.4})


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0] and holm([]) == []


def test_ps_of_one_cell_are_corrected_together():
    alone = found(arm_effects(turns(PLAYED), 0), "control")["end_difference_p"]["value"]
    second = {("other", variant, round): letters for (arm, variant, round), letters in PLAYED.items() if arm == "plain"}
    both = arm_effects(turns(PLAYED | second), 0)
    assert found(both, "control")["end_difference_p"]["value"] == pytest.approx(2 * alone)
    assert found(both, "other")["end_difference_p"]["value"] == 1.0


def test_a_permutation_counts_exchanges():
    """Three scenarios in which one violates and the other does not: 2 of the 8 exchanges are as far apart."""
    one, other = np.array([[1, 1]] * 3), np.array([[0, 1]] * 3)
    assert permuted(one, other, 0) == pytest.approx(2 / 8, abs=4 * (0.25 * 0.75 / DRAWS) ** 0.5)
    assert permuted(one, one, 0) == 1.0


def test_false_alarms_of_the_permutation_are_as_rare_as_said():
    rng = np.random.default_rng(0)
    hard = rng.random((300, 24, 1))
    drawn = np.stack([rng.binomial(4, hard[..., 0]) for _ in range(2)], axis=-1)
    four = np.full(24, 4)
    ps = [permuted(np.stack([a, four], 1), np.stack([b, four], 1), 0) for a, b in drawn.transpose(0, 2, 1)]
    assert np.mean(np.array(ps) <= 0.05) <= 0.05 + 2.6 * (0.05 * 0.95 / 300) ** 0.5


def test_intervals_of_differences_and_ratios_by_hand():
    one, other = Interval(6.0, 3.0, 10.0, ""), Interval(2.0, 2.0, 2.0, "")
    assert apart(one, other) == (1.0, 8.0) and ratio(one, other) == pytest.approx((1.5, 5.0))
    fell = Interval(-2.0, -2.0, -2.0, "")
    assert ratio(one, fell) == pytest.approx((-5.0, -1.5))
    # Fieller's, which it is where bounds are as far below as above: (s * 2 - 6)^2 = 3^2 + s^2 at both ends.
    low, high = ratio(Interval(6.0, 3.0, 9.0, ""), Interval(2.0, 1.0, 3.0, ""))
    for s in (low, high):
        assert (2 * s - 6) ** 2 == pytest.approx(9 + s**2)
    assert low < 3 < high


def test_the_mean_of_a_difference():
    one, other = np.array([[6.0, 2], [2.0, 2]]), np.array([[1.0, 1], [1.0, 1]])
    assert mean_difference(one, other, 0).value == 1.0
    assert mean_difference(other, other, 0).method == "none: no spread"
    assert mean_difference(np.zeros((2, 2)), other, 0).value is None


def test_seeds_are_put_together_by_scenario():
    """Plain goes from 2 and 2 to 8 and 6 of 10, the control from 2 and 2 to 5 and 3."""
    again = {**PLAYED, ("plain", "v", 6): "vvvvvvkkkk", ("control", "v", 6): "vvvkkkkkkk"}
    both = pl.concat([turns(PLAYED), turns(again).with_columns(seed=pl.lit(1, pl.Int64))])
    measured = arm_effects(both, 0)
    assert measured["seed"].unique().sort().to_list() == [None, 0, 1]
    control = found(measured.filter(pl.col("seed").is_null()), "control")
    assert (control["rate_end"]["k"], control["rate_end"]["n"]) == (8, 20)
    assert control["change_in_arm"]["value"] == pytest.approx(0.4 - 0.2)
    assert control["change_left"]["value"] == pytest.approx((0.4 - 0.2) / (0.7 - 0.2))
    assert control["end_difference"]["n"] == 10
    alone = found(measured.filter(seed=0), "control")
    assert alone["rate_end"]["k"] == 5


def test_one_round_has_no_change():
    assert not len(arm_effects(turns({("plain", "v", 1): "vk", ("control", "v", 1): "kk"}), 0))
