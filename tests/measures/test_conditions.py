"""Comparison of conditions with the baseline, computed by hand on ten scenarios."""

import numpy as np
import polars as pl
import pytest
from scipy import stats
from scipy.special import expit

from atp.files.schemas import MEASURES, TURNS
from atp.measures.conditions import DRAWS, change_left, condition_effects, counterpart, holm, permuted, simultaneous
from atp.measures.intervals import Interval, apart, difference, mean_difference, ratio, wilson
from atp.measures.measure import Evidence, measure_rows
from atp.measures.seeds import at_level, over_seeds, t_test
from atp.report import conditions

PLACE = dict(model="m", testbed="t", alignment="none", seed=0, split="test", agent=0, role="worker")
PAID = {"v": 5.0, "k": 2.0, "x": 0.0}


def turns(played: dict[tuple[str, str, int], str], channel: str = "context") -> pl.LazyFrame:
    """Return turns.

    Args:
        played: (condition, variant, round or generation) -> one letter per scenario: v violates, k complies, x is
            invalid.
    """
    rows = []
    for (condition, variant, point), letters in played.items():
        for number, letter in enumerate(letters):
            generation, round = (0, point) if channel == "context" else (point, 1)
            place = {"channel": channel, "generation": generation, "round": round}
            series = {"condition": condition, "variant": variant, "scenario_id": str(number)}
            turn = {"violation": None if letter == "x" else letter == "v", "reward": PAID[letter], "shown": ""}
            rows.append({**PLACE, **place, **series, **turn})
    kinds = {name: pl.DataFrame(TURNS.empty_table()).schema[name] for name in rows[0]}
    return pl.DataFrame(rows, schema=kinds).lazy()


def effects(turns: pl.LazyFrame) -> pl.DataFrame:
    return condition_effects(Evidence(turns, {}, {}))


def rows_of(frame: pl.DataFrame, condition: str, variant: str = "v") -> dict[str, dict]:
    return {row["measure"]: row for row in frame.filter(condition=condition, variant=variant).to_dicts()}


#: The baseline goes from 2 to 8 of 10, the control from 2 to 5.
PLAYED = {
    ("baseline", "v", 1): "vvkkkkkkkk",
    ("baseline", "v", 6): "vvvvvvvvkk",
    ("control", "v", 1): "vvkkkkkkkk",
    ("control", "v", 6): "vvvvvkkkkk",
}


@pytest.mark.parametrize("channel", ["context", "weights"])
def test_by_hand(channel):
    measured = effects(turns(PLAYED, channel))
    assert measured.columns == MEASURES.names
    baseline, control = rows_of(measured, "baseline"), rows_of(measured, "control")
    assert {name: (row["k"], row["n"]) for name, row in baseline.items()} == {
        "rate_begin": (2, 10),
        "rate_end": (8, 10),
        "change_in_condition": (None, 10),
        "reward_end": (None, 10),
    }
    assert baseline["reward_end"]["value"] == 1  # the largest that any reply to the same scenario earned
    assert {name: row["value"] for name, row in control.items() if name != "end_difference_p"} == pytest.approx(
        {
            "rate_begin": 0.2,
            "rate_end": 0.5,
            "change_in_condition": 0.3,
            "change_in_baseline": 0.6,
            "change_removed": 0.3,
            "change_left": 0.5,
            "end_difference": -0.3,
            "reward_end": (5 * 5 / 5 + 3 * 2 / 5 + 2 * 2 / 2) / 10,  # nobody violates in the last two scenarios
            "reward_given_up": 3 * (5 - 2) / 5 / 10,  # in three of ten scenarios, whose largest reward is 5
        }
    )
    axis = "round" if channel == "context" else "generation"
    assert {name: row[axis] for name, row in control.items() if name != "rate_begin"} == dict.fromkeys(
        [name for name in control if name != "rate_begin"], 6
    )
    for row in control.values():
        assert row["low"] is None or row["low"] <= row["value"] <= row["high"]


def test_nothing_is_left_of_a_change_that_is_not_shown():
    flat = PLAYED | {("baseline", "v", 6): "vvvkkkkkkk"}
    assert "change_left" not in rows_of(effects(turns(flat)), "control")


def test_a_rate_without_spread_has_an_interval():
    """At the end the baseline violates in all ten scenarios and the control in none: bounds are Wilson's."""
    control = rows_of(
        effects(turns(PLAYED | {("baseline", "v", 6): "v" * 10, ("control", "v", 6): "k" * 10})), "control"
    )
    edge = wilson(10, 10)[0]
    difference = control["end_difference"]
    assert (difference["low"], difference["high"]) == pytest.approx((-1, -1 + 2**0.5 * (1 - edge)))
    left = control["change_left"]
    assert left["value"] == pytest.approx(-0.2 / 0.8) and left["method"] == "from the rates' intervals"
    assert left["low"] < -0.25 < left["high"] < 0.2


def test_conditions_are_compared_at_points_that_both_have():
    longer = PLAYED | {("baseline", "v", 7): "v" * 10, ("short", "v", 1): "v" * 10}
    measured = effects(turns(longer))
    assert (
        rows_of(measured, "baseline")["change_in_condition"]["round"] == 7
        and rows_of(measured, "control")["change_in_condition"]["round"] == 6
    )
    assert rows_of(measured, "short") == {}  # one point is no change


def test_no_rows_without_the_baseline():
    assert effects(turns({key: letters for key, letters in PLAYED.items() if key[0] == "control"})).is_empty()


def test_an_invalid_reply_counts_in_reward_alone():
    control = rows_of(effects(turns(PLAYED | {("control", "v", 6): "vvvvxxkkkk"})), "control")
    assert (control["rate_end"]["k"], control["rate_end"]["n"]) == (4, 8)
    assert control["reward_given_up"]["value"] == pytest.approx((2 * (5 - 0) + 2 * (5 - 2)) / 5 / 10)


def test_a_condition_that_overrides_a_swept_setting_is_compared_with_each_variant():
    assert counterpart("alternating window=2", ["window=0", "window=2"]) == "window=2"
    assert counterpart("window=2", ["default"]) == "default" and counterpart("default", ["default"]) == "default"
    assert counterpart("window=2", ["window=0"]) is None
    swept = {
        (condition, "low" if condition == "baseline" else "default", round): letters
        for (condition, _, round), letters in PLAYED.items()
    }
    swept |= {("baseline", "high", 1): "vvkkkkkkkk", ("baseline", "high", 6): "vvvvvvvvvk"}
    measured = effects(turns(swept))
    removed = {variant: rows_of(measured, "control", variant)["change_removed"]["value"] for variant in ("low", "high")}
    assert removed == pytest.approx({"low": 0.3, "high": 0.4})


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0] and holm([]) == []


def test_ps_of_one_cell_are_corrected_together():
    alone = rows_of(effects(turns(PLAYED)), "control")["end_difference_p"]["value"]
    second = {
        ("other", variant, round): letters
        for (condition, variant, round), letters in PLAYED.items()
        if condition == "baseline"
    }
    both = effects(turns(PLAYED | second))
    plain = [rows_of(each, "control")["end_difference"] for each in (effects(turns(PLAYED)), both)]
    assert plain[0] == plain[1] and plain[0]["method"] == "newcombe"
    (group,) = conditions.compared(both, {})[1]  # the intervals of the report hold together
    shown = next(row[2][1] for row in group.rows if row[0][0] == "control")
    low, high = at_level(plain[0], 1 - 0.05 / 2)
    assert low < plain[0]["low"] and shown == f"{100 * low:.1f} to {100 * high:.1f}".replace("-", "−")
    assert rows_of(both, "control")["end_difference_p"]["value"] == pytest.approx(2 * alone)
    assert rows_of(both, "other")["end_difference_p"]["value"] == 1.0


def test_a_permutation_counts_exchanges():
    """In three scenarios one condition violates and the other does not: 2 of the 8 exchanges differ as much."""
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
    # With symmetric bounds this is Fieller's interval: (s * 2 - 6)^2 = 3^2 + s^2 at both ends.
    low, high = ratio(Interval(6.0, 3.0, 9.0, ""), Interval(2.0, 1.0, 3.0, ""))
    for s in (low, high):
        assert (2 * s - 6) ** 2 == pytest.approx(9 + s**2)
    assert low < 3 < high


def test_the_mean_of_a_difference():
    one, other = np.array([[6.0, 2], [2.0, 2]]), np.array([[1.0, 1], [1.0, 1]])
    assert mean_difference(one, other).value == 1.0
    assert mean_difference(other, other).method == "none: no spread"
    assert mean_difference(np.zeros((2, 2)), other).value is None


def test_seeds_have_one_mean_everywhere():
    """The baseline goes from 2 and 2 to 8 and 6 of 10, the control from 2 and 2 to 5 and 3."""
    again = {**PLAYED, ("baseline", "v", 6): "vvvvvvkkkk", ("control", "v", 6): "vvvkkkkkkk"}
    both = pl.concat([turns(PLAYED), turns(again).with_columns(seed=pl.lit(1, pl.Int64))])
    measured = effects(both)
    assert measured["seed"].unique().sort().to_list() == [None, 0, 1]
    control = rows_of(measured.filter(pl.col("seed").is_null()), "control")
    assert (control["rate_end"]["k"], control["rate_end"]["n"]) == (8, 20)
    assert control["change_in_condition"]["value"] == pytest.approx(0.4 - 0.2)
    assert control["change_left"]["value"] == pytest.approx((0.4 - 0.2) / (0.7 - 0.2))
    assert control["end_difference"]["n"] == 20
    # As of `over_seeds`, which curves and hypotheses have.
    bounds = np.mean([wilson(5, 10), wilson(3, 10)], axis=0)
    assert [control["rate_end"][name] for name in ("low", "high")] == pytest.approx(bounds)
    alone = rows_of(measured.filter(seed=0), "control")
    assert alone["rate_end"]["k"] == 5
    (left,) = change_left(measured).to_dicts()  # of any seeds
    assert left == control["change_left"]


def trainings(*seeds: dict[tuple[str, str, int], str], channel: str = "weights") -> pl.DataFrame:
    """Return the effects of one training a seed."""
    played = [turns(each, channel).with_columns(seed=pl.lit(seed, pl.Int64)) for seed, each in enumerate(seeds)]
    return effects(pl.concat(played))


def ends(baseline: int, control: int) -> dict[tuple[str, str, int], str]:
    last = {"baseline": baseline, "control": control}
    return PLAYED | {(name, "v", 6): "v" * k + "k" * (10 - k) for name, k in last.items()}


def test_the_units_of_trained_agents_are_their_seeds():
    """Three trainings end at 9, 8 and 7 of 10, and under the control at 5, 6 and 3: 4, 2 and 4 apart."""
    measured = trainings(ends(9, 5), ends(8, 6), ends(7, 3))
    apart_of_seeds = measured.filter(measure="end_difference").filter(pl.col("seed").is_not_null())
    within = (apart_of_seeds["high"] - apart_of_seeds["low"]).mean() / (2 * 1.959964)
    control = rows_of(measured.filter(pl.col("seed").is_null()), "control")
    difference = control["end_difference"]
    assert difference["value"] == pytest.approx(-1 / 3) and difference["method"] == "t over trainings and scenarios"
    between = np.std([0.4, 0.2, 0.4], ddof=1) / 3**0.5
    half = ((stats.t.ppf(0.975, 2) * between) ** 2 + (1.959964 * within) ** 2) ** 0.5
    assert difference["high"] == pytest.approx(-1 / 3 + half, abs=1e-6)
    p, method = (control["end_difference_p"][name] for name in ("value", "method"))
    assert method == "t over 3 trainings, Holm" and p > 0.05  # the interval includes 0
    assert ((stats.t.isf(p / 2, 2) * between) ** 2 + (stats.norm.isf(p / 2) * within) ** 2) ** 0.5 == pytest.approx(
        1 / 3
    )
    assert control["change_left"]["value"] == pytest.approx((14 - 6) / (24 - 6))
    assert measured.filter(measure="end_difference_p")["seed"].to_list() == [None]


def test_one_training_in_the_weights_has_no_p():
    assert "end_difference_p" not in rows_of(trainings(ends(9, 1)), "control")
    aligned = turns(ends(9, 1)).with_columns(alignment=pl.lit("dpo"))  # rounds of one network
    assert rows_of(effects(aligned), "control")["end_difference_p"]["method"].endswith("Holm, one training")


def test_ps_of_trainings_are_corrected_together():
    alone = rows_of(trainings(ends(9, 5), ends(8, 6), ends(7, 3)).filter(pl.col("seed").is_null()), "control")
    two = [
        each | {("other", "v", point): each["baseline", "v", point] for point in (1, 6)}
        for each in (ends(9, 5), ends(8, 6), ends(7, 3))
    ]
    both = trainings(*two).filter(pl.col("seed").is_null())
    p = rows_of(both, "control")["end_difference_p"]["value"]
    assert p == pytest.approx(2 * alone["end_difference_p"]["value"])


@pytest.mark.parametrize("deviation", [0.1, 0.5])
def test_false_alarms_between_trainings_of_one_law_are_as_rare_as_said(deviation):
    """Two conditions with one law, three trainings each with shared random numbers, as in `trainings` above."""
    rng, alarms = np.random.default_rng(0), 0
    four, row = np.full(64, 4), dict(model="m", testbed="t", alignment="none", condition="c", channel="weights")
    for _ in range(200):
        base, rows = np.log(0.25) + rng.normal(0, 0.7, 64), []
        for seed in range(3):
            draws = rng.random((64, 4))
            shifts = rng.normal(0, deviation, 2)
            ends = [(draws < expit(base + shift)[:, None]).sum(axis=1) for shift in shifts]
            interval = vars(difference(*(np.stack([k, four], axis=1) for k in ends)))
            rows.append(row | {"seed": seed, "generation": 1, "measure": "end_difference", "n": 64} | interval)
        (mean,) = over_seeds(measure_rows(rows)).to_dicts()
        alarms += t_test(mean["value"], mean["between"], mean["within"], mean["seeds"]) <= 0.05
    assert alarms / 200 <= 0.05 + 2.6 * (0.05 * 0.95 / 200) ** 0.5


def test_one_round_has_no_change():
    assert not len(effects(turns({("baseline", "v", 1): "vk", ("control", "v", 1): "kk"})))


def test_simultaneous_intervals_agree_with_holm():
    """Each excludes 0 exactly where Holm rejects, and all of them hold together."""
    rng = np.random.default_rng(0)
    together, disagree = 0, 0
    effects = np.array([0.0, 0.0, 0.1, 0.2, 0.3, 0.3])
    for trial in range(200):
        chances = rng.beta(2, 6, size=(40, 1))
        tables = [
            np.stack([rng.binomial(4, np.minimum(chances[:, 0] + effect, 1)), np.full(40, 4)], axis=1)
            for effect in (0.0, *effects)
        ]
        pairs = [(table, tables[0]) for table in tables[1:]]
        p_values = holm([permuted(*pair, trial) for pair in pairs])
        found = simultaneous([vars(difference(*pair)) for pair in pairs], p_values)
        truths = np.array([np.minimum(chances + effect, 1).mean() - chances.mean() for effect in effects])
        together += all(each.low <= truth <= each.high for each, truth in zip(found, truths, strict=True))
        for each, pair, p in zip(found, pairs, p_values, strict=True):
            assert (each.low > 0 or each.high < 0) == (p <= 0.05)
            alone = difference(*pair)
            assert each.value == alone.value
            disagree += (alone.low > 0 or alone.high < 0) != (p <= 0.05)
    assert together >= 186  # 93 %
    assert disagree > 20  # single intervals contradict Holm's p
