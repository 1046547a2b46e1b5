"""Neutral histories: as long and in the same format, without anything of the agent's own rounds."""

import json
from random import Random
from typing import Any

import pytest

from atp.registry import find_testbed
from atp.rollout.branching import Reply
from atp.scenarios.neutral import ShownRound, neutral_round
from atp.scenarios.templates import generate, read_templates
from atp.testbed import Prompt


def prompts(testbed: str, **settings: Any) -> list[Prompt]:
    """Return the first player's prompts of an episode in which all violate in even rounds."""
    kind = find_testbed(testbed)
    scenario = generate(read_templates(kind.templates, kind.template), kind.instantiate, 0, 1, 0)[0]
    game = kind.play(scenario, kind.settings(rounds=5, window=4, **settings), Random(0))
    shown, answers = [], None
    try:
        while True:
            asked = game.send(answers)
            shown.append(asked[0])
            facts = [(prompt.observation, prompt.round % 2) for prompt in asked]
            answers = [Reply(each.answers[each.complying if odd else each.violating]) for each, odd in facts]
    except StopIteration:
        return shown


@pytest.mark.parametrize("testbed", ["role_play", "coordination"])
def test_only_the_history_is_replaced(testbed):
    own, neutral = prompts(testbed), prompts(testbed, neutral=True)
    assert own[0].messages == neutral[0].messages
    question = own[0].messages[-1]["content"]
    kind = find_testbed(testbed)
    labels = [json.loads(answer)["choice"] for answer in own[0].observation.answers.values()]
    for one, other in zip(own[1:], neutral[1:], strict=True):
        assert [each["role"] for each in one.messages] == [each["role"] for each in other.messages]
        assert other.messages[-1]["content"].endswith(question) and other.observation.history == ()
        assert other.messages[0] == one.messages[0]
        history = " ".join(each["content"] for each in other.messages[1:]).removesuffix(question)
        assert not any(label in history for label in labels) and "$" not in history
        lengths = [len(" ".join(each["content"] for each in shown.messages).split()) for shown in (one, other)]
        assert lengths[1] == pytest.approx(lengths[0], rel=0.35)
    assert kind.controls["neutral"] == {"neutral": True}


def test_a_neutral_round_is_as_long_as_the_own_one():
    for number in range(12):
        own = ShownRound("word " * 90, "word " * 200, "word " * 40)
        lengths = [len(text.split()) for text in neutral_round(number, own)]
        assert lengths == pytest.approx([90, 200, 40], abs=5)
    one, other = (neutral_round(number, ShownRound("", "", "")) for number in (1, 7))
    assert one == other and '{"choice": "canyon"}' in one.question and one.reply == '{"choice": "canyon"}'
