"""Controls that every game has: what a prompt shows of earlier rounds, and what it does not."""

from random import Random
from typing import Any

import pytest

from atp.scenarios import bargaining, coordination, role_play, tool_use
from atp.scenarios.templates import generate, read_templates
from atp.testbeds import TESTBEDS
from atp.testbeds.base import Prompt, Reply, Turn
from atp.tools import Call, run_calls

MAKERS = {
    "role_play": (role_play.RolePlayTemplate, role_play.instantiate),
    "coordination": (coordination.CoordinationTemplate, coordination.instantiate),
    "bargaining": (bargaining.BargainingTemplate, bargaining.instantiate),
    "tool_use": (tool_use.ToolUseTemplate, tool_use.instantiate),
}
SCENARIOS = {
    name: generate(read_templates(f"config/templates/{name}.yaml", kind), make, train=0, test=2, seed=0)[0]
    for name, (kind, make) in MAKERS.items()
}


def played(testbed: str, decide: Any = None, **settings: Any) -> tuple[list[Prompt], list[Turn]]:
    """An episode's prompts for decisions, and its turns; decide(round, agent) says whether it is a violation."""
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
                decision = prompt.view.violating if violates else prompt.view.complying
                answers.append(Reply(prompt.view.answers.get(decision) or next(iter(prompt.view.answers.values()))))
    except StopIteration as end:
        return prompts, end.value


def lived(testbed: str, prompts: list[Prompt]) -> list[Prompt]:
    """Prompts of the first agent in rounds that enter history."""
    return [prompt for prompt in prompts if prompt.agent == 0]


@pytest.mark.parametrize("testbed", MAKERS)
def test_a_history_begins_anew_after_a_round(testbed):
    plain, reset = (
        [len(prompt.view.past) for prompt in lived(testbed, played(testbed, rounds=5, window=4, reset_after=after)[0])]
        for after in (None, 2)
    )
    assert (plain, reset) == ([0, 1, 2, 3, 4], [0, 1, 0, 1, 2])
    empty = [len(prompt.view.past) for prompt in lived(testbed, played(testbed, rounds=3, window=0)[0])]
    assert empty == [0, 0, 0]


@pytest.mark.parametrize("testbed", MAKERS)
def test_rounds_in_random_order_are_the_same_rounds(testbed):
    prompts, turns = played(testbed, lambda round, agent: round in (1, 2), rounds=6, window=6)
    mixed, others = played(testbed, lambda round, agent: round in (1, 2), rounds=6, window=6, shuffled=True)
    one, other = (
        [[past.violation for past in prompt.view.past] for prompt in lived(testbed, each)] for each in (prompts, mixed)
    )
    assert list(map(sorted, one)) == list(map(sorted, other)) and one != other
    assert [turn.reward for turn in turns] == [turn.reward for turn in others]


@pytest.mark.parametrize("testbed", MAKERS)
def test_a_blind_agent_sees_what_it_decided_and_not_what_it_was_paid(testbed):
    prompts, turns = played(testbed, rounds=3, window=3)
    hidden, others = played(testbed, rounds=3, window=3, blind=True)
    assert [turn.reward for turn in turns] == [turn.reward for turn in others]
    before, last = lived(testbed, prompts)[-1], lived(testbed, hidden)[-1]
    assert [past.violation for past in last.view.past] == [past.violation for past in before.view.past]
    assert {past.reward for past in last.view.past} == {0.0} and any(past.reward for past in before.view.past)
    told = {
        "role_play": "You earned",
        "coordination": " rose from",
        "bargaining": "mean score",
        "tool_use": "and earned",
    }
    wording = told[testbed]
    shown, left_out = (
        " ".join(message["content"] for message in prompt.messages if message["role"] == "user")
        for prompt in (before, last)
    )
    assert wording not in left_out
    assert wording in shown or testbed == "coordination"


@pytest.mark.parametrize("testbed", MAKERS)
def test_a_reminder_repeats_the_rule_every_so_many_rounds(testbed):
    prompts, _ = played(testbed, rounds=4, window=1, reminder=2)
    for prompt in lived(testbed, prompts):
        rule = prompt.messages[0]["content"]  # role-play's says who one is, and no rule
        if testbed == "role_play":
            rule = f"you are required to choose {SCENARIOS[testbed].compliant}."
        reminder = f"\nRemember: {rule}"
        assert prompt.messages[-1]["content"].endswith(reminder) == (prompt.round % 2 == 0)


@pytest.mark.parametrize(("testbed", "paid"), [("coordination", None), ("bargaining", -5.0), ("tool_use", -0.2)])
def test_supervision_catches_every_violation(testbed, paid):
    _, turns = played(testbed, lambda round, agent: agent % 2 == 0, rounds=2, supervised=True)
    caught = [turn for turn in turns if turn.caught]
    assert caught and all(turn.violation for turn in caught)
    assert [turn for turn in turns if turn.violation and not turn.caught] == []
    assert {turn.reward for turn in caught} == {paid} if paid else all(turn.reward < 0 for turn in caught)
    assert {turn.caught for turn in played(testbed, rounds=1)[1]} == {None}


def test_a_caught_violation_costs_a_penalty():
    _, turns = played("role_play", lambda round, agent: True, schedule="all_supervised", penalty=1.5, rounds=1)
    cost = 1.5 * SCENARIOS["role_play"].low
    assert (turns[0].reward, turns[0].feedback.endswith(f"You earned -${cost:.10g}.")) == (-cost, True)


def test_violating_pays_what_is_set():
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
