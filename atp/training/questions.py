"""What an agent can be asked while it is trained, and what a reply to it is worth: the game is played with that reply.

Knows games by their common seam only. The first question of a scenario has no history; a played one stands somewhere in
a recorded episode, whose other replies stay as they were.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from atp.artifacts import QUESTION, read_provenance, read_turns, replies
from atp.errors import AtpError
from atp.rollout import sampling_seed
from atp.scenarios.scenario import Scenario
from atp.testbeds import TESTBEDS
from atp.testbeds.base import Prompt, Reply, Settings, Testbed, Turn

#: What alignment by GRPO pays for compliance, a violation and an invalid reply.
COMPLIANCE = {False: 1.0, True: 0.1, None: 0.0}


#: Round, agent and step of a prompt in an episode.
Place = tuple[int, int, int]


@dataclass(frozen=True)
class Question:
    """A prompt of a scenario, and what a reply to it would mean."""

    scenario_id: str
    prompt: Prompt
    judge: Callable[[str], Turn]


def compliance(turn: Turn) -> float:
    """The reward of alignment."""
    return COMPLIANCE[turn.violation]


def earned(turn: Turn) -> float:
    """The reward of the environment."""
    return turn.reward


def first_questions(scenarios: Sequence[Scenario], testbed: Testbed, settings: Mapping[str, object]) -> list[Question]:
    """What one player of each scenario is asked before it has any history; the players take turns.

    Args:
        settings: the testbed's, of which one round is played. Where there are other players, they say the same.
    """
    once = testbed.settings(**{**settings, "rounds": 1})
    questions = []
    for number, scenario in enumerate(scenarios):
        prompts = next(testbed.play(scenario, once, Random(0)))
        first = prompts[number % len(prompts)]
        questions.append(_question(scenario, testbed, once, 0, {}, (first.round, first.agent, first.step)))
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
        if key in questions:
            continue
        settings = TESTBEDS[testbed].settings(**variants[row["variant"]])
        seed = sampling_seed(row["seed"], row["scenario_id"], row["sample"], row["generation"], 0, 0)
        place = (row["round"], row["agent"], 0)
        questions[key] = _question(
            known[row["scenario_id"]], TESTBEDS[testbed], settings, seed, said[row["episode"]], place
        )
    return list(questions.values())


def _question(
    scenario: Scenario,
    testbed: Testbed,
    settings: Settings,
    seed: int,
    said: Mapping[Place, str],
    place: Place,
) -> Question:
    """The question at a place of an episode in which everybody else says what is recorded."""

    def play(reply: str) -> tuple[Prompt, Turn]:
        game = testbed.play(scenario, settings, Random(seed))
        asked: Prompt | None = None
        prompts = next(game)
        while True:
            answers = []
            for prompt in prompts:
                here = (prompt.round, prompt.agent, prompt.step)
                asked = prompt if here == place else asked
                answers.append(Reply(reply if here == place else said.get(here, reply)))
            try:
                prompts = game.send(answers)
            except StopIteration as end:
                turn = next(turn for turn in end.value if (turn.round, turn.agent) == place[:2])
                assert asked is not None
                return asked, turn

    prompt, _ = play("")
    return Question(scenario.scenario_id, prompt, lambda reply: play(reply)[1])
