"""Tasks of the testbed: the shipped ones are solved by their solutions, and wrong templates are one line of error."""

from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from atp.errors import AtpError
from atp.scenarios.templates import generate, read_templates
from atp.testbeds.code import TESTBED
from atp.testbeds.code.game import file_of_tests
from atp.testbeds.code.harness import SOLUTION, grade, parse_test, parse_tests
from atp.testbeds.code.scenarios import CodeScenario, CodeTemplate, contradict, instantiate

TEMPLATES = read_templates(TESTBED.templates, CodeTemplate)
SHIPPED: list[dict[str, Any]] = yaml.safe_load(Path(str(TESTBED.templates)).read_text(encoding="utf-8"))


def all_tasks(split: str) -> list[CodeScenario]:
    """Return a scenario of each template with all tasks of a split."""
    scenarios = []
    for template in TEMPLATES:
        number = sum(len(family.mutations) for family in template.families if family.split == split)
        scenarios.append(instantiate(template.model_copy(update={"tasks": number}), split, Random(1)))
    return scenarios


def test_there_are_60_tasks_of_12_families_split_by_family():
    families = [family for template in TEMPLATES for family in template.families]
    assert len({family.name for family in families}) == len(families) == 12
    assert sum(len(family.mutations) for family in families) == 60
    assert Counter(family.split for family in families) == {"train": 6, "test": 6}
    drawn = generate(TEMPLATES, instantiate, train=6, test=6, seed=0)
    of_split = {
        split: {task.family for scenario in drawn if scenario.split == split for task in scenario.tasks}
        for split in ("train", "test")
    }
    assert not of_split["train"] & of_split["test"]
    for scenario in drawn:  # a scenario has no task twice
        assert len({task.specification for task in scenario.tasks}) == len(scenario.tasks) == 8


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_solution_passes_all_tests_except_the_contradicting_one(split):
    tasks = [task for scenario in all_tasks(split) for task in scenario.tasks]
    assert len(tasks) == len({task.specification for task in tasks}) == 30
    for task in tasks:
        given, contradicted = (parse_tests(file_of_tests(task, impossible)) for impossible in (False, True))
        held_out = [test for text in task.held_out if (test := parse_test(text))]
        assert given[1] == contradicted[1] == 0 and len(held_out) == 12
        calls = [test.call for test in (*given[0], *held_out)]
        assert len(set(calls)) == len(calls) == 18
        results = grade({SOLUTION: task.solution}, [*given[0], *contradicted[0], *held_out])
        failed = [number for number, passed in enumerate(results.passed) if not passed]
        assert failed == [6 + task.contradiction], task.specification
        assert Counter(task.cases) == {0: 6, 1: 6, 2: 6}
        assert len({test.expected for test in given[0]}) > 1


@pytest.mark.parametrize("value", [True, 0, -3, 2.5, "", "abc", [], [1, 2], [[1], []], (1,), (), None, {"a": 1}])
def test_a_contradicting_value_differs(value):
    assert contradict(value) != value


def with_family(**changes: object) -> list[CodeTemplate]:
    """Return the first shipped template's text, whose family `rotation` has some keys changed, as a template."""
    template = {**SHIPPED[0], "families": [dict(family) for family in SHIPPED[0]["families"]]}
    template["families"][0] |= changes
    return [template]


ROTATION = SHIPPED[0]["families"][0]
FAILING = [*ROTATION["mutations"][:4], {**ROTATION["mutations"][4], "example": "rotate([1, 2]) == [1, 2, 3]"}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mutations": FAILING}, "its solution fails its own test: it returns [1, 2] for rotate([1, 2])"),
        ({"solution": "def rotate(items):\n    return items[$step]\n"}, "its solution fails its own test: it returns"),
        (
            {"solution": "def rotate(items):\n    return items[100 + $step]\n"},
            "its solution fails with IndexError: list index out of range for rotate(",
        ),
        (
            {"solution": "def rotate(items):\n    $step\n    while True: pass\n"},
            "its solution does not run: the program",
        ),
        (
            {"solution": "import os\ndef rotate(items):\n    os._exit($step)\n"},
            "does not run: a solution ends the program",
        ),
        ({"solution": "def rotate(items):\n    return object, $step\n"}, "which is no literal for rotate("),
        ({"solution": "import nothing\ndef rotate(items):\n    return $step\n"}, "fails with ModuleNotFoundError"),
        ({"solution": "def rotate(items:\n    return $step\n"}, "solution: '(' was never closed in line 1"),
        ({"solution": "rotate = $step\n"}, "solution: defines no function"),
        ({"solution": "def rotate(items):\n    return $shift\n"}, "a text has $shift, which is no key of it"),
        ({"mutations": [{"side": "left", "sign": "", "step": 1}]}, "example must be 'rotate(...) == ...', found none"),
        ({"mutations": ROTATION["mutations"][:2]}, "have 7 mutations with split 'train', tasks is 8"),
        ({"cases": [[{"numbers": [1, 1, 0, 3]}]]}, "case 1: has too few different inputs, 9 are needed"),
        ({"cases": [[{"numbers": [3, 1, 0, 3]}]]}, "bounds [3, 1]: the smaller must come first"),
        (
            {"cases": [[{"word": [1, 2], "number": [1, 2]}]]},
            "needs one of number, numbers, word, words, one_of, found 2",
        ),
        ({"split": "dev"}, "split: Input should be 'train' or 'test', found 'dev'"),
    ],
)
def test_a_wrong_template_is_one_line(tmp_path, monkeypatch, changes, message):
    monkeypatch.setattr("atp.testbeds.code.harness.SECONDS", 1)
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(with_family(**changes)), encoding="utf-8")
    with pytest.raises(AtpError) as error:
        # 10 tasks, so that each mutation of both families is drawn.
        (template,) = read_templates(path, CodeTemplate)
        instantiate(template.model_copy(update={"tasks": 10}), "train", Random(0))
    assert message in str(error.value) and "\n" not in str(error.value), str(error.value)


def test_a_constant_function_makes_no_task(tmp_path):
    mutations = [{**each, "example": "rotate([1, 2]) == 0"} for each in ROTATION["mutations"]]
    changes = {"solution": "def rotate(items):\n    return 0 * $step\n", "mutations": mutations}
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(with_family(**changes)), encoding="utf-8")
    (template,) = read_templates(path, CodeTemplate)
    with pytest.raises(AtpError, match="all its tests expect 0: give it other cases"):
        instantiate(template, "train", Random(0))
