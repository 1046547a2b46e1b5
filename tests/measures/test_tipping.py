"""Tipping measures: arithmetic by hand, series with a known answer, and properties that hold for all counts."""

from math import exp, log, sqrt

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import isotonic_regression, minimize
from scipy.special import expit, logit
from scipy.stats import t

from atp.errors import AtpError
from atp.measures.coverage import CASES, DESIGNS, case_row, share_coverage
from atp.measures.power import LADDER, false_alarms, power_table, print_coverage, print_power, scenarios_needed
from atp.measures.shapes import Counts, count, flipped, likelihood, redrawn, rising, step, trend
from atp.measures.simulate import TRUTHS, Design, simulate, true_rates
from atp.measures.slope import drift_slope
from atp.measures.tipping import (
    ABRUPT,
    CHANGE,
    DRIFT,
    FLAT,
    RECOVERY,
    UNDECIDED,
    VERDICTS,
    change,
    change_point,
    detectable_change,
    sharpness,
    time_to_half_change,
    time_to_half_rate,
    verdict,
)
from atp.measures.tipping_series import series_measures

#: Hits of 12 clusters, 4 replies each, at rounds 1 to 5.
HITS = np.array(
    [
        [0, 1, 1, 2, 3],
        [1, 0, 2, 2, 4],
        [0, 0, 0, 1, 1],
        [2, 1, 3, 4, 4],
        [0, 1, 2, 1, 3],
        [1, 1, 1, 3, 2],
        [0, 0, 1, 0, 2],
        [0, 2, 2, 3, 4],
        [1, 0, 0, 2, 3],
        [0, 0, 1, 1, 0],
        [3, 2, 4, 3, 4],
        [0, 1, 0, 2, 2],
    ]
)


def of(hits: np.ndarray, each: int = 4) -> Counts:
    return count(hits, np.full_like(hits, each), np.arange(1, hits.shape[1] + 1))


def series(*rates: float, clusters: int = 40, each: int = 10) -> Counts:
    """Return clusters whose counts are one above or below the average, with these rates over all."""
    level = np.round(np.array(rates) * each)
    apart = np.where(np.arange(clusters)[:, None] % 2, 1, -1) * ((level > 0) & (level < each))
    return of(level + apart, each)


def simulated(truth: str, seed: int, clusters: int = 64, **settings: float) -> Counts:
    design = Design(**settings)
    return simulate(true_rates(truth, design), clusters, design, np.random.default_rng(seed))


def test_counts_leave_out_what_has_none():
    counts = count([[1, 0, 0], [0, 0, 0], [2, 0, 1]], [[2, 0, 2], [0, 0, 0], [2, 0, 2]], [1, 2, 5])
    assert counts.shape == (2, 2)
    assert counts.positions.tolist() == [1, 5]
    assert counts.rates.tolist() == [0.75, 0.25]


@pytest.mark.parametrize(
    ("hits", "totals", "positions"),
    [([[2]], [[1]], [1]), ([[-1]], [[1]], [1]), ([[1]], [[1, 1]], [1]), ([[1, 1]], [[1, 1]], [2, 1])],
)
def test_counts_that_cannot_be(hits, totals, positions):
    with pytest.raises(ValueError, match="hits"):
        count(hits, totals, positions)


def test_drift_slope_is_that_of_statsmodels():
    """The slope is 0.62071052 by GLM(Binomial) of statsmodels 0.15.0 on single replies. The interval is from the slopes
    without each cluster in turn and Student's t with as many degrees of freedom as clusters carry their variance.
    """
    found = drift_slope(of(HITS))
    assert found.value == pytest.approx(1.86024932, rel=1e-6)
    without = [log(drift_slope(of(np.delete(HITS, row, axis=0))).value) for row in range(len(HITS))]
    changes = np.array(without) - log(found.value)
    carrying = (changes**2).sum() ** 2 / (changes**4).sum()
    wide = t.ppf(0.975, carrying) * sqrt(11 / 12 * (changes**2).sum())
    assert (found.low, found.high) == pytest.approx((found.value / exp(wide), found.value * exp(wide)), rel=1e-5)


def test_one_changing_scenario_shows_no_trend():
    hits = np.zeros((64, 6), int)
    hits[0, 3:] = 4
    found = drift_slope(of(hits))
    assert found.low < 1 < found.high


def test_a_step_by_hand():
    fitted, first = step(np.array([0.2, 0.4, 0.7, 0.9]), np.array([10.0, 10, 10, 30]))
    assert first == 2
    assert fitted == pytest.approx([0.3, 0.3, (7 + 27) / 40, (7 + 27) / 40])


def test_a_trend_of_two_points_goes_through_both():
    fitted, slope = trend(np.array([0.2, 0.7]), np.array([10.0, 30]), np.array([1.0, 3]))
    assert fitted == pytest.approx([0.2, 0.7])
    assert slope == pytest.approx((logit(0.7) - logit(0.2)) / 2)


def test_trends_maximise_the_likelihood():
    rng = np.random.default_rng(0)
    rates, weights = rng.beta(0.5, 0.5, size=(30, 5)), rng.integers(1, 99, size=5).astype(float)
    positions = np.array([0.0, 1, 2, 4, 7])
    found = likelihood(rates, trend(rates, weights, positions)[0], weights)
    for row, reached in zip(rates, found, strict=True):

        def loss(line, row=row):
            return -likelihood(row, np.clip(expit(line[0] + line[1] * positions), 1e-12, 1 - 1e-12), weights)

        assert reached >= -minimize(loss, [0, 0], method="Nelder-Mead").fun - 1e-3


def test_rising_is_isotonic_regression():
    rng = np.random.default_rng(0)
    rates, weights = rng.random((50, 6)), rng.integers(1, 9, size=6).astype(float)
    for row, found in zip(rates, rising(rates, weights), strict=True):
        assert found == pytest.approx(isotonic_regression(row, weights=weights).x)


def test_flips_and_draws_keep_clusters_whole():
    """Rounds that agree in every cluster agree in every resample."""
    counts = of(np.repeat(np.arange(5)[:, None], 3, axis=1))
    for rates in (redrawn(counts, 0, 99), flipped(counts, counts.rates, 0, 99)):
        assert (rates == rates[:, :1]).all()
        assert np.ptp(rates) > 0


def test_by_hand():
    counts = series(0.1, 0.2, 0.6, 0.7)
    assert counts.rates == pytest.approx([0.1, 0.2, 0.6, 0.7])
    assert change(counts).value == pytest.approx(0.6)
    assert sharpness(counts, 0).share.value == pytest.approx(0.4 / 0.6)
    assert time_to_half_change(counts, 0).value == pytest.approx(2.5)  # 0.4 is half-way from 0.2 to 0.6
    assert time_to_half_rate(counts, 0).value == pytest.approx(2.75)
    point = change_point(counts, 0)
    assert point.at.value == 3


def test_a_falling_series_has_the_same_times():
    counts = series(0.9, 0.8, 0.4, 0.3)
    assert sharpness(counts, 0).share.value == pytest.approx(0.4 / 0.6)
    assert time_to_half_change(counts, 0).value == pytest.approx(2.5)
    assert time_to_half_rate(counts, 0).value == 1  # it begins above 50 %


def test_six_clusters_that_all_rise():
    """In one of the 64 ways to flip six clusters all of them rise."""
    found = verdict(of(np.tile([0, 0, 1, 1], (6, 1)), 1), 0)
    assert found.p_rise == pytest.approx(1 / 64, abs=0.008)
    assert found.p_fall == pytest.approx(1, abs=1e-9)
    assert found.label == ABRUPT


def test_replies_of_a_cluster_count_less_than_independent_ones():
    """If all samples of a scenario agree, BIC and p-values are those of one sample."""
    alone = of((HITS > 1).astype(int), 1)
    same = of((HITS > 1).astype(int) * 4, 4)
    assert sharpness(same, 0).bic == pytest.approx(sharpness(alone, 0).bic)
    one, four = verdict(alone, 0), verdict(same, 0)
    assert (one.p_rise, one.p_fall, one.label) == (four.p_rise, four.p_fall, four.label)


@pytest.mark.parametrize(
    ("rates", "label"),
    [
        ((0.3, 0.3, 0.3, 0.3), FLAT),
        ((0.0, 0.0, 0.0), UNDECIDED),  # a fivefold rise could be hidden
        ((0.5, 0.5, 0.5, 0.5), FLAT),
        ((0.1, 0.2, 0.3, 0.5, 0.7, 0.8), DRIFT),
        ((0.8, 0.7, 0.5, 0.3, 0.2, 0.1), DRIFT),
        ((0.2, 0.2, 0.2, 0.7, 0.7, 0.7), ABRUPT),
        ((0.7, 0.7, 0.2, 0.2), ABRUPT),
        ((0.0, 0.0, 0.0, 1.0, 1.0), ABRUPT),  # a steep trend is equally likely
        ((0.2, 0.2, 0.7, 0.7, 0.3, 0.2), RECOVERY),
        ((0.7, 0.2, 0.2, 0.7), CHANGE),  # falls and rises again
        ((0.1, 0.9, 0.7, 0.7), CHANGE),  # does not fall back
        ((0.2, 0.7), CHANGE),  # fewer than four rounds have no shape
        ((0.2, 0.2, 0.7), CHANGE),
        ((0.2, 0.7, 0.2), CHANGE),
    ],
)
def test_simple_series(rates, label):
    assert verdict(series(*rates), 0).label == label


@pytest.mark.parametrize("truth", TRUTHS)
@pytest.mark.parametrize("first, last", [(0.2, 0.6), (0.6, 0.2), (0.05, 0.35)])
def test_series_with_a_known_answer(truth, first, last):
    labels = [
        verdict(simulated(truth, seed, 256, first=first, last=last), seed, resamples=299).label for seed in range(20)
    ]
    if truth == RECOVERY and first > last:
        assert labels.count(CHANGE) == 20
    else:
        assert labels.count(truth) >= (14 if truth == FLAT else 17)  # one in 10 flat series is undecided


def test_flat_series_raise_few_alarms():
    """Of 300 flat series of 16 scenarios with correlated samples, about 5 % or fewer get a verdict of change."""
    labels = [
        verdict(simulated(FLAT, seed, 16, alike=0.7, lasting=0.7), seed, resamples=199).label for seed in range(300)
    ]
    assert 300 - labels.count(FLAT) - labels.count(UNDECIDED) <= 23


def test_intervals_cover_as_often_as_they_say():
    design = Design()
    ratio = np.exp((logit(design.last) - logit(design.first)) / 5)
    covered = {"slope": 0, "break": 0, "time": 0, "sharpness": 0}
    for seed in range(60):
        drift, tip = simulated(DRIFT, seed), simulated(ABRUPT, seed)
        rates = true_rates(DRIFT, design)
        truths = {"slope": ratio, "break": 4, "time": np.interp(0.5, rates, range(1, 7)), "sharpness": 1}
        found = {
            "slope": drift_slope(drift),
            "break": change_point(tip, seed, 299).at,
            "time": time_to_half_rate(drift, seed, 299),
            "sharpness": sharpness(tip, seed, 299).share,
        }
        for name, interval in found.items():
            covered[name] += interval.low <= truths[name] <= (interval.high or 9)
    assert all(times >= 52 for times in covered.values()), covered


def test_a_missing_value_has_a_reason():
    assert drift_slope(series(0.0, 0.0)).method == "none: no spread"
    assert drift_slope(series(0.0, 1.0)).method == "none: no trend is steep enough"
    assert drift_slope(of(np.array([[1, 2]]))).method == "none: too few clusters"
    flat = series(0.3, 0.3, 0.3)
    assert (sharpness(flat, 0).share.method, sharpness(flat, 0).share.value) == ("none: no change shown", None)
    assert time_to_half_change(flat, 0).method == "none: no change shown"
    assert time_to_half_rate(flat, 0).method == "none: 50 % not reached"
    assert change_point(flat, 0).at.method == "none: no change shown"
    assert (change_point(series(0.2, 0.7), 0).p_step, sharpness(series(0.2, 0.7), 0).bic) == (None, None)


def test_a_series_that_almost_reaches_50_percent_has_one_bound():
    found = time_to_half_rate(of(HITS[:, :4]), 0)
    assert found.low is not None and found.high is None


POINTS = st.integers(0, 6)


@st.composite
def counted(draw) -> Counts:
    shape = draw(st.tuples(st.integers(0, 9), st.integers(1, 5)))
    totals = draw(arrays(int, shape, elements=st.integers(0, 4)))
    hits = np.minimum(totals, draw(arrays(int, shape, elements=st.integers(0, 4))))
    gaps = draw(arrays(int, shape[1], elements=st.integers(1, 3)))
    counts = count(hits, totals, np.cumsum(gaps))
    assume(counts.shape[1] > 1)
    return counts


@settings(max_examples=60, deadline=None)
@given(counted())
def test_any_counts(counts):
    found = verdict(counts, 0, resamples=49)
    assert found.label in VERDICTS
    assert found.p_rise is None or 0 < found.p_rise <= 1
    for name, value in series_measures(counts, found, 0).items():
        for bound in (value.value, value.low, value.high):
            assert bound is None or np.isfinite(bound), name
        if None not in (value.value, value.low, value.high):
            assert value.low <= value.value <= value.high, name


@settings(max_examples=15, deadline=None)
@given(counted(), st.randoms())
def test_the_order_of_clusters_does_not_matter(counts, random):
    order = random.sample(range(counts.shape[0]), counts.shape[0])
    other = count(counts.hits[order], counts.totals[order], counts.positions)
    assert verdict(counts, 0, resamples=99) == verdict(other, 0, resamples=99)
    assert drift_slope(counts) == drift_slope(other)


@pytest.mark.parametrize("truth", TRUTHS)
def test_invariances(truth):
    counts = simulated(truth, 1, 24)
    original = verdict(counts, 0, resamples=299)
    doubled = count(2 * counts.hits, 2 * counts.totals, counts.positions)
    assert verdict(doubled, 0, resamples=299).label == original.label
    assert drift_slope(doubled).high == pytest.approx(drift_slope(counts).high)
    later = count(counts.hits, counts.totals, 3 * counts.positions + 5)
    assert verdict(later, 0, resamples=299) == original
    assert drift_slope(later).value ** 3 == pytest.approx(drift_slope(counts).value)
    turned = count(counts.totals - counts.hits, counts.totals, counts.positions)
    assert drift_slope(turned).value == pytest.approx(1 / drift_slope(counts).value)
    if truth != RECOVERY:
        assert verdict(turned, 0, resamples=299).label == original.label


def test_simulated_rates_are_those_asked_for_and_samples_are_alike():
    design = Design(rounds=4, samples=2, alike=0.6, lasting=0.9)
    rates = true_rates(DRIFT, design)
    counts = simulate(rates, 20_000, design, np.random.default_rng(0))
    assert counts.rates == pytest.approx(rates, abs=0.01)
    both = (counts.hits == 2).mean(axis=0)
    assert (both > rates**2 + 0.04).all()
    first, second = (counts.hits[:, at] - counts.hits[:, at].mean() for at in (0, 1))
    assert (first * second).mean() > 0.1


def test_shapes_that_are_simulated():
    design = Design(0.2, 0.8)
    assert true_rates(ABRUPT, Design(0.2, 0.8, at=2)) == pytest.approx([0.2, 0.8, 0.8, 0.8, 0.8, 0.8])
    assert true_rates(RECOVERY, design) == pytest.approx([0.2, 0.2, 0.8, 0.8, 0.2, 0.2])
    assert np.diff(logit(true_rates(DRIFT, design)), 2) == pytest.approx(0)
    assert np.ptp(true_rates(FLAT, design)) == 0


@pytest.mark.parametrize(
    "wrong", [{"first": 0}, {"last": 1}, {"rounds": 3}, {"at": 1}, {"samples": 0}, {"alike": 1.5}, {"lasting": -1}]
)
def test_designs_that_cannot_be(wrong):
    with pytest.raises(AtpError):
        Design(**wrong)


def test_power_is_counted_and_reproducible():
    design = Design(samples=2)
    table = power_table(design, (16, 64), replicates=8)
    assert table.equals(power_table(design, (16, 64), replicates=8))
    assert table.height == 8
    for row in table.to_dicts():
        assert sum(row[label] for label in VERDICTS) == row["n"] == 8
        assert row["k"] == row[row["truth"]]
        assert row["low"] <= row["k"] / 8 <= row["high"]
        assert false_alarms(row) <= 8 - row["k"]


def test_the_number_needed_is_enough_and_less_is_not():
    design = Design(samples=2)
    found = scenarios_needed(ABRUPT, 0.8, design, replicates=10)
    assert found["k"][0] >= 8
    below = LADDER[LADDER.index(found["scenarios"][0]) - 1]
    assert power_table(design, (below,), replicates=10).filter(truth=ABRUPT)["k"][0] < 8
    assert len(scenarios_needed(FLAT, 0.5, Design(first=0.5, last=0.6, samples=1), replicates=2, bound=0.001)) == 0


def test_a_change_as_large_as_the_smallest_that_could_be_shown_is_shown():
    shown = 0
    for seed in range(60):
        flat = detectable_change(simulated(FLAT, seed))
        counts = simulated(DRIFT, seed, last=0.2 + flat)
        found = change(counts)
        shown += found.low > 0
    assert 40 <= shown <= 57  # 80 %


def test_coverage_on_a_terminal(capsys):
    print_coverage(replicates=4)
    printed = capsys.readouterr().out
    assert all(case.fault in printed for case in CASES)
    assert all(f"{scenarios} x {replies}" in printed for scenarios, replies in DESIGNS)
    with pytest.raises(AtpError, match="replicates"):
        print_coverage(replicates=0)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.fault)
def test_hard_cases_are_within_their_limits(case):
    """The limit lies within 1.7 times the 95 % interval: a 99.9 % interval, for more than thirty cases at once."""
    row = case_row(case, seed=1, replicates=40)
    sign, limit = case.limit.split()
    slack = 0.35 * (row["high"] - row["low"])
    assert row["high"] + slack >= float(limit) if sign == "≥" else row["low"] - slack <= float(limit)


def test_intervals_of_proportions_cover():
    found = share_coverage(samples=1000)
    assert found["coverage"].min() > 93 and found["too_low"].max() < 7


def test_power_on_a_terminal(capsys):
    print_power(Design(samples=2), (16,), replicates=4)
    printed = capsys.readouterr().out
    assert all(word.split()[0] in printed for word in (*VERDICTS, "4 simulated series", "alarms"))
    with pytest.raises(AtpError, match="power"):
        print_power(Design(), (16,), power=1.5)
    with pytest.raises(AtpError, match="scenarios"):
        print_power(Design(), (1,))
