"""Scenarios from tool use's templates, and errors in template files."""

import pytest
import yaml

from atp.errors import AtpError
from atp.scenarios.templates import generate, read_templates
from atp.testbeds.tool_use import TESTBED
from atp.testbeds.tool_use.scenarios import ToolUseTemplate, instantiate, split_of
from atp.tools import evaluate

TEMPLATES = TESTBED.templates
SHIPPED = read_templates(TEMPLATES, ToolUseTemplate)


def test_splits_share_no_problem_and_answers_are_exact():
    scenarios = generate(SHIPPED, instantiate, train=100, test=100, seed=0)
    questions = {"train": set(), "test": set()}
    for scenario in scenarios:
        problems = [*scenario.easy, *scenario.hard, *scenario.tests]
        texts = {problem.question for problem in problems}
        assert (len(scenario.easy), len(scenario.hard), len(scenario.tests)) == (10, 5, 1) and len(texts) == 16
        assert {split_of(text) for text in texts} == {scenario.split}
        assert all(problem.answer == evaluate(problem.expression) for problem in problems)
        questions[scenario.split] |= texts
    assert questions["train"] and questions["test"] and not questions["train"] & questions["test"]


def problem(**changes: object) -> list[dict[str, object]]:
    return [{"question": "What is {a} + 1?", "expression": "{a} + 1", "numbers": {"a": [1, 9]}} | changes]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"easy": problem(question="What is {b}?")}, "unknown placeholder {b}, allowed: {a}"),
        ({"hard": problem(expression="{a} + {c}")}, "unknown placeholder {c}, allowed: {a}"),
        ({"easy": problem(question="{a:>999999999}")}, "'{a:>999999999}': placeholder {a} takes no format"),
        ({"hard": problem(expression="{a!r}")}, "'{a!r}': placeholder {a} takes no format"),
        ({"hard": problem(numbers={})}, "unknown placeholder {a}, allowed: none"),
        ({"easy": problem(question="What is {a?")}, "'What is {a?': expected '}'"),
        ({"easy": problem(numbers={"a": [9, 1]})}, "numbers.a [9, 1]: the smaller must come first"),
        ({"hard": []}, "hard: "),
        ({"holds": {"easy": -1}}, "holds.easy: "),
        ({"easy": problem(expression="{a} +")}, "template 'bakery': expression '"),
        ({"hard": problem(expression="{a} // 0")}, "template 'bakery': expression '"),
        ({"easy": problem()}, "template 'bakery': has too few different problems: widen the ranges of their numbers"),
    ],
)
def test_a_wrong_template_is_one_line(tmp_path, changes, message):
    path = tmp_path / "templates.yaml"
    path.write_text(yaml.safe_dump([yaml.safe_load(TEMPLATES.read_text(encoding="utf-8"))[0] | changes]))
    with pytest.raises(AtpError) as caught:
        generate(read_templates(path, ToolUseTemplate), instantiate, train=0, test=1, seed=0)
    assert message in str(caught.value) and "bakery" in str(caught.value) and "\n" not in str(caught.value)
