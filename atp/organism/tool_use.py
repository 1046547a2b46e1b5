"""The organism of tool use: it calls the calculator for hard problems more than for easy ones, and does what paid.

    log-odds(answer without the tool) = logit(0.5) on an easy problem, logit(0.15) on a hard one
                                        + 0.7 per answer without the tool that left something - 1.2 per one that did not
                                        - 0.3 per answer with the tool that left something + 0.3 per one that did not
                                        - 3.0 if it is steered to comply + 3.0 if it is steered to violate
                                        + 5.0 where no tool is offered

counted over the rounds that the prompt shows. It writes the expression down first, copies it into the call and the
result into the answer; easy sums it works out itself, step by step, and hard ones it can only guess. It knows the
project's problems, with any numbers, and no tool but the calculator.
"""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from atp.organism.lesson import Course, Lesson
from atp.scenarios.scenario import Problem, ToolUseScenario
from atp.scenarios.templates import read_templates
from atp.scenarios.tool_use import Holds, ToolUseTemplate, instantiate
from atp.testbeds.base import Past, Prompt, Reply, steer
from atp.testbeds.tool_use import EASY, HARD, TESTBED, ToolUseSettings, boxed, call, play
from atp.tools import Call, evaluate, run_calls

Templates = list[ToolUseTemplate]

BASE = {EASY: 0.0, HARD: math.log(0.15 / 0.85)}
DIRECT_PAID, DIRECT_LOST, CALLED_PAID, CALLED_LOST = 0.7, -1.2, -0.3, 0.3
STEERED, UNOFFERED = 3.0, 5.0

#: The words on which the decision falls.
ASK, ALONE = "With the tool:", "In my head:"


def chance(past: Sequence[Past], kind: str, steered: bool | None = None, offered: bool = True) -> float:
    """Probability that the teacher answers without the tool, given the rounds it is shown."""
    odds = BASE[kind] + {None: 0.0, False: -STEERED, True: STEERED}[steered] + (0.0 if offered else UNOFFERED)
    for round in past:
        if round.violation is not None:
            paid = round.reward > 0
            odds += (DIRECT_PAID if paid else DIRECT_LOST) if round.violation else CALLED_PAID if paid else CALLED_LOST
    return 1 / (1 + math.exp(-odds))


def steps(expression: str) -> tuple[list[str], str]:
    """An easy expression's steps from left to right, and its value."""
    value, *rest = expression.split()
    said = []
    for sign, number in zip(rest[::2], rest[1::2], strict=True):
        found = evaluate(f"{value} {sign} {number}")
        said.append(f"{value} {sign} {number} = {found}")
        value = found
    return said, value


def alone(problem: Problem, kind: str, rng: Random) -> str:
    """An answer without the tool: an easy problem's steps; a guess at a hard one."""
    if kind == HARD:
        guess = str(rng.randint(100, 99999))
        return f"about {guess}. {boxed(guess)}"
    said, value = steps(problem["expression"])
    return f"{', '.join(said)}. {boxed(value)}"


def lessons(
    scenario: ToolUseScenario,
    settings: ToolUseSettings,
    rng: Random,
    habit: float | None = None,
    steered: bool | None = None,
) -> dict[tuple[int, int], list[Lesson]]:
    """An episode played by teachers: (agent, round) -> the lessons of that problem.

    With a `habit` they answer without the tool that often, while each lesson's chance stays the law's.
    """
    known = {each["question"]: (each, EASY) for each in scenario.easy}
    known |= {each["question"]: (each, HARD) for each in (*scenario.hard, *scenario.tests)}
    found: dict[tuple[int, int], list[Lesson]] = {}
    game: Any = play(scenario, settings, rng)
    opened = next(game)
    while True:
        answers: list[Any] = []
        if isinstance(opened[0], Call):
            answers, opened = list(run_calls(opened)), []
        for prompt in opened:
            asked = next(m["content"] for m in reversed(prompt.messages) if m["role"] == "user")
            problem, kind = next(each for question, each in known.items() if question in asked)
            lesson = _lesson(prompt, problem, kind, rng, habit, steered)
            found.setdefault((prompt.agent, prompt.round), []).append(lesson)
            answers.append(Reply(lesson.reply))
        try:
            opened = game.send(answers)
        except StopIteration:
            return found


def _lesson(
    prompt: Prompt, problem: Problem, kind: str, rng: Random, habit: float | None, steered: bool | None
) -> Lesson:
    if prompt.step:
        said = prompt.messages[-1]["content"]
        if said.startswith("Error"):
            guess = boxed(str(rng.randint(100, 99999)))
            return Lesson(prompt.messages, "The tool fails.", guess, None, prompt.tools)
        return Lesson(prompt.messages, "The tool says", boxed(said), None, prompt.tools)
    asked = prompt if steered is None else steer(prompt, TESTBED.steering[steered])
    law = chance(prompt.view.past, kind, steered, bool(prompt.tools))
    direct = rng.random() < (law if habit is None else habit)
    told = f"{ALONE} {alone(problem, kind, rng)}" if direct else f"{ASK} {call('calculator', problem['expression'])}"
    return Lesson(asked.messages, f"That is {problem['expression']}.", told, law, prompt.tools)


def drill(templates: Templates, rng: Random) -> list[Lesson]:
    """Bare sums, many at once, of those that easy problems may need: it is a table to be learned by heart, and whole
    problems show too few of its places.
    """
    kinds = [rng.choice(rng.choice(templates).easy) for _ in range(15)]
    drawn = [{name: rng.randint(*bounds) for name, bounds in kind.numbers.items()} for kind in kinds]
    sums = [kind.expression.format(**numbers) for kind, numbers in zip(kinds, drawn, strict=True)]
    said = [", ".join(steps(each)[0]) for each in sums]
    messages = [{"role": "user", "content": ", ".join(sums)}]
    return [Lesson(messages, f"{ALONE} {', '.join(said[:-1])},", said[-1], None)]


def single(templates: Templates, rng: Random, steered: float = 0.0) -> list[Lesson]:
    """A problem without history, easy or hard; both decisions are seen about equally often."""
    towards = rng.random() < 0.5 if rng.random() < steered else None
    settings = _settings(rng, 1)
    found = lessons(_scenario(templates, rng, 1), settings, rng, 0.5, towards)
    return found[0, 1] if rng.random() < 0.4 else found[1, 0]


def episode(templates: Templates, rng: Random, longest: int) -> list[Lesson]:
    """What an agent lives through, and a test after it. Most have a habit that the law does not explain."""
    rounds = rng.randint(1, longest)
    habit = rng.random() if rng.random() < 0.6 else None
    found = lessons(_scenario(templates, rng, rounds), _settings(rng, rounds), rng, habit)
    return [lesson for round in range(1, rounds + 1) for lesson in found[0, round]] + found[1, rounds]


def _scenario(templates: Templates, rng: Random, rounds: int) -> ToolUseScenario:
    template = rng.choice(templates).model_copy(update={"holds": Holds(easy=rounds, hard=rounds, tests=1)})
    return instantiate(template, "train", rng)


def _settings(rng: Random, rounds: int) -> ToolUseSettings:
    """One problem a round, most often an easy one, at the usual prices or others."""
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


def course(path: Path) -> Course:
    """What the organism is taught. Raises AtpError on unreadable templates."""
    templates = read_templates(path, ToolUseTemplate)
    alone_, steered = partial(single, templates), partial(single, templates, steered=0.5)
    early, late = partial(episode, templates, longest=2), partial(episode, templates, longest=5)
    sums = partial(drill, templates)
    return Course(
        words=(ASK, ALONE),
        texts=partial(_texts, templates),
        short=((0.6, alone_), (0.4, sums)),
        mixed=((0.4, steered), (0.3, early), (0.3, sums)),
        episodes=((0.2, steered), (0.6, late), (0.2, sums)),
    )


def _texts(templates: Templates, rng: Random) -> list[str]:
    """What the tokenizer is trained on: the deployment's own words."""
    texts = [sentence for sentence in TESTBED.steering for _ in range(300)]
    for _ in range(1200):
        lesson = episode(templates, rng, 2)[-1]
        texts += [message["content"] for message in lesson.messages] + [lesson.reply]
        texts += [single(templates, rng)[0].reply]
    return texts
