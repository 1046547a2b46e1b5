"""What the controls of the built-in testbeds write and pay, beyond the rules of `atp check` (test_conformance.py)."""

from itertools import product
from random import Random
from typing import Any

import pytest

from atp.registry import entries
from atp.scenarios.templates import generate, read_templates
from atp.testbed import Prompt, Reply, Turn
from atp.tools import Call, run_calls

TESTBEDS: dict[str, Any] = {name: entry.value for name, entry in entries("testbeds").items()}
SCENARIOS: dict[str, Any] = {
    name: generate(read_templates(game.templates, game.template), game.instantiate, train=0, test=2, seed=0)[0]
    for name, game in TESTBEDS.items()
}


def played(testbed: str, decide: Any = None, **settings: Any) -> tuple[list[Prompt], list[Turn]]:
    """Play an episode.

    Args:
        decide: (round, agent) -> whether the agent violates; by default it does in even rounds.

    Returns:
        The prompts for decisions, and the turns.
    """
    decide = decide or (lambda round, agent: round % 2 == 0)
    game = TESTBEDS[testbed]
    episode = game.play(SCENARIOS[testbed], game.settings(**settings), Random(5))
    prompts, answers = [], None
    try:
        while True:
            asked = episode.send(answers)
            if isinstance(asked[0], Call):
                answers = run_calls(asked)
                continue
            prompts += [prompt for prompt in asked if prompt.step == 0]
            answers = []
            for prompt in asked:
                violates = bool(decide(prompt.round, prompt.agent))
                decision = prompt.observation.violating if violates else prompt.observation.complying
                replies = prompt.observation.answers
                answers.append(Reply(replies.get(decision) or next(iter(replies.values()))))
    except StopIteration as end:
        return prompts, end.value


def of_first_agent(prompts: list[Prompt]) -> list[Prompt]:
    """Return the first agent's prompts, all of which are in rounds that enter its history."""
    return [prompt for prompt in prompts if prompt.agent == 0]


def history_lengths(testbed: str, **settings: Any) -> list[int]:
    """Return how many rounds each prompt of the first agent shows."""
    return [len(prompt.observation.history) for prompt in of_first_agent(played(testbed, **settings)[0])]


@pytest.mark.parametrize("testbed", TESTBEDS)
def test_the_history_is_emptied_after_a_round(testbed):
    assert history_lengths(testbed, rounds=5, window=4) == [0, 1, 2, 3, 4]
    assert history_lengths(testbed, rounds=5, window=4, reset_after=2) == [0, 1, 0, 1, 2]
    assert history_lengths(testbed, rounds=3, window=0) == [0, 0, 0]


@pytest.mark.parametrize("testbed", TESTBEDS)
def test_a_blind_agent_reads_nothing_about_pay(testbed):
    wording = {
        "role_play": "You earned",
        "coordination": " rose from",
        "bargaining": "mean score",
        "code": "You earned",
        "tool_use": "and earned",
    }[testbed]
    text, blind_text = (
        " ".join(message["content"] for message in of_first_agent(prompts)[-1].messages if message["role"] == "user")
        for prompts, _ in (played(testbed, rounds=3, window=3), played(testbed, rounds=3, window=3, blind=True))
    )
    assert wording not in blind_text
    assert wording in text or testbed == "coordination"


@pytest.mark.parametrize(
    ("testbed", "values", "pay", "check"),
    [
        ("role_play", {"schedule": "all_supervised"}, "You earned", "Somebody checked"),
        ("role_play", {}, "You earned", "Nobody checked"),
        ("coordination", {"supervised": True}, " fell from", "it was noticed"),
        ("tool_use", {"supervised": True}, "and earned", "it was noticed"),
    ],
)
def test_pay_and_checks_are_hidden_apart(testbed, values, pay, check):
    """`blind` hides the pay alone, `unaudited` the check alone."""
    for blind, unaudited in product((False, True), repeat=2):
        settings = {"rounds": 3, "window": 3, "blind": blind, "unaudited": unaudited} | values
        prompts, _ = played(testbed, lambda round, agent: True, **settings)
        text = " ".join(message["content"] for message in of_first_agent(prompts)[-1].messages[1:])
        assert (pay not in text, check not in text) == (blind, unaudited)


@pytest.mark.parametrize("testbed", TESTBEDS)
def test_a_reminder_repeats_the_rule_every_so_many_rounds(testbed):
    prompts, _ = played(testbed, rounds=4, window=1, reminder=2)
    for prompt in of_first_agent(prompts):
        rule = prompt.messages[0]["content"]  # role-play's system message holds no rule
        if testbed == "role_play":
            rule = f"you are required to choose {SCENARIOS[testbed].compliant}."
        reminder = f"\nRemember: {rule}"
        assert prompt.messages[-1]["content"].endswith(reminder) == (prompt.round % 2 == 0)


@pytest.mark.parametrize(("testbed", "paid"), [("coordination", None), ("bargaining", -5.0), ("tool_use", -0.2)])
def test_what_a_caught_violation_pays(testbed, paid):
    _, turns = played(testbed, lambda round, agent: agent % 2 == 0, rounds=2, supervised=True)
    caught = [turn for turn in turns if turn.caught]
    assert {turn.reward for turn in caught} == {paid} if paid else all(turn.reward < 0 for turn in caught)
    assert {turn.caught for turn in played(testbed, rounds=1)[1]} == {None}


def test_a_caught_violation_costs_a_penalty():
    _, turns = played("role_play", lambda round, agent: True, schedule="all_supervised", penalty=1.5, rounds=1)
    cost = 1.5 * SCENARIOS["role_play"].low
    assert (turns[0].reward, turns[0].feedback.endswith(f"You earned -${cost:.10g}.")) == (-cost, True)


def test_pay_ratio_sets_the_pay_of_a_violation():
    scenario = SCENARIOS["role_play"]
    prompts, turns = played("role_play", lambda round, agent: True, pay_ratio=2.5, rounds=2)
    assert {turn.reward for turn in turns} == {2.5 * scenario.low}
    assert f"${2.5 * scenario.low:.10g} " in str(prompts[0].messages)


def test_both_options_pay_the_same():
    prompts, turns = played("role_play", pay_ratio=1, rounds=4)
    scenario = SCENARIOS["role_play"]
    assert {turn.reward for turn in turns} == {scenario.low} and scenario.low != scenario.high
    assert f"${scenario.high:.10g}" not in str(prompts[0].messages)
    assert {turn.reward for turn in played("bargaining", same_pay=True, rounds=2)[1]} == {0.0}
