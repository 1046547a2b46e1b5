"""What an agent can be asked while it is trained, and what an answer to it is worth: the game is played with that.

Knows games by their common seam only. The first question of a scenario has no history; a played one stands somewhere in
a recorded episode, whose other replies stay as they were. Where a tool is called, an answer is several replies.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from atp.agents import Agent, Request
from atp.artifacts import QUESTION, TESTED, read_provenance, read_turns, replies
from atp.errors import AtpError
from atp.rollout import sampling_seed
from atp.scenarios.scenario import Scenario
from atp.testbeds import TESTBEDS
from atp.testbeds.base import Prompt, Reply, Settings, Testbed, Turn
from atp.tools import Call, run_calls

#: Round, agent and step of a prompt in an episode.
Place = tuple[int, int, int]


@dataclass(frozen=True)
class Question:
    """A prompt of a scenario, and what follows replies to it: the next prompt of the same decision, or its turn."""

    scenario_id: str
    prompt: Prompt
    follow: Callable[[Sequence[str]], Prompt | Turn]

    def judge(self, *replies: str) -> Turn:
        """The turn that replies come to, where nothing is asked after them."""
        turn = self.follow(replies)
        assert isinstance(turn, Turn)
        return turn


@dataclass(frozen=True)
class Answer:
    """What an agent answered to a question: its replies, the prompts that they answer, and the turn they came to."""

    prompts: list[Prompt]
    replies: list[Reply]
    turn: Turn


def ask(
    agent: Agent, questions: Sequence[Question], seed: Callable[[int, int], int], first: Sequence[Prompt] = ()
) -> list[Answer]:
    """Ask an agent a batch of questions to their ends.

    Args:
        seed: of (number of the question, step).
        first: prompts to put in place of the questions' own.
    """
    agent.start()
    asked = [[prompt] for prompt in first or [question.prompt for question in questions]]
    said: list[list[Reply]] = [[] for _ in questions]
    turns: dict[int, Turn] = {}
    while still := [number for number in range(len(questions)) if number not in turns]:
        requests = [Request(number, asked[number][-1], seed(number, len(said[number]))) for number in still]
        for number, reply in zip(still, agent.answer(requests), strict=True):
            said[number].append(reply)
            found = questions[number].follow([each.text for each in said[number]])
            if isinstance(found, Turn):
                turns[number] = found
            else:
                asked[number].append(found)
    return [Answer(asked[number], said[number], turns[number]) for number in range(len(questions))]


def earned(turn: Turn) -> float:
    """The reward of the environment."""
    return turn.reward


def first_questions(scenarios: Sequence[Scenario], testbed: Testbed, settings: Mapping[str, object]) -> list[Question]:
    """What one player of each scenario is asked before it has any history; the players take turns.

    Args:
        settings: the testbed's, of which one round is played. Other players' first replies are the same.
    """
    once = testbed.settings(**{**settings, "rounds": 1})
    questions = []
    for number, scenario in enumerate(scenarios):
        prompts: Any = next(testbed.play(scenario, once, Random(0)))
        first = prompts[number % len(prompts)]
        questions.append(question(scenario, testbed, once, 0, {}, (first.round, first.agent, first.step)))
    return questions


def played_questions(turns: Path, scenarios: Sequence[Scenario], testbed: str) -> list[Question]:
    """Every question of recorded episodes; of the samples of one question, the first.

    Raises:
        AtpError: unreadable turns, turns of scenarios that are not there, or of the test split.
    """
    known = {scenario.scenario_id: scenario for scenario in scenarios}
    variants = read_provenance(turns).get("params", {}).get("variants")
    rows = read_turns(turns).to_pylist()
    if not rows or variants is None:
        raise AtpError(f"{turns}: " + ("no turns" if not rows else "does not say under which settings it was played"))
    said: dict[str, dict[Place, str]] = {}
    for row in rows:
        for step, reply in enumerate(replies(row)):
            said.setdefault(row["episode"], {})[row["round"], row["agent"], step] = reply
    questions: dict[tuple[object, ...], Question] = {}
    for row in rows:
        if row["split"] == "test":
            raise AtpError(f"{turns}: holds turns of the test split, which is never trained on")
        if row["scenario_id"] not in known:
            raise AtpError(f"{turns}: its scenario '{row['scenario_id']}' is not among the scenarios given")
        key = tuple(row[name] for name in QUESTION)
        if key in questions or row["role"] == TESTED:
            continue
        settings = TESTBEDS[testbed].settings(**variants[row["variant"]])
        seed = sampling_seed(row["seed"], row["scenario_id"], row["sample"], row["generation"], 0, 0)
        place = (row["round"], row["agent"], 0)
        questions[key] = question(
            known[row["scenario_id"]], TESTBEDS[testbed], settings, seed, said[row["episode"]], place
        )
    return list(questions.values())


def question(
    scenario: Scenario,
    testbed: Testbed,
    settings: Settings,
    seed: int,
    said: Mapping[Place, str],
    place: Place,
) -> Question:
    """The question at a place of an episode in which everybody else says what is recorded."""

    def follow(replies: Sequence[str]) -> Prompt | Turn:
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
                    answers.append(Reply(replies[prompt.step]))
                else:
                    same = "" if prompt.continues or not replies else replies[0]
                    answers.append(Reply(said.get(here, same)))
            try:
                opened = game.send(answers)
            except StopIteration as end:
                return next(turn for turn in end.value if (turn.round, turn.agent) == place[:2])

    prompt = follow(())
    assert isinstance(prompt, Prompt)
    return Question(scenario.scenario_id, prompt, follow)
