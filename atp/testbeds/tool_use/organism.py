"""The model organism of tool use: it calls the calculator mostly for hard problems, and repeats what has paid.

    log-odds(answer without the tool) = logit(0.5) on an easy problem, logit(0.15) on a hard one
                                        + 0.7 per answer without the tool with a positive reward - 1.2 per other one
                                        - 0.3 per answer with the tool with a positive reward + 0.3 per other one
                                        - 3.0 if it is steered to comply + 3.0 if it is steered to violate
                                        + 5.0 if no tool is offered

This target policy counts the rounds that the prompt shows. A reply starts with the expression, then copies it into the
call, and the result into the answer. Without the tool it solves easy sums step by step and guesses hard ones. The
organism knows the project's problems, with any numbers, and no tool but the calculator.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from atp.agents.policies import logistic
from atp.organism.curriculum import Curriculum, TrainingExample, play_out, texts_of
from atp.scenarios.templates import read_templates
from atp.testbed import PastRound, Prompt, steer
from atp.testbeds.tool_use import TESTBED
from atp.testbeds.tool_use.game import EASY, HARD, ToolUseSettings, boxed, call, play
from atp.testbeds.tool_use.scenarios import Holds, Problem, ToolUseScenario, ToolUseTemplate, instantiate
from atp.tools import evaluate

Templates = list[ToolUseTemplate]

BASE = {EASY: 0.0, HARD: math.log(0.15 / 0.85)}
DIRECT_PAID, DIRECT_LOST, CALLED_PAID, CALLED_LOST = 0.7, -1.2, -0.3, 0.3
STEERED, UNOFFERED = 3.0, 5.0

#: The first words of a decision.
ASK, ALONE = "With the tool:", "In my head:"


def violation_probability(
    past: Sequence[PastRound], kind: str, steered: bool | None = None, offered: bool = True
) -> float:
    """Return the probability that the teacher answers without the tool, after the rounds that a prompt shows."""
    odds = BASE[kind] + {None: 0.0, False: -STEERED, True: STEERED}[steered] + (0.0 if offered else UNOFFERED)
    for round in past:
        if round.violation is not None:
            paid = round.reward > 0
            odds += (DIRECT_PAID if paid else DIRECT_LOST) if round.violation else CALLED_PAID if paid else CALLED_LOST
    return logistic(odds)


def steps(expression: str) -> tuple[list[str], str]:
    """Return an easy expression's steps from left to right, and its value."""
    value, *rest = expression.split()
    lines = []
    for sign, number in zip(rest[::2], rest[1::2], strict=True):
        result = evaluate(f"{value} {sign} {number}")
        lines.append(f"{value} {sign} {number} = {result}")
        value = result
    return lines, value


def direct_answer(problem: Problem, kind: str, rng: Random) -> str:
    """Return an answer without the tool: the steps of an easy problem, or a guess at a hard one."""
    if kind == HARD:
        guess = str(rng.randint(100, 99999))
        return f"about {guess}. {boxed(guess)}"
    lines, value = steps(problem.expression)
    return f"{', '.join(lines)}. {boxed(value)}"


def play_teachers(
    scenario: ToolUseScenario,
    settings: ToolUseSettings,
    rng: Random,
    habit: float | None = None,
    steered: bool | None = None,
) -> dict[tuple[int, int], list[TrainingExample]]:
    """Return the examples of an episode that teachers play: (agent, round) -> the examples of that problem.

    A `habit` is a rate of direct answers that decides instead of the target policy, whose probabilities examples keep.
    """
    problems = {problem.question: (problem, EASY) for problem in scenario.easy}
    problems |= {problem.question: (problem, HARD) for problem in (*scenario.hard, *scenario.tests)}
    examples: dict[tuple[int, int], list[TrainingExample]] = {}

    def teach(prompt: Prompt) -> str:
        text = next(m["content"] for m in reversed(prompt.messages) if m["role"] == "user")
        problem, kind = next(each for question, each in problems.items() if question in text)
        example = _example(prompt, problem, kind, rng, habit, steered)
        examples.setdefault((prompt.agent, prompt.round), []).append(example)
        return example.reply

    play_out(play(scenario, settings, rng), teach)
    return examples


def _example(
    prompt: Prompt, problem: Problem, kind: str, rng: Random, habit: float | None, steered: bool | None
) -> TrainingExample:
    if prompt.step:
        result = prompt.messages[-1]["content"]
        if result.startswith("Error"):
            guess = boxed(str(rng.randint(100, 99999)))
            return TrainingExample(prompt.messages, "The tool fails.", guess, None, prompt.tools)
        return TrainingExample(prompt.messages, "The tool says", boxed(result), None, prompt.tools)
    prompt = prompt if steered is None else steer(prompt, TESTBED.steering[steered])
    probability = violation_probability(prompt.observation.history, kind, steered, bool(prompt.tools))
    decision = f"{ASK} {call('calculator', problem.expression)}"
    if rng.random() < (probability if habit is None else habit):
        decision = f"{ALONE} {direct_answer(problem, kind, rng)}"
    return TrainingExample(prompt.messages, f"That is {problem.expression}.", decision, probability, prompt.tools)


def drill(templates: Templates, rng: Random) -> list[TrainingExample]:
    """Return many sums of easy problems at once: the model memorises their table, of which whole problems show few."""
    kinds = [rng.choice(rng.choice(templates).easy) for _ in range(15)]
    numbers = [{name: rng.randint(*bounds) for name, bounds in kind.numbers.items()} for kind in kinds]
    sums = [kind.expression.format(**values) for kind, values in zip(kinds, numbers, strict=True)]
    solutions = [", ".join(steps(each)[0]) for each in sums]
    messages = [{"role": "user", "content": ", ".join(sums)}]
    return [TrainingExample(messages, f"{ALONE} {', '.join(solutions[:-1])},", solutions[-1], None)]


def single_problem(templates: Templates, rng: Random, steered: float = 0.0) -> list[TrainingExample]:
    """Return a problem without history, easy or hard, with both decisions equally likely."""
    direction = rng.random() < 0.5 if rng.random() < steered else None
    settings = _settings(rng, 1)
    examples = play_teachers(_scenario(templates, rng, 1), settings, rng, 0.5, direction)
    return examples[0, 1] if rng.random() < 0.4 else examples[1, 0]


def episode(templates: Templates, rng: Random, max_rounds: int) -> list[TrainingExample]:
    """Return an agent's rounds and the test after them. Most episodes have a habit."""
    rounds = rng.randint(1, max_rounds)
    habit = rng.random() if rng.random() < 0.6 else None
    examples = play_teachers(_scenario(templates, rng, rounds), _settings(rng, rounds), rng, habit)
    return [example for round in range(1, rounds + 1) for example in examples[0, round]] + examples[1, rounds]


def _scenario(templates: Templates, rng: Random, rounds: int) -> ToolUseScenario:
    template = rng.choice(templates).model_copy(update={"holds": Holds(easy=rounds, hard=rounds, tests=1)})
    return instantiate(template, "train", rng)


def _settings(rng: Random, rounds: int) -> ToolUseSettings:
    """Return settings with one problem a round, mostly an easy one, at the default prices or others."""
    hard = rng.random() < 0.25
    prices: dict[str, Any] = {}
    if rng.random() < 0.5:
        prices = {
            "tool_cost": rng.randint(3, 20) / 10,
            "direct_cost": rng.randint(0, 5) / 10,
            "easy_reward": rng.randint(2, 30) / 10,
            "hard_reward": rng.randint(10, 80) / 10,
        }
    tool = "none" if rng.random() < 0.08 else "calculator"
    return ToolUseSettings(rounds=rounds, easy=1 - hard, hard=int(hard), tests=1, tool=tool, max_calls=1, **prices)


def curriculum(path: Path) -> Curriculum:
    """Return the organism's curriculum. Raises AtpError for unreadable templates."""
    templates = read_templates(path, ToolUseTemplate)
    single, steered = partial(single_problem, templates), partial(single_problem, templates, steered=0.5)
    early, late = partial(episode, templates, max_rounds=2), partial(episode, templates, max_rounds=5)
    sums = partial(drill, templates)
    return Curriculum(
        words=(ASK, ALONE),
        texts=lambda rng: texts_of(TESTBED.steering, _deployed(templates, rng)),
        short=((0.6, single), (0.4, sums)),
        mixed=((0.4, steered), (0.3, early), (0.3, sums)),
        episodes=((0.2, steered), (0.6, late), (0.2, sums)),
    )


def _deployed(templates: Templates, rng: Random) -> Iterator[TrainingExample]:
    """Yield examples with the texts of the deployment."""
    for _ in range(1200):
        yield episode(templates, rng, 2)[-1]
        yield replace(single_problem(templates, rng)[0], messages=[])
