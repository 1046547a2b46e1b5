"""Several seeds as one row: arithmetic by hand, and properties that hold for all counts."""

from math import exp
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from atp.files.schemas import MEASURES
from atp.measures.intervals import wilson
from atp.measures.seeds import SEED, at_level, half_width, over_seeds

SCHEMA = pl.DataFrame(MEASURES.empty_table()).schema
KEYS: dict[str, Any] = dict(model="m", testbed="role_play", alignment="none", condition="baseline", channel="context")
KEYS |= dict(generation=0, variant="v", split="test", round=1, measure="violation_rate")


def row(seed: int, value: float | None, low: float | None, high: float | None, **other: Any) -> dict[str, Any]:
    return KEYS | dict(seed=seed, value=value, k=1, n=4, low=low, high=high, method="wilson") | other


def table(*rows: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=SCHEMA)


def counted(seed: int, k: int, n: int, **other: Any) -> dict[str, Any]:
    low, high = wilson(k, n) if n else (None, None)
    return row(seed, k / n if n else None, low, high, **{"k": k, "n": n} | other)


def test_by_hand():
    means = over_seeds(
        table(
            row(0, 0.2, 0.1, 0.4, k=2, n=10),
            row(1, 0.5, 0.3, 0.6, k=10, n=20),
            row(2, 0.8, 0.7, 1.0, k=8, n=10, method="cluster bootstrap"),
        )
    )
    (mean,) = means.to_dicts()
    assert {key: mean[key] for key in KEYS} == KEYS and mean[SEED] is None
    assert mean["value"] == pytest.approx(0.5)  # of seeds, not of replies: k / n may differ
    assert (mean["k"], mean["n"]) == (20, 40)
    # widths below: 0.1, 0.2, 0.1; above: 0.2, 0.1, 0.2
    assert mean["low"] == pytest.approx(0.5 - 0.4 / 3)
    assert mean["high"] == pytest.approx(0.5 + 0.5 / 3)
    assert (mean["least"], mean["most"]) == (0.2, 0.8)
    assert mean["deviation"] == pytest.approx(0.3)  # the root of (0.09 + 0 + 0.09) / 2
    assert (mean["seeds"], mean["of"]) == (3, 3)
    assert mean["method"] == "cluster bootstrap, wilson"


@pytest.mark.parametrize(
    ("measure", "lowest", "highest"),
    [("p_violation", 0, 1), ("change", -1, 1), ("alignment_gap_change", -2, 2), ("drift_odds_ratio", 0, None)],
)
def test_an_interval_over_trainings_is_within_the_range_of_its_measure(measure, lowest, highest):
    pair = [row(seed, rate, rate - 0.1, rate + 0.1, alignment="dpo", k=None) for seed, rate in enumerate((0.1, 0.7))]
    (mean,) = over_seeds(table(*(each | {"measure": measure} for each in pair))).to_dicts()
    assert mean["low"] == lowest and mean["high"] == pytest.approx(highest or 4.2, abs=0.1)
    # another level starts from the whole interval, not from the one that was cut
    half = float(half_width(mean["between"], mean["within"], 2, 0.5))
    assert at_level(mean, 0.5) == pytest.approx((max(lowest, 0.4 - half), 0.4 + half))


def test_seeds_of_a_given_agent_are_no_trainings():
    """The study did not train it, so its seeds are samples of one agent, until it has learned."""
    rows = [row(seed, value, value - 0.098, value + 0.098) for seed, value in enumerate((0.2, 0.5, 0.8))]
    given = [each | {"alignment": "given:mine"} for each in rows]
    (unaligned,), (mine,) = over_seeds(table(*rows)).to_dicts(), over_seeds(table(*given)).to_dicts()
    assert mine == unaligned | {"alignment": "given:mine"} and mine["trainings"] is None
    (learned,) = over_seeds(table(*(each | {"channel": "weights", "generation": 1} for each in given))).to_dicts()
    assert learned["trainings"] == 3 and learned["high"] - learned["low"] > mine["high"] - mine["low"]


def test_seeds_of_a_trained_agent_are_trainings_by_hand():
    """Rates of 20, 50 and 80 % with intervals of 19.6 points: standard errors of 17.3 and of 5 points."""
    trained = {"alignment": "dpo"}
    rows = [row(seed, value, value - 0.098, value + 0.098, **trained) for seed, value in enumerate((0.2, 0.5, 0.8))]
    (mean,) = over_seeds(table(*rows)).to_dicts()
    assert (mean["trainings"], mean["method"]) == (3, "t over trainings and scenarios")
    assert mean["between"] == pytest.approx(0.3 / 3**0.5) and mean["within"] == pytest.approx(0.05, rel=1e-4)
    half = ((4.302653 * 0.3) ** 2 / 3 + 0.098**2) ** 0.5 / 0.25  # in log-odds, whose slope at one half is 1 / 4
    assert (mean["low"], mean["high"]) == pytest.approx((1 / (1 + exp(half)), 1 / (1 + exp(-half))))
    # a difference has no numerator: its interval is in points
    (mean,) = over_seeds(table(*(each | {"k": None} for each in rows))).to_dicts()
    assert mean["high"] - 0.5 == pytest.approx(half / 4) and mean["low"] + mean["high"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("where", "trainings"),
    [
        ({}, None),
        ({"channel": "weights"}, None),  # generation 0 of the unaligned agent
        ({"channel": "weights", "generation": 1}, 1),
        ({"alignment": "grpo"}, 1),
    ],
)
def test_one_seed_is_one_training(where, trainings):
    (mean,) = over_seeds(table(counted(0, 1, 4, **where))).to_dicts()
    assert mean["trainings"] == trainings and (mean["low"], mean["high"]) == wilson(1, 4)


def test_trainings_that_agree_on_nothing_but_zeros_keep_their_seeds_interval():
    (mean,) = over_seeds(table(*(counted(seed, 0, 9, alignment="dpo") for seed in (0, 1)))).to_dicts()
    assert (mean["low"], mean["high"]) == pytest.approx(wilson(0, 9))


def test_intervals_over_trainings_cover():
    """Rates of other trainings on other scenarios: of 300 studies with three trainings at least 93 % cover the mean."""
    rng = np.random.default_rng(0)
    others = rng.normal(size=(2, 100_000))
    for deviation in (0.06, 0.56):  # in log-odds: of random selection, and of best-of-n
        truth = expit(-1.4 + 0.7 * others[0] + deviation * others[1]).mean()
        rows = []
        for study in range(300):
            log_odds = -1.4 + rng.normal(0, 0.7, 64) + rng.normal(0, deviation, (3, 1))
            for seed, k in enumerate(rng.binomial(4, expit(log_odds))):
                rate, half = k.mean() / 4, 1.96 * (k / 4).std(ddof=1) / 8
                rows.append(row(seed, rate, rate - half, rate + half, variant=str(study), alignment="dpo"))
        means = over_seeds(table(*rows))
        assert means.select(pl.lit(truth).is_between("low", "high").mean()).item() >= 0.93


def test_each_cell_has_its_own_number_of_seeds():
    rows = [counted(seed, 1, 4) for seed in (0, 1, 2)] + [counted(0, 1, 4, alignment="dpo")]
    means = over_seeds(table(*rows)).to_dicts()
    assert [(mean["seeds"], mean["planned"], mean["of"]) for mean in means] == [(3, 3, 3), (1, 1, 3)]


def test_a_seed_without_a_value_is_counted_and_drags_nothing():
    means = over_seeds(table(counted(0, 1, 4), counted(1, 0, 0, method="none"), counted(2, 3, 4)))
    (mean,) = means.to_dicts()
    assert (mean["value"], mean["k"], mean["n"]) == (0.5, 4, 8)
    assert (mean["seeds"], mean["of"]) == (2, 3)
    assert (mean["least"], mean["most"]) == (0.25, 0.75)
    alone = over_seeds(table(counted(0, 1, 4), counted(1, 0, 4, variant="other"))).to_dicts()
    assert [(one["seeds"], one["of"], one["deviation"]) for one in alone] == [(1, 2, None)] * 2
    (nothing,) = over_seeds(table(counted(0, 0, 0), counted(1, 0, 0))).to_dicts()
    assert [nothing[name] for name in ("value", "low", "high", "least", "most", "deviation")] == [None] * 6
    assert (nothing["n"], nothing["seeds"], nothing["of"]) == (0, 0, 2)


def test_means_have_no_k_and_an_interval_where_every_seed_has_one():
    (mean,) = over_seeds(table(row(0, 2.0, None, None, k=None), row(1, 4.0, 3.0, 5.5, k=None))).to_dicts()
    assert (mean["value"], mean["k"], mean["n"]) == (3.0, None, 8)
    assert (mean["low"], mean["high"]) == (None, None)


def test_all_keys_except_the_seed_separate_rows():
    rows = [
        counted(seed, seed, 4, round=round, condition=condition)
        for seed in (0, 1)
        for round in (2, 1)
        for condition in ("baseline", "b")
    ]
    means = over_seeds(table(*rows))
    keys = [(2, "baseline"), (2, "b"), (1, "baseline"), (1, "b")]
    assert list(means.select("round", "condition").iter_rows()) == keys
    assert means["value"].to_list() == [0.125] * 4
    assert over_seeds(table()).is_empty()


counts = st.integers(1, 50).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts, st.integers(0, 9))
def test_one_seed_stays_as_it_is(count, seed):
    before = table(counted(seed, *count))
    after = over_seeds(before)
    assert after.select(before.drop(SEED).columns).equals(before.drop(SEED))
    assert after.select("seeds", "of").row(0) == (1, 1)


@given(st.lists(counts, min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_any_counts(found, random):
    rows = [counted(seed, *count) for seed, count in enumerate(found)]
    mean = over_seeds(table(*rows)).row(0, named=True)
    assert (mean["k"], mean["n"]) == tuple(map(sum, zip(*found, strict=True)))
    slack = 1e-9
    assert -slack <= mean["low"] <= mean["value"] + slack and mean["value"] - slack <= mean["high"] <= 1 + slack
    assert mean["least"] - slack <= mean["value"] <= mean["most"] + slack
    # The largest standard deviation of numbers so far apart is that of halves at both ends.
    assert mean["deviation"] <= (mean["most"] - mean["least"]) * (len(found) / (len(found) - 1)) ** 0.5 / 2 + slack
    widths = [each["high"] - each["low"] for each in rows]
    assert mean["high"] - mean["low"] == pytest.approx(sum(widths) / len(widths))
    random.shuffle(rows)
    again = over_seeds(table(*rows)).row(0, named=True)
    assert {key: again[key] for key in ("k", "n", "least", "most", "seeds", "of", "method")} == {
        key: mean[key] for key in ("k", "n", "least", "most", "seeds", "of", "method")
    }
    assert again["deviation"] == pytest.approx(mean["deviation"])
