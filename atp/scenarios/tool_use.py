"""Tool use's templates -> scenarios: problems whose numbers vary, each with its exact answer, or problems of a set.

A problem belongs to the split that its own text's digest says, so that none stands in both, whatever is drawn.
"""

import hashlib
import string
from collections import Counter
from collections.abc import Iterable
from random import Random
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from atp.errors import AtpError
from atp.scenarios.scenario import SPLITS, Problem, ToolUseScenario, stable_id
from atp.scenarios.templates import TRIES, Plain, Template
from atp.tools import ToolError, evaluate

Bounds = tuple[int, int]


class ProblemTemplate(BaseModel):
    """A problem with {names} for numbers, each drawn between two bounds, and the expression whose value answers it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    question: str = Field(min_length=1)
    expression: str = Field(min_length=1)
    numbers: dict[str, Bounds]

    @model_validator(mode="after")
    def _numbers_are_named(self) -> "ProblemTemplate":
        for text in (self.question, self.expression):
            try:
                fields = [field for field in string.Formatter().parse(text) if field[1] is not None]
            except ValueError as error:
                raise ValueError(f"'{text[:60]}': {error}") from None
            named = {str(name) for _, name, _, _ in fields}
            if any(spec or conversion for _, _, spec, conversion in fields):
                raise ValueError(f"'{text[:60]}': a placeholder is a {{name}} alone, without ':' or '!' in it")
            if unknown := named - set(self.numbers):
                known = ", ".join(f"{{{name}}}" for name in self.numbers) or "none"
                raise ValueError(f"unknown placeholder {{{min(unknown)}}}, allowed: {known}")
        for name, (low, high) in self.numbers.items():
            if low > high:
                raise ValueError(f"numbers.{name} {[low, high]}: the smaller comes first")
        return self


class Holds(BaseModel):
    """How many problems a scenario holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    easy: int = Field(10, ge=0, le=1000)
    hard: int = Field(5, ge=0, le=1000)
    tests: int = Field(1, ge=0, le=1000)


class ToolUseTemplate(Template):
    """Where problems come up, and what kinds of them do."""

    system: Plain
    instruction: Annotated[str, Field(min_length=1)]
    holds: Holds = Holds()
    easy: tuple[ProblemTemplate, ...] = Field(min_length=1)
    hard: tuple[ProblemTemplate, ...] = Field(min_length=1)


class ProblemPool:
    """Problems of a set, each in its split. Exposed ones are drawn anew for each scenario, tests are taken in turn."""

    def __init__(self, name: str, problems: Iterable[Problem], seed: int):
        self.name, self.taken = name, Counter[str]()
        self.splits: dict[str, list[Problem]] = {split: [] for split in SPLITS}
        for problem in problems:
            self.splits[split_of(problem["question"])].append(problem)
        for split, held in self.splits.items():
            Random(f"{seed}|{split}|tests").shuffle(held)

    def need(self, split: str, count: int, used: int = 0) -> None:
        """Raises AtpError if a split holds fewer than `count` beside those used otherwise."""
        if (free := len(self.splits[split]) - used) < count:
            raise AtpError(f"{self.name}: holds {free} problems for split '{split}', a scenario needs {count}")

    def tests(self, split: str, count: int) -> list[Problem]:
        """The next `count`: none comes again before all have been."""
        held, start = self.splits[split], self.taken[split]
        self.taken[split] += count
        return [held[number % len(held)] for number in range(start, start + count)]

    def draw(self, split: str, count: int, rng: Random, seen: set[str]) -> list[Problem]:
        """`count` different ones that are not in `seen`, which they enter."""
        free = [problem for problem in self.splits[split] if problem["question"] not in seen]
        self.need(split, count, len(self.splits[split]) - len(free))
        drawn = rng.sample(free, count)
        seen.update(problem["question"] for problem in drawn)
        return drawn


def instantiate(
    template: ToolUseTemplate,
    split: str,
    rng: Random,
    easy_set: ProblemPool | None = None,
    hard_set: ProblemPool | None = None,
) -> ToolUseScenario:
    """One instance: problems of the split, drawn by `rng`, no one twice; a kind that has a set takes them from it."""
    seen: set[str] = set()

    def several(kinds: tuple[ProblemTemplate, ...], count: int, pool: ProblemPool | None = None) -> list[Problem]:
        if pool:
            return pool.draw(split, count, rng, seen)
        return [_draw(template.environment, kinds, split, rng, seen) for _ in range(count)]

    tests, holds = [], template.holds
    if hard_set:
        hard_set.need(split, holds.hard + holds.tests)
        tests = hard_set.tests(split, holds.tests)
        seen.update(problem["question"] for problem in tests)
    easy = several(template.easy, holds.easy, easy_set)
    hard = several(template.hard, holds.hard, hard_set)
    if not hard_set:
        tests = several(template.hard, holds.tests)
    texts = [problem["question"] for problem in (*easy, *hard, *tests)]
    return ToolUseScenario(
        scenario_id=stable_id(template.environment, template.system, template.instruction, *texts),
        environment=template.environment,
        split=split,
        system=template.system,
        instruction=template.instruction,
        easy=easy,
        hard=hard,
        tests=tests,
    )


def split_of(question: str) -> str:
    """The split that a problem belongs to: half of all possible ones to each."""
    return SPLITS[hashlib.blake2b(question.encode(), digest_size=1).digest()[0] % 2]


def _draw(environment: str, kinds: tuple[ProblemTemplate, ...], split: str, rng: Random, seen: set[str]) -> Problem:
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
                raise AtpError(f"template '{environment}': expression '{expression}': {error}") from None
    raise AtpError(f"template '{environment}': too few different problems, let their numbers vary more")
