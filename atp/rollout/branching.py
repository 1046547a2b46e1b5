"""Questions: one prompt of an episode, answered again while all else stays as recorded.

The first question of a scenario has no history. Any later one is a prompt of a recorded episode, which is played again
with the other players' recorded replies, so that a new answer gets its own decision and reward. With tools, an answer
is several replies.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from atp.agents.base import Agent, Request
from atp.errors import AtpError
from atp.files.schemas import QUESTION
from atp.files.tables import read_provenance
from atp.files.turns import read_turns, replies
from atp.registry import find_testbed
from atp.rollout.seeds import sampling_seed
from atp.testbed import TESTED, Prompt, Reply, Scenario, Settings, Testbed, Turn
from atp.tools import Call, run_calls

#: Round, agent and step of a prompt in an episode.
Place = tuple[int, int, int]


@dataclass(frozen=True)
class Question:
    """A prompt of a scenario, and `follow`: replies -> the next prompt of the same decision, or its turn.

    A bare text counts as a complete reply.
    """

    scenario_id: str
    prompt: Prompt
    follow: Callable[[Sequence[Reply | str]], Prompt | Turn]

    def judge(self, *replies: Reply | str) -> Turn:
        """Return the turn of a complete answer."""
        turn = self.follow(replies)
        assert isinstance(turn, Turn)
        return turn


@dataclass(frozen=True)
class Answer:
    """An agent's answer to a question: its replies, the prompts that they answer, and the resulting turn."""

    prompts: list[Prompt]
    replies: list[Reply]
    turn: Turn


def ask(
    agent: Agent, questions: Sequence[Question], seed: Callable[[int, int], int], first: Sequence[Prompt] = ()
) -> list[Answer]:
    """Ask an agent a batch of questions until each answer is complete.

    Args:
        seed: (number of the question, step) -> sampling seed.
        first: prompts in place of the questions' own.
    """
    agent.start()
    prompts = [[prompt] for prompt in first or [question.prompt for question in questions]]
    replies: list[list[Reply]] = [[] for _ in questions]
    turns: dict[int, Turn] = {}
    while still_open := [number for number in range(len(questions)) if number not in turns]:
        requests = [Request(number, prompts[number][-1], seed(number, len(replies[number]))) for number in still_open]
        for number, reply in zip(still_open, agent.answer(requests), strict=True):
            replies[number].append(reply)
            following = questions[number].follow(replies[number])
            if isinstance(following, Turn):
                turns[number] = following
            else:
                prompts[number].append(following)
    return [Answer(prompts[number], replies[number], turns[number]) for number in range(len(questions))]


def earned(turn: Turn) -> float:
    """Return the reward that the testbed pays."""
    return turn.reward


def first_questions(scenarios: Sequence[Scenario], testbed: Testbed, settings: Settings) -> list[Question]:
    """Return the first question of each scenario, of one player in turn, before it has any history.

    Args:
        settings: the testbed's; one round is played. The other players give the same first reply.
    """
    once = testbed.settings(**{**settings.model_dump(exclude_unset=True), "rounds": 1})
    questions = []
    for number, scenario in enumerate(scenarios):
        prompts: Any = next(testbed.play(scenario, once, Random(0)))
        first = prompts[number % len(prompts)]
        questions.append(question(scenario, testbed, once, 0, {}, (first.round, first.agent, first.step)))
    return questions


def played_questions(turns: Path, scenarios: Sequence[Scenario], testbed: str) -> list[Question]:
    """Return every question of recorded episodes, each from its first sample.

    Raises:
        AtpError: unreadable turns, turns of unknown scenarios, or turns of the test split.
    """
    kind = find_testbed(testbed)
    known = {scenario.scenario_id: scenario for scenario in scenarios}
    variants = read_provenance(turns).get("params", {}).get("variants")
    rows = read_turns(turns).to_pylist()
    if not rows or variants is None:
        raise AtpError(
            f"{turns}: " + ("no turns" if not rows else "its metadata lacks the settings it was played under")
        )
    recorded: dict[str, dict[Place, Reply]] = {}
    for row in rows:
        for step, reply in enumerate(recorded_replies(row)):
            recorded.setdefault(row["episode"], {})[row["round"], row["agent"], step] = reply
    questions: dict[tuple[object, ...], Question] = {}
    for row in rows:
        if row["split"] == "test":
            raise AtpError(f"{turns}: has turns of the test split, which is never trained on")
        if row["scenario_id"] not in known:
            raise AtpError(f"{turns}: its scenario '{row['scenario_id']}' is not among the scenarios given")
        key = tuple(row[name] for name in QUESTION)
        if key in questions or row["role"] == TESTED:
            continue
        settings = kind.settings(**variants[row["variant"]])
        seed = sampling_seed(row["seed"], row["scenario_id"], row["sample"], row["generation"], (0, 0, 0))
        place = (row["round"], row["agent"], 0)
        questions[key] = question(known[row["scenario_id"]], kind, settings, seed, recorded[row["episode"]], place)
    return list(questions.values())


def recorded_replies(row: Mapping[str, Any]) -> list[Reply]:
    """Return all replies of an agent in a row's round, as far as games see them."""
    reasons = [row["finish_reason"], *row["later_finish_reasons"]]
    return [Reply(text, finish_reason=reason) for text, reason in zip(replies(row), reasons, strict=True)]


def replay(
    scenario: Scenario, testbed: Testbed, settings: Settings, seed: int, recorded: Mapping[Place, Reply]
) -> list[Turn]:
    """Return the turns of an episode in which every reply is the recorded one. Raises KeyError for a missing reply."""
    game: Any = testbed.play(scenario, settings, Random(seed))
    opened = next(game)
    while True:
        calls = isinstance(opened[0], Call)
        answers = run_calls(opened) if calls else [recorded[each.round, each.agent, each.step] for each in opened]
        try:
            opened = game.send(list(answers))
        except StopIteration as end:
            turns: list[Turn] = end.value
            return turns


def question(
    scenario: Scenario,
    testbed: Testbed,
    settings: Settings,
    seed: int,
    recorded: Mapping[Place, Reply],
    place: Place,
) -> Question:
    """Return the question at a place of an episode in which all other replies are the recorded ones."""

    def follow(given: Sequence[Reply | str]) -> Prompt | Turn:
        replies = [Reply(reply) if isinstance(reply, str) else reply for reply in given]
        game: Any = testbed.play(scenario, settings, Random(seed))
        opened = next(game)
        while True:
            answers: list[Any] = []
            if isinstance(opened[0], Call):
                answers = list(run_calls(opened))
                opened = ()
            prompt: Prompt
            for prompt in opened:
                here = (prompt.round, prompt.agent, prompt.step)
                if here == place or (here[:2] == place[:2] and prompt.continues):
                    if prompt.step == len(replies):
                        return prompt
                    answers.append(replies[prompt.step])
                else:
                    same = Reply("") if prompt.continues or not replies else replies[0]
                    answers.append(recorded.get(here, same))
            try:
                opened = game.send(answers)
            except StopIteration as end:
                return next(turn for turn in end.value if (turn.round, turn.agent) == place[:2])

    prompt = follow(())
    assert isinstance(prompt, Prompt)
    return Question(scenario.scenario_id, prompt, follow)
