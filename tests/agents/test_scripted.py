"""Scripted policies, with decisions calculated by hand."""

from random import Random
from typing import Any

import pytest

from atp.agents.base import Request
from atp.agents.load import load_agent
from atp.errors import AtpError
from atp.testbed import Observation, PastRound, Prompt
from atp.testbeds.role_play.game import RolePlaySettings, play
from atp.testbeds.role_play.scenarios import RolePlayScenario


def decisions(scenario: RolePlayScenario, spec: str, **settings: Any) -> str:
    """Return the decisions of one episode as the game scores them: one letter a round, v(iolate) or c(omply)."""
    agent = load_agent(f"scripted:{spec}", None)
    game = play(scenario, RolePlaySettings(**settings), Random(0))
    (prompt,) = next(game)
    while True:
        try:
            (prompt,) = game.send(agent.answer([Request(0, prompt, seed=prompt.round)]))
        except StopIteration as end:
            return "".join(turn.decision[0] for turn in end.value)


def violations(spec: str, past: tuple[PastRound, ...], n: int) -> int:
    """Return how often a policy violates after `past`, over n seeds."""
    observation = Observation(answers={"comply": "A", "violate": "B"}, violating="violate", history=past)
    agent = load_agent(f"scripted:{spec}", None)
    replies = agent.answer([Request(0, Prompt(0, 1, [], observation), seed) for seed in range(n)])
    again = [agent.answer([Request(7, Prompt(0, 1, [], observation), seed)])[0] for seed in range(20)]
    assert again == replies[:20]  # a reply depends only on its seed, not on the rest of the batch
    return sum(reply.text == "B" for reply in replies)


def test_policies_play_role_play(scenario):
    assert decisions(scenario, "comply", rounds=4) == "cccc"
    assert decisions(scenario, "violate", rounds=4, schedule="all_supervised") == "vvvv"
    assert decisions(scenario, "random:1", rounds=4) == "vvvv"
    assert decisions(scenario, "random:0", rounds=4) == "cccc"


def test_win_stay_lose_shift(scenario):
    # It violates, is caught in round 1, complies, and complying always pays.
    assert decisions(scenario, "win_stay_lose_shift", schedule="alternating", rounds=6) == "vccccc"
    # Never caught until round 4.
    assert decisions(scenario, "win_stay_lose_shift", schedule="last_supervised", rounds=4) == "vvvv"
    assert decisions(scenario, "win_stay_lose_shift", schedule="all_unsupervised", rounds=4) == "vvvv"
    # Without memory every round is like the first.
    assert decisions(scenario, "win_stay_lose_shift", schedule="alternating", rounds=4, window=0) == "vvvv"
    # Nothing pays, so it alternates.
    unpaid = RolePlayScenario(**{**vars(scenario), "low": 0.0})
    assert decisions(unpaid, "win_stay_lose_shift", schedule="all_supervised", rounds=5) == "vcvcv"


def test_random_violates_at_its_rate():
    # n = 4,000: 4 standard deviations are 116 at p = 0.3 and 126 at p = 0.5; the history has no effect.
    assert 1084 <= violations("random:0.3", (), 4000) <= 1316
    assert violations("random:0.3", (PastRound("violate", True, 5.0),), 4000) == violations("random:0.3", (), 4000)
    assert 1874 <= violations("random", (), 4000) <= 2126


@pytest.mark.parametrize(
    ("spec", "past", "probability"),
    [
        # Means 4 and 2, relative to the largest reward 1 and 0.5: softmax of a gap of 0.5 / 0.5 = 1 is 1 / (1 + 1/e).
        ("bandit:0.5", [("violate", 4.0), ("comply", 2.0)], 0.7311),
        # The same in another currency.
        ("bandit:0.5", [("violate", 400.0), ("comply", 200.0)], 0.7311),
        # Violating earned (4 + 0) / 2 = 2, complying 2: a tie.
        ("bandit:0.5", [("violate", 4.0), ("violate", 0.0), ("comply", 2.0)], 0.5),
        # A decision without a reward counts as the mean of all rewards.
        ("bandit", [], 0.5),
        ("bandit", [("comply", 2.0)], 0.5),
        # Caught, and paid for obeying, at temperature 0.1: a gap of -10, a probability below 1/10,000.
        ("bandit", [("violate", 0.0), ("comply", 2.0)], 0.0),
        # Invalid replies do not count: (3 - 1) / 3 / 2 = 1/3, and 1 / (1 + exp(-1/3)) is 0.5826.
        ("bandit:2", [("violate", 3.0), ("invalid", 0.0), ("comply", 1.0)], 0.5826),
        ("bandit:1e-9", [("violate", 0.0), ("comply", 2.0)], 0.0),  # no overflow
        ("bandit:1e-9", [("violate", 2.0), ("comply", 0.0)], 1.0),
    ],
)
def test_bandit_violates_with_the_softmax_of_what_it_earned(spec, past, probability):
    known = {"violate": True, "comply": False, "invalid": None}
    k = violations(spec, tuple(PastRound(decision, known[decision], reward) for decision, reward in past), 4000)
    four_deviations = 4 * (4000 * probability * (1 - probability)) ** 0.5
    assert abs(k - 4000 * probability) <= max(four_deviations, 2)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("win_stay", "unknown policy 'win_stay', known are comply, violate, random, win_stay_lose_shift, bandit"),
        ("", "unknown policy ''"),
        ("random:2", "p is 2, must be between 0 and 1"),
        ("random:nan", "p is nan, must be between 0 and 1"),
        ("random:often", "'often' is not a parameter of policy 'random'"),
        ("random:0.1:0.2", "'0.1:0.2' is not a parameter of policy 'random'"),
        ("comply:1", "'1' is not a parameter of policy 'comply'"),
        ("bandit:0", "temperature is 0, must be above 0"),
    ],
)
def test_a_wrong_policy_is_one_line(spec, message):
    with pytest.raises(AtpError) as caught:
        load_agent(f"scripted:{spec}", None)
    line = str(caught.value)
    assert line.startswith("agent scripted:") and message in line and "\n" not in line


def test_a_scripted_policy_takes_no_adapter(tmp_path):
    with pytest.raises(AtpError, match="agent scripted:comply: has no weights, so it takes no adapter"):
        load_agent("scripted:comply", None, tmp_path)
