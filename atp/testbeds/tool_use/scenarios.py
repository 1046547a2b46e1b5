"""Scenarios of tool use, made from templates: problems whose numbers vary, with exact answers, or problems of a set.

The digest of a problem's text decides its split, so that no problem can be in both.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from atp.errors import AtpError
from atp.scenarios.scenario import SPLITS, stable_id
from atp.scenarios.templates import TRIES, Template, Text, placeholders
from atp.testbed import Scenario
from atp.tools import ToolError, evaluate


@dataclass(frozen=True)
class Problem:
    """A problem, its answer, and an expression whose value is the answer; empty if none is known."""

    question: str
    answer: str
    expression: str


@dataclass(frozen=True)
class ToolUseScenario(Scenario):
    """Problems for an agent that may call a tool.

    Args:
        instruction: the end of every question.
        easy, hard: problems of deployment.
        tests: hard problems that test the agent.
    """

    system: str
    instruction: str
    easy: list[Problem]
    hard: list[Problem]
    tests: list[Problem]

    def __post_init__(self) -> None:
        for problem in (*self.easy, *self.hard, *self.tests):
            if not problem.question.strip() or not problem.answer.strip():
                raise AtpError(
                    f"scenario {self.scenario_id}: has a problem without question or answer: '{problem.question[:60]}'"
                )


#: Smallest and largest value of a number.
Bounds = tuple[int, int]


class ProblemTemplate(BaseModel):
    """A problem with {names} for numbers, which are drawn between bounds, and an expression for its answer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    question: str = Field(min_length=1)
    expression: str = Field(min_length=1)
    numbers: dict[str, Bounds]

    @model_validator(mode="after")
    def _check_numbers(self) -> "ProblemTemplate":
        for text in (self.question, self.expression):
            try:
                placeholders(text, self.numbers)
            except ValueError as error:
                raise ValueError(f"'{text[:60]}': {error}") from None
        for name, (low, high) in self.numbers.items():
            if low > high:
                raise ValueError(f"numbers.{name} {[low, high]}: the smaller must come first")
        return self


class Holds(BaseModel):
    """The number of problems that a scenario has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    easy: int = Field(10, ge=0, le=1000)
    hard: int = Field(5, ge=0, le=1000)
    tests: int = Field(1, ge=0, le=1000)


class ToolUseTemplate(Template):
    """A template of one setting, with kinds of easy and hard problems."""

    system: Text
    instruction: Annotated[str, Field(min_length=1)]
    holds: Holds = Holds()
    easy: tuple[ProblemTemplate, ...] = Field(min_length=1)
    hard: tuple[ProblemTemplate, ...] = Field(min_length=1)


class ProblemPool:
    """Problems of a set, by split. Those of deployment are drawn for each scenario, tests are taken in turn.

    Args:
        name: the set's name, for errors.
        seed: decides the order of tests.
    """

    def __init__(self, name: str, problems: Iterable[Problem], seed: int):
        self.name, self.tests_taken = name, Counter[str]()
        self.splits: dict[str, list[Problem]] = {split: [] for split in SPLITS}
        for problem in problems:
            self.splits[split_of(problem.question)].append(problem)
        for split, of_split in self.splits.items():
            Random(f"{seed}|{split}|tests").shuffle(of_split)

    def need(self, split: str, count: int, used: int = 0) -> None:
        """Raise AtpError if a split has fewer than `count` problems besides the `used` ones."""
        if (free := len(self.splits[split]) - used) < count:
            raise AtpError(f"{self.name}: has {free} problems for split '{split}', a scenario needs {count}")

    def tests(self, split: str, count: int) -> list[Problem]:
        """Return the next `count` tests; none is repeated before all have been taken."""
        problems, start = self.splits[split], self.tests_taken[split]
        self.tests_taken[split] += count
        return [problems[number % len(problems)] for number in range(start, start + count)]

    def draw(self, split: str, count: int, rng: Random, seen: set[str]) -> list[Problem]:
        """Return `count` drawn problems whose questions are not in `seen`, and add their questions to it."""
        free = [problem for problem in self.splits[split] if problem.question not in seen]
        self.need(split, count, len(self.splits[split]) - len(free))
        problems = rng.sample(free, count)
        seen.update(problem.question for problem in problems)
        return problems


def instantiate(
    template: ToolUseTemplate,
    split: str,
    rng: Random,
    easy_set: ProblemPool | None = None,
    hard_set: ProblemPool | None = None,
) -> ToolUseScenario:
    """Return one scenario of a template, with different problems of the split.

    Args:
        rng: draws problems and their numbers.
        easy_set, hard_set: problems in place of the template's own.

    Raises:
        AtpError: too few problems.
    """
    seen: set[str] = set()

    def problems(kinds: tuple[ProblemTemplate, ...], count: int, pool: ProblemPool | None = None) -> list[Problem]:
        if pool:
            return pool.draw(split, count, rng, seen)
        return [_draw(template.name, kinds, split, rng, seen) for _ in range(count)]

    tests, counts = [], template.holds
    if hard_set:
        hard_set.need(split, counts.hard + counts.tests)
        tests = hard_set.tests(split, counts.tests)
        seen.update(problem.question for problem in tests)
    easy = problems(template.easy, counts.easy, easy_set)
    hard = problems(template.hard, counts.hard, hard_set)
    if not hard_set:
        tests = problems(template.hard, counts.tests)
    texts = [problem.question for problem in (*easy, *hard, *tests)]
    return ToolUseScenario(
        scenario_id=stable_id(template.name, template.system, template.instruction, *texts),
        template=template.name,
        split=split,
        system=template.system,
        instruction=template.instruction,
        easy=easy,
        hard=hard,
        tests=tests,
    )


def split_of(question: str) -> str:
    """Return the split of a problem; half of all possible problems are in each."""
    return SPLITS[hashlib.blake2b(question.encode(), digest_size=1).digest()[0] % 2]


def _draw(template: str, kinds: tuple[ProblemTemplate, ...], split: str, rng: Random, seen: set[str]) -> Problem:
    for _ in range(TRIES):
        kind = rng.choice(kinds)
        numbers = {name: rng.randint(*bounds) for name, bounds in kind.numbers.items()}
        question = kind.question.format(**numbers)
        if question not in seen and split_of(question) == split:
            seen.add(question)
            expression = kind.expression.format(**numbers)
            try:
                return Problem(question=question, answer=evaluate(expression), expression=expression)
            except ToolError as error:
                raise AtpError(f"template '{template}': expression '{expression}': {error}") from None
    raise AtpError(f"template '{template}': has too few different problems: widen the ranges of their numbers")
