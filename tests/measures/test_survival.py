"""Times to an event: a table by hand, and groups of which some never reach it."""

import numpy as np
import pytest

from atp.measures.survival import kaplan_meier, median, restricted_mean


def test_a_table_by_hand():
    """Events in rounds 1, 2, 2 and 4; observed without it until rounds 2, 3, 5 and 5: at risk are 8, 7, 4, 3 and 2."""
    times = np.array([1, 2, 2, 4, 2, 3, 5, 5])
    reached = np.array([True, True, True, True, False, False, False, False])
    rounds, survival = kaplan_meier(times, reached)
    assert rounds.tolist() == [1, 2, 3, 4, 5]
    half = 7 / 8 * 5 / 7
    assert survival == pytest.approx([7 / 8, half, half, half * 2 / 3, half * 2 / 3])
    area = restricted_mean(times, reached, np.arange(8))
    assert area.value == pytest.approx(1 + 7 / 8 + 2 * half + half * 2 / 3)
    assert area.low < area.value < area.high


def test_the_slower_group_is_the_one_that_rarely_gets_there():
    """The mean of those that reach it, 2.6 and 2.0, has the reverse order."""
    fast = np.array([2] * 4 + [3] * 6 + [3] * 4), np.array([True] * 10 + [False] * 4)
    slow = np.array([2] + [3] * 13), np.array([True] + [False] * 13)
    games = np.arange(14)
    assert restricted_mean(*fast, games).value == pytest.approx(2 + 10 / 14)
    assert restricted_mean(*slow, games).value == pytest.approx(2 + 13 / 14)
    assert median(*fast, games).value == 3
    assert (median(*slow, games).value, median(*slow, games).method) == (None, "none: half do not reach it")


def test_a_median_has_an_interval_of_rounds():
    times = np.array([1] * 10 + [2] * 8 + [3] * 12 + [6] * 10)
    found = median(times, times < 6, np.arange(40))
    assert (found.low, found.value, found.high) == (2, 3, 3)
    assert median(np.full(40, 3), np.zeros(40, bool), np.arange(40)).low is None
