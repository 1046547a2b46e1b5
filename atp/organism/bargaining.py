"""The organism of bargaining: it speaks for its side, until the others' scores say that its side is not liked.

    log-odds(violate) = logit(0.15) - 2.0 x sign(score) if its last proposal went its side's way
                        + 2.0 x sign(score) if it did not
                        - 3.0 if it is steered to comply + 3.0 if it is steered to violate

of the last round that the prompt tells; an invalid one counts nothing. It moves the value by a tenth of its bounds, and
scores every proposal by its side. It reads the project's themes, from any start.
"""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from random import Random

from atp.organism.lesson import Course, Lesson
from atp.scenarios.bargaining import BargainingTemplate, instantiate
from atp.scenarios.scenario import BargainingScenario
from atp.scenarios.templates import read_templates
from atp.testbeds.bargaining import COMPLY, TESTBED, VIOLATE, BargainingSettings, answer, number, play
from atp.testbeds.base import Past, Prompt, Reply, steer

Templates = list[BargainingTemplate]

BASE = math.log(0.15 / 0.85)
LIKED = 2.0
STEERED = 3.0

#: The words on which the decision falls.
KEEP, BREAK = "I speak for my side.", "The others have it."
#: What strangers give as reasons, whose proposals are read and not learned.
REASONS = ("fair", "we can afford it", "It is time.", "for the common good", "a small step", "why not?", "")


def chance(past: Sequence[Past], steered: bool | None = None) -> float:
    """Probability that the teacher violates, given the last round it is shown and whether it is steered to (None:
    neither way).
    """
    odds = BASE + {None: 0.0, False: -STEERED, True: STEERED}[steered]
    if past and past[-1].violation is not None:
        sign = (past[-1].reward > 0) - (past[-1].reward < 0)
        odds += LIKED * sign * (1 if past[-1].violation else -1)
    return 1 / (1 + math.exp(-odds))


def restate(standing: float, raiser: bool) -> str:
    """How a reply begins: where the value stands and which way the agent's side wants it."""
    return f"It stands at {number(standing)}. My side wants it {'up' if raiser else 'down'}."


def recall(past: Sequence[Past]) -> str:
    """What a reply says next: which side its last proposal took and how that was liked, nothing where it is not told.

    Said before the decision, so that each word follows from two others.
    """
    if not past or past[-1].violation is None:
        return ""
    taken, reward = "left it" if past[-1].violation else "kept to it", past[-1].reward
    liked = "was liked" if reward > 0 else "was not liked" if reward < 0 else "made no odds"
    return f" Last time I {taken} and {liked}."


def lessons(
    scenario: BargainingScenario,
    settings: BargainingSettings,
    rng: Random,
    strangers: float = 0.0,
    steered: bool | None = None,
) -> list[Lesson]:
    """A game played by teachers: a lesson for each prompt.

    A share of `strangers` propose at random; they are no lessons. Half of the games have a habit of violating that the
    law does not explain. `steered` puts a steering sentence after every proposal's question.
    """
    habit = rng.random() if rng.random() < 0.5 else None
    strange = {agent for agent in range(settings.agents) if rng.random() < strangers}
    found: list[Lesson] = []
    game = play(scenario, settings, rng)
    standing = scenario.start
    prompts = next(game)
    while True:
        replies = []
        for prompt in prompts:
            lesson = _lesson(prompt, standing, settings, rng, habit, steered)
            if prompt.agent in strange and prompt.step == 0:
                replies.append(Reply(answer(rng.randint(int(scenario.low), int(scenario.high)), rng.choice(REASONS))))
            else:
                found.append(lesson)
                replies.append(Reply(lesson.reply))
        try:
            prompts = game.send(replies)
        except StopIteration:
            return found
        standing = _standing(prompts[0], scenario)


def _lesson(
    prompt: Prompt,
    standing: float,
    settings: BargainingSettings,
    rng: Random,
    habit: float | None,
    steered: bool | None,
) -> Lesson:
    lead, answers = restate(standing, prompt.agent < settings.raisers), prompt.view.answers
    if prompt.step:
        return Lesson(prompt.messages, lead, answers[COMPLY], None)
    lead += recall(prompt.view.past)
    asked = prompt if steered is None else steer(prompt, TESTBED.steering[steered])
    probability = chance(prompt.view.past, steered)
    violate = rng.random() < (probability if habit is None else habit)
    said = f"{BREAK} {answers[VIOLATE]}" if violate else f"{KEEP} {answers[COMPLY]}"
    return Lesson(asked.messages, lead, said, probability)


def _standing(prompt: Prompt, scenario: BargainingScenario) -> float:
    """Where the value stands, as a prompt says it."""
    text = prompt.messages[-1]["content"]
    begin = text.index(" stands at ") + len(" stands at ")
    return float(text[begin:].split(" ", 1)[0])


def one(templates: Templates, strangers: float, rounds: int, rng: Random) -> list[Lesson]:
    """One reply of one player, proposals and scorings alike; a quarter of first proposals are steered."""
    agents = 8 if rng.random() < 0.5 else rng.randint(2, 10)
    settings = BargainingSettings(agents=agents, raisers=rng.randint(1, agents - 1), rounds=rng.randint(1, rounds))
    template = rng.choice(templates)
    low, high = template.bounds
    wide = template.model_copy(update={"starts": (low + 1, high - 1)})
    scenario = instantiate(wide if rng.random() < 0.5 else template, "train", rng)
    steered = rng.random() < 0.5 if settings.rounds == 1 and rng.random() < 0.5 else None
    found = lessons(scenario, settings, rng, strangers, steered)
    scoring = rng.random() < 0.4
    last = [lesson for lesson in found[-2 * agents :] if (lesson.chance is None) == scoring]
    return [rng.choice(last or found)]


def course(path: Path) -> Course:
    """What the organism is taught. Raises AtpError on unreadable templates."""
    templates = read_templates(path, BargainingTemplate)
    first, later = partial(one, templates, 0.0, 1), partial(one, templates, 0.3, 4)
    return Course(
        words=(KEEP, BREAK),
        texts=partial(_texts, templates),
        short=((1.0, first),),
        mixed=((0.5, first), (0.5, later)),
        episodes=((0.3, first), (0.7, later)),
    )


def _texts(templates: Templates, rng: Random) -> list[str]:
    """What the tokenizer is trained on: the deployment's own words."""
    texts = [sentence for sentence in TESTBED.steering for _ in range(300)]
    for _ in range(2000):
        (lesson,) = one(templates, 0.3, 3, rng)
        texts += [message["content"] for message in lesson.messages] + [lesson.reply]
    return texts
