"""Scenarios of the testbed, made from templates: programming tasks with tests, held-out tests and a contradiction.

A family is a function with mutations: values that change its specification and its solution. Each family belongs to
one split. The inputs of tests are drawn; what they must return is what the family's solution returns in the sandbox,
after it has passed the mutation's example.
"""

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from string import Template as Placeholders
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from atp.errors import AtpError
from atp.scenarios.scenario import stable_id
from atp.scenarios.templates import Template, Text
from atp.testbed import Scenario
from atp.testbeds.code.harness import TEST_FORM, VALUE, Test, evaluate, parse_test
from atp.tools import ToolError

#: Tests of a case that the agent sees, held-out tests of it, and inputs that are drawn to choose them from.
VISIBLE, HELD_OUT, DRAWN = 2, 4, 9
#: Attempts to draw an input that does not exist yet.
TRIES = 200
WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "haven", "inlet", "jetty", "knoll", "larch")
LETTERS = "abcdeilnorstu"


@dataclass(frozen=True)
class Task:
    """A programming task.

    Args:
        tests: tests that the agent sees, as lines of Python, in agreement with the specification.
        held_out: tests that it does not see.
        cases: number of the case that each test is an instance of, of visible tests, then of held-out ones.
        contradiction: number of the visible test that a contradicting one can replace, from 0.
        contradicting: that test.
    """

    family: str
    specification: str
    signature: str
    solution: str
    tests: list[str]
    held_out: list[str]
    cases: list[int]
    contradiction: int
    contradicting: str


@dataclass(frozen=True)
class CodeScenario(Scenario):
    """Tasks for an agent, one for each round."""

    system: str
    tasks: list[Task]

    def __post_init__(self) -> None:
        for task in self.tasks:
            where = f"scenario {self.scenario_id}: task '{task.family}'"
            for text in (*task.tests, *task.held_out, task.contradicting):
                if parse_test(text) is None:
                    raise AtpError(f"{where}: '{text[:60]}' is no test: {TEST_FORM}")
            if len(task.cases) != len(task.tests) + len(task.held_out):
                raise AtpError(f"{where}: cases has {len(task.cases)} numbers, must have one for each test")
            if not 0 <= task.contradiction < len(task.tests):
                raise AtpError(f"{where}: contradiction is {task.contradiction}, it has {len(task.tests)} tests")


class Argument(BaseModel):
    """How an argument of a test is drawn: exactly one of the keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: tuple[int, int] | None = Field(None, description="a number between two bounds")
    numbers: tuple[int, int, int, int] | None = Field(None, description="a list: bounds of its length, of its numbers")
    word: tuple[int, int] | None = Field(None, description="a word of letters: bounds of its length")
    words: tuple[int, int] | None = Field(None, description="words with spaces between them: bounds of their number")
    one_of: tuple[Any, ...] | None = Field(None, min_length=1, description="one of these values")

    @model_validator(mode="after")
    def _check_kind(self) -> "Argument":
        if len(self.model_fields_set) != 1:
            raise ValueError(f"needs one of {', '.join(type(self).model_fields)}, found {len(self.model_fields_set)}")
        lists = (self.numbers[:2], self.numbers[2:]) if self.numbers else ()
        for bounds in (self.number, *lists, self.word, self.words):
            if bounds and bounds[0] > bounds[1]:
                raise ValueError(f"bounds {list(bounds)}: the smaller must come first")
        return self

    def draw(self, rng: Random) -> Any:
        """Return a value."""
        if self.number:
            return rng.randint(*self.number)
        if self.numbers:
            return [rng.randint(*self.numbers[2:]) for _ in range(rng.randint(*self.numbers[:2]))]
        if self.word:
            return "".join(rng.choice(LETTERS) for _ in range(rng.randint(*self.word)))
        if self.words:
            return " ".join(rng.choice(WORDS) for _ in range(rng.randint(*self.words)))
        assert self.one_of
        return rng.choice(self.one_of)


class Family(BaseModel):
    """A function, whose texts have $names for the values of a mutation.

    Each mutation has an `example`, a call of the function == its value: the prompt shows it, the solution must agree.
    Each case is a kind of input, as a list of arguments: the held-out equivalents of a test are of the same case.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Text
    split: Literal["train", "test"]
    specification: str = Field(min_length=1)
    solution: str = Field(min_length=1)
    mutations: tuple[dict[str, str | int], ...] = Field(min_length=1)
    cases: tuple[tuple[Argument, ...], ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_mutations(self) -> "Family":
        for mutation in self.mutations:
            try:
                specification, solution = self.text("specification", mutation), self.text("solution", mutation)
                function = _function(solution)
            except KeyError as error:
                raise ValueError(f"mutation {mutation}: a text has ${error.args[0]}, which is no key of it") from None
            except SyntaxError as error:
                raise ValueError(f"mutation {mutation}: solution: {error.msg} in line {error.lineno}") from None
            example = parse_test(f"assert {mutation.get('example')}")
            if example is None or example.function != function.name:
                found = mutation.get("example", "none")
                raise ValueError(f"mutation {mutation}: example must be '{function.name}(...) == ...', found {found}")
            if not specification.strip():
                raise ValueError(f"mutation {mutation}: the specification is empty")
        return self

    def text(self, field: str, mutation: dict[str, str | int]) -> str:
        """Return a text with the values of a mutation."""
        return Placeholders(getattr(self, field)).substitute(mutation)


class CodeTemplate(Template):
    """A template of one library, with families of functions of both splits.

    Args:
        tasks: number of tasks of a scenario, and of rounds that it can be played.
    """

    system: Text
    tasks: int = Field(10, ge=1, le=100)
    families: tuple[Family, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_families(self) -> "CodeTemplate":
        for split in ("train", "test"):
            available = sum(len(family.mutations) for family in self.families if family.split == split)
            if available < self.tasks:
                raise ValueError(
                    f"families: have {available} mutations with split '{split}', tasks is {self.tasks}: add some, or "
                    "lower tasks"
                )
        return self


def instantiate(template: CodeTemplate, split: str, rng: Random) -> CodeScenario:
    """Return one scenario of a template: different mutations of the split's families, with drawn tests.

    Raises:
        AtpError: a solution that fails its own tests, too few different inputs, or no sandbox.
    """
    choices = [
        (family, mutation) for family in template.families if family.split == split for mutation in family.mutations
    ]
    chosen = rng.sample(choices, template.tasks)
    drafts = [_draw(template.name, family, mutation, rng) for family, mutation in chosen]
    values = _evaluate(drafts)
    tasks = [_task(draft, results, rng) for draft, results in zip(drafts, values, strict=True)]
    texts = [text for task in tasks for text in (task.specification, *task.tests, *task.held_out, task.contradicting)]
    return CodeScenario(stable_id(template.name, template.system, *texts), template.name, split, template.system, tasks)


@dataclass(frozen=True)
class _Draft:
    """A task whose tests do not have their values yet: the example, and `DRAWN` calls of each case after it."""

    place: str
    family: str
    specification: str
    solution: str
    example: Test
    calls: list[Test]


def _draw(template: str, family: Family, mutation: dict[str, str | int], rng: Random) -> _Draft:
    """Return a draft with different calls."""
    place = f"template '{template}': family '{family.name}' with the example '{mutation['example']}'"
    solution, example = family.text("solution", mutation), parse_test(f"assert {mutation['example']}")
    assert example
    calls = {example.arguments: example}
    for number, case in enumerate(family.cases, 1):
        for _ in range(DRAWN):
            drawn = (repr(tuple(argument.draw(rng) for argument in case)) for _ in range(TRIES))
            arguments = next((text for text in drawn if text not in calls), None)
            if arguments is None:
                raise AtpError(f"{place}: case {number}: has too few different inputs, {DRAWN} are needed")
            calls[arguments] = Test(example.function, arguments, "None")
    return _Draft(
        place, family.name, family.text("specification", mutation), solution, example, list(calls.values())[1:]
    )


def _evaluate(drafts: Sequence[_Draft]) -> list[list[tuple[str, str]]]:
    """Return what the solution of each draft returns for its example and calls, from one start of the sandbox."""
    groups = [(draft.solution, [draft.example, *draft.calls]) for draft in drafts]
    try:
        return evaluate(groups)
    except ToolError:
        values = []
        for draft, group in zip(drafts, groups, strict=True):  # one by one, to find the one that fails
            try:
                values += evaluate([group])
            except ToolError as error:
                raise AtpError(f"{draft.place}: its solution does not run: {error}") from None
        return values


def _task(draft: _Draft, results: Sequence[tuple[str, str]], rng: Random) -> Task:
    """Return a task with the values that its solution returned.

    Raises:
        AtpError: the solution fails its example or a test.
    """
    for test, (kind, text) in zip((draft.example, *draft.calls), results, strict=True):
        if kind != VALUE or parse_test(f"assert {test.call} == {text}") is None:
            problem = f"fails with {text[:100]}" if kind != VALUE else f"returns {text[:60]}, which is no literal"
            raise AtpError(f"{draft.place}: its solution {problem} for {test.call}")
    expected, found = ast.literal_eval(draft.example.expected), results[0][1]
    if ast.literal_eval(found) != expected:
        raise AtpError(
            f"{draft.place}: its solution fails its own test: it returns {found[:60]} for {draft.example.call}"
        )
    tests = [
        Test(call.function, call.arguments, text) for call, (_, text) in zip(draft.calls, results[1:], strict=True)
    ]
    visible, held_out = _choose([tests[begin : begin + DRAWN] for begin in range(0, len(tests), DRAWN)])
    shown = [test for of_case in visible for test in of_case]
    if len({test.expected for test in shown}) < 2:
        raise AtpError(f"{draft.place}: all its tests expect {shown[0].expected[:60]}: give it other cases")
    number = rng.randrange(len(shown))
    wrong = contradict(ast.literal_eval(shown[number].expected))
    while not isinstance(wrong, bool) and repr(wrong) in (test.expected for test in shown):
        wrong = contradict(wrong)  # else a function that returns one value could pass the test and those next to it
    return Task(
        family=draft.family,
        specification=f"{draft.specification.strip()} For example, {draft.example.call} returns "
        f"{draft.example.expected}.",
        signature=f"def {draft.example.function}({', '.join(_parameters(draft.solution))}):",
        solution=draft.solution,
        tests=[str(test) for test in shown],
        held_out=[str(test) for of_case in held_out for test in of_case],
        cases=[number for chosen in (visible, held_out) for number, of_case in enumerate(chosen) for _ in of_case],
        contradiction=number,
        contradicting=str(Test(shown[number].function, shown[number].arguments, repr(wrong))),
    )


def _choose(cases: Sequence[Sequence[Test]]) -> tuple[list[list[Test]], list[list[Test]]]:
    """Return the visible and the held-out tests of each case.

    If they can, the visible tests of a case expect different values, so that no function that returns one value passes
    them, or the same truth value, so that it does not pass them when one of them contradicts the specification.
    """
    visible, held_out = [], []
    for tests in cases:
        first, others = tests[0], tests[1:]
        same = first.expected in ("True", "False")
        others = sorted(others, key=lambda test: (test.expected == first.expected) != same)
        shown = [first, *others[: VISIBLE - 1]]
        visible.append(shown)
        held_out.append([test for test in tests if test not in shown][:HELD_OUT])
    return visible, held_out


def contradict(value: Any) -> Any:
    """Return a value of the same type that differs from a given one."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return f"{value}x"
        case [*items]:
            return type(value)([*items, items[-1] if items else 0])
        case _:
            return 0 if value is None else None


def _function(solution: str) -> ast.FunctionDef:
    """Return the last function that a solution defines, which is the one that tests call."""
    functions = [node for node in ast.parse(solution).body if isinstance(node, ast.FunctionDef)]
    if not functions:
        raise ValueError("solution: defines no function")
    return functions[-1]


def _parameters(solution: str) -> list[str]:
    """Return the names of the function's arguments."""
    return [argument.arg for argument in _function(solution).args.args]
