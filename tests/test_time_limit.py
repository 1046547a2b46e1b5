"""Calls of functions in a helper process."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from atp.errors import AtpError
from atp.time_limit import time_limited

power = time_limited(pow, 2, 3)


def test_a_call_that_takes_too_long_ends_and_the_next_one_runs():
    assert power(2, 10) == 1024
    assert power(9, 10**9) is None  # one operation in C, which no handler of a signal interrupts
    assert power(2, 11) == 2048
    assert power(0, -1) is None  # an exception
    assert power(2, 12) == 4096


def test_threads_and_forks_get_their_own_results():
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda n: power(2, n), range(200))) == [2**n for n in range(200)]
    if not (fork := os.fork()):
        os._exit(0 if [power(3, n) for n in range(50)] == [3**n for n in range(50)] else 1)
    assert [power(2, n) for n in range(50)] == [2**n for n in range(50)]
    assert os.waitpid(fork, 0)[1] == 0


def test_a_helper_that_cannot_start_is_one_line():
    with pytest.raises(AtpError, match=r"the helper process of posix._exit ended with status 3; .* is printed above$"):
        time_limited(os._exit, 3)()
