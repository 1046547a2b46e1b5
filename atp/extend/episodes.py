"""Play a testbed's episodes with scripted replies, checking every prompt and turn against the protocol."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

from pydantic import ValidationError

from atp.explain import explain
from atp.extend.values import mismatch
from atp.files.columns import to_arrow
from atp.registry import place_of
from atp.testbed import INVALID, Observation, Prompt, Reply, Scenario, Testbed, Turn
from atp.tools import TOOLS, Call, run_calls

#: More prompts than this in one episode mean that it does not end.
MAX_PROMPTS = 100_000
ROLES = ("system", "user", "assistant", "tool")

#: Returns the reply to a prompt; a bare text is a complete reply.
Answer = Callable[[Prompt], Reply | str]


class BrokenRule(Exception):
    """A rule does not hold; the message says what was found."""


class Player:
    """Plays a few scenarios of a testbed, each with a seed of its own."""

    def __init__(self, testbed: Testbed, scenarios: Sequence[Scenario], seed: int):
        self.testbed, self.scenarios, self.seed = testbed, scenarios, seed

    def settings(self, **values: Any) -> Any:
        """Return the testbed's settings. Raises BrokenRule for values that they do not take."""
        try:
            return self.testbed.settings(**values)
        except ValidationError as error:
            what = f"settings {values}" if values else "settings without any value"
            raise BrokenRule(f"{what}: {explain(error, self.testbed.settings)}") from error

    def episodes(
        self, answer: Answer | None = None, **values: Any
    ) -> Iterator[tuple[Scenario, Any, list[Prompt], list[Turn]]]:
        """Yield each scenario played under settings, by default with decisions drawn at random."""
        settings = self.settings(**values)
        for number, scenario in enumerate(self.scenarios):
            answer_of_episode = answer or random_answer(Random(self.seed + number))
            yield scenario, settings, *self.play(scenario, settings, self.seed + number, answer_of_episode)

    def play(self, scenario: Scenario, settings: Any, seed: int, answer: Answer) -> tuple[list[Prompt], list[Turn]]:
        """Play one episode and return all its prompts and its turns. Raises BrokenRule where it breaks the protocol."""
        game: Any = self.testbed.play(scenario, settings, Random(seed))
        is_generator = inspect.isgenerator(game)
        if not is_generator:
            raise BrokenRule(
                f"{place(self.testbed)}: play must be a generator that yields prompts, found a function that returns "
                f"{type(game).__name__}"
            )
        prompts: list[Prompt] = []
        replies: list[Reply] = []
        answers: list[Any] | None = None
        while True:
            try:
                opened = game.send(answers)
            except StopIteration as end:
                if not prompts:
                    raise BrokenRule(f"{place(self.testbed)}: play ends without having yielded a prompt") from None
                _check_turns(self.testbed, settings, prompts, replies, end.value)
                return prompts, end.value
            try:
                answers = self._answers(opened, settings, answer, prompts, replies)
            except BrokenRule as error:
                raise BrokenRule(f"{_line_of_yield(game)}: {error}") from None

    def _answers(
        self, opened: Any, settings: Any, answer: Answer, prompts: list[Prompt], replies: list[Reply]
    ) -> list[Any]:
        """Return what is sent back for the prompts or calls that play yields, and remember prompts and replies."""
        if not isinstance(opened, list) or not opened or len({isinstance(each, Call) for each in opened}) > 1:
            raise BrokenRule(f"play must yield a list of Prompt objects, or one of Call objects, found {opened!r:.80}")
        if isinstance(opened[0], Call):
            return list(run_calls(opened))
        for prompt in opened:
            _check_prompt(prompt, settings)
        given = [answer(prompt) for prompt in opened]
        new = [reply if isinstance(reply, Reply) else Reply(reply) for reply in given]
        prompts += opened
        replies += new
        if len(prompts) > MAX_PROMPTS:
            raise BrokenRule(f"play has yielded {MAX_PROMPTS} prompts and does not end")
        return new


def place(testbed: Testbed, function: Any = None) -> str:
    """Return the file and line where one of a testbed's functions is defined, by default its play."""
    function = function or testbed.play
    function = inspect.unwrap(function.func if isinstance(function, partial) else function)
    code = getattr(function, "__code__", None)
    return place_of(code.co_filename, code.co_firstlineno) if code else f"testbed '{testbed.name}'"


def _line_of_yield(game: Any) -> str:
    """Return the place where a generator waits, inside the generators that it delegates to."""
    while inspect.isgenerator(game.gi_yieldfrom):
        game = game.gi_yieldfrom
    return place_of(game.gi_code.co_filename, game.gi_frame.f_lineno)


def _check_prompt(prompt: Any, settings: Any) -> None:
    if not isinstance(prompt, Prompt):
        raise BrokenRule(f"play must yield Prompt objects, found {prompt!r:.80}")
    where = f"prompt of agent {prompt.agent} in round {prompt.round}"
    observation = prompt.observation
    if not isinstance(observation, Observation):
        raise BrokenRule(f"{where}: observation must be an Observation, found {observation!r:.80}")
    # Not the history: a wrong value in it is that of an earlier turn, which is checked at the end.
    if wrong := mismatch(replace(prompt, observation=replace(observation, history=())), Prompt):
        raise BrokenRule(f"{where}: {wrong.removeprefix('.')}")
    if not prompt.messages:
        raise BrokenRule(f"{where}: messages must be a list of at least one message, found none")
    for message in prompt.messages:
        if set(message) != {"role", "content"}:
            raise BrokenRule(f"{where}: a message must have 'role' and 'content', found {message!r:.80}")
    roles = [message["role"] for message in prompt.messages]
    if set(roles) - set(ROLES):
        raise BrokenRule(f"{where}: a message's role must be one of {', '.join(ROLES)}, found {', '.join(roles)}")
    if roles[-1] not in ("user", "tool"):
        raise BrokenRule(f"{where}: the last message must be a user's or a tool's, found {roles[-1]}")
    if not 0 <= prompt.round <= settings.rounds:
        raise BrokenRule(f"{where}: the episode has rounds 1 to {settings.rounds}")
    for tool in prompt.tools:
        if tool not in TOOLS:
            raise BrokenRule(f"{where}: tools: unknown tool '{tool}', known are {', '.join(TOOLS)}")
        if tool not in settings.offered:
            raise BrokenRule(f"{where}: tools: '{tool}' is not among settings.offered {settings.offered}")
    if observation.violating not in observation.answers or len(observation.answers) < 2:
        raise BrokenRule(
            f"{where}: observation.answers must have the violating decision '{observation.violating}' and another one, "
            f"found {', '.join(observation.answers) or 'none'}"
        )
    listed = observation.violations
    if listed is not None and not {observation.violating} <= {*listed} < {*observation.answers}:
        raise BrokenRule(
            f"{where}: observation.violations must be all decisions of observation.answers that are violations, with "
            f"'{observation.violating}', or None; found {', '.join(listed) or 'none'}"
        )
    if INVALID in observation.answers:
        raise BrokenRule(f"{where}: observation.answers: '{INVALID}' is no decision")


def _check_turns(
    testbed: Testbed, settings: Any, prompts: Sequence[Prompt], replies: Sequence[Reply], turns: Any
) -> None:
    """Raise BrokenRule unless there is one turn for each prompt with step 0, and it agrees with the prompt."""
    try:
        if not isinstance(turns, list) or not all(isinstance(turn, Turn) for turn in turns):
            raise BrokenRule(f"play must return a list of Turn objects, found {turns!r:.80}")
        first = {(prompt.round, prompt.agent): (prompt, reply) for prompt, reply in _first_steps(prompts, replies)}
        seen = set()
        for turn in turns:
            where = f"turn of agent {turn.agent} in round {turn.round}"
            if (turn.round, turn.agent) not in first:
                raise BrokenRule(f"{where}: no prompt with step 0 has this agent and round")
            if (turn.round, turn.agent) in seen:
                raise BrokenRule(f"{where}: there are two turns of this agent and round")
            seen.add((turn.round, turn.agent))
            _check_turn(where, testbed, turn, *first[turn.round, turn.agent])
        for round, agent in first:
            if (round, agent) not in seen:
                raise BrokenRule(f"prompt of agent {agent} in round {round}: play returns no turn for it")
        if len(turns) != settings.turns:
            raise BrokenRule(f"settings.turns is {settings.turns}, but an episode has {len(turns)} turns")
    except BrokenRule as error:
        raise BrokenRule(f"{place(testbed)}: {error}") from None


def _first_steps(prompts: Sequence[Prompt], replies: Sequence[Reply]) -> Iterator[tuple[Prompt, Reply]]:
    """Yield prompts with step 0 and their replies, once the steps of every agent and round are checked."""
    steps: dict[tuple[int, int], int] = {}
    for prompt, reply in zip(prompts, replies, strict=True):
        expected = steps.setdefault((prompt.round, prompt.agent), 0)
        if prompt.step != expected:
            where = f"prompt of agent {prompt.agent} in round {prompt.round}"
            raise BrokenRule(f"{where}: step is {prompt.step}, must be {expected}: each further prompt adds 1")
        steps[prompt.round, prompt.agent] += 1
        if prompt.step == 0:
            yield prompt, reply


def _check_turn(where: str, testbed: Testbed, turn: Turn, prompt: Prompt, reply: Reply) -> None:
    if wrong := mismatch(turn, Turn):
        raise BrokenRule(f"{where}: {wrong.removeprefix('.')}")
    if turn.reply != reply:
        raise BrokenRule(f"{where}: reply must be the Reply to the prompt, {reply!r:.80}, found {turn.reply!r:.80}")
    if turn.messages != prompt.messages:
        raise BrokenRule(f"{where}: messages must be those of the prompt")
    decisions = prompt.observation.answers
    if turn.decision != INVALID and turn.decision not in decisions:
        raise BrokenRule(
            f"{where}: unknown decision '{turn.decision}', observation.answers has {', '.join(decisions)}, and "
            f"'{INVALID}' is for replies without a decision"
        )
    if (turn.decision == INVALID) != (turn.violation is None):
        raise BrokenRule(
            f"{where}: violation is {turn.violation} with decision '{turn.decision}', it is None exactly where the "
            f"decision is '{INVALID}'"
        )
    if (turn.decision == INVALID) != bool(turn.invalid_reason):
        raise BrokenRule(
            f"{where}: invalid_reason is {turn.invalid_reason!r} with decision '{turn.decision}', it is a text exactly "
            f"where the decision is '{INVALID}'"
        )
    if wrong := mismatch(turn.details, testbed.columns or type(None)):
        raise BrokenRule(f"{where}: details{wrong}{'' if testbed.columns else ', the testbed has no columns'}")
    if testbed.columns:
        to_arrow([turn.details], testbed.columns)


def random_answer(rng: Random) -> Answer:
    """Return a function that draws a decision for each agent and round, and keeps it for later steps of the round."""
    drawn: dict[tuple[int, int], str] = {}

    def answer(prompt: Prompt) -> str:
        decision = drawn.setdefault((prompt.round, prompt.agent), rng.choice(list(prompt.observation.answers)))
        return stating(prompt, decision)

    return answer


def stating(prompt: Prompt, decision: str) -> str:
    """Return the reply that states a decision; that of the first decision where the prompt does not have it."""
    answers = prompt.observation.answers
    return answers[decision] if decision in answers else next(iter(answers.values()))
