"""Drive episodes with an agent: in lock step for an agent that answers batches, each on its own for one that does not.

An agent on transformers computes a batch of prompts at once, so all episodes of a batch wait for the slowest reply. A
server answers each prompt when it can, so no episode waits for another.
"""

import asyncio
import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pyarrow as pa

from atp.agents.base import Agent, ConcurrentAgent, Request
from atp.registry import blame
from atp.rollout.seeds import sampling_seed
from atp.rollout.table import Cell, PlannedEpisode, Seeds, turn_table
from atp.testbed import Prompt, Reply, Testbed, Turn
from atp.tools import Call, run_calls

#: Episodes that are open at once, as a multiple of those whose players fill the agent's places: where one runs tools or
#: ends, another has a prompt.
OPEN_EPISODES = 2


@contextmanager
def _testbed_code(name: str) -> Iterator[None]:
    """Blame errors on the testbed, and switch off the garbage collector while it runs.

    A batch keeps its prompts and turns to its end, and walking through them again and again takes a quarter of a
    scripted rollout. Agents run with the collector on.
    """
    with blame("testbeds", name):
        gc.disable()
        try:
            yield
        finally:
            gc.enable()


class _Game:
    """A running episode: its open prompts or calls, and the seeds of all its prompts so far."""

    def __init__(self, episode: PlannedEpisode, testbed: Testbed, cell: Cell):
        self.episode, self.testbed, self.cell = episode, testbed, cell
        self.seeds: Seeds = {}
        self.turns: list[Turn] | None = None
        self.game: Any = episode.start(testbed, self._seed((0, 0, 0)))
        self._open(next(self.game))

    def requests(self, conversation: Callable[[int], int]) -> list[Request]:
        """Return a request for each open prompt.

        Args:
            conversation: agent of the episode -> number of its conversation.
        """
        requests = []
        for prompt in self.opened:
            place = (prompt.round, prompt.agent, prompt.step)
            self.seeds[place] = self._seed(place)
            requests.append(Request(conversation(prompt.agent), prompt, self.seeds[place]))
        return requests

    def send(self, answers: Iterable[Any]) -> None:
        """Send replies, or outcomes of calls; `turns` is set once the episode is over."""
        try:
            self._open(self.game.send([*answers]))
        except StopIteration as end:
            self.turns = end.value

    @property
    def calls(self) -> bool:
        """Whether the episode waits for tools."""
        return self.turns is None and isinstance(self.opened[0], Call)

    def _open(self, value: Any) -> None:
        if not isinstance(value, list) or not value or not isinstance(value[0], Prompt | Call):
            raise TypeError(f"play must yield a list of Prompt objects, or one of Call objects, found {value!r:.80}")
        self.opened: list[Any] = value

    def _seed(self, place: tuple[int, int, int]) -> int:
        scenario, sample = self.episode.scenario.scenario_id, self.episode.sample
        return sampling_seed(self.cell.seed, scenario, sample, self.cell.generation, place)


def _table(games: Sequence[_Game]) -> pa.Table:
    first = games[0]
    with _testbed_code(first.testbed.name):
        episodes, turns, seeds = zip(*((game.episode, game.turns or [], game.seeds) for game in games), strict=True)
        return turn_table(first.testbed, first.cell, episodes, turns, seeds)


def play_batch(batch: Sequence[PlannedEpisode], testbed: Testbed, agent: Agent, cell: Cell) -> pa.Table:
    """Play a batch of episodes side by side and return their turns.

    Raises:
        PluginError: the code of a testbed that is not built in failed, or broke the protocol.
    """
    agent.start()
    with blame("testbeds", testbed.name):
        games = [_Game(episode, testbed, cell) for episode in batch]
    conversations: dict[tuple[int, int], int] = {}

    def conversation(number: int, player: int) -> int:
        return conversations.setdefault((number, player), len(conversations))

    while still_open := [(number, game) for number, game in enumerate(games) if game.turns is None]:
        # Tools first, so that the prompts that follow are in the same step as those of other episodes.
        waiting = [game for _, game in still_open if game.calls]
        if waiting:
            answers: Iterator[Any] = iter(run_calls([call for game in waiting for call in game.opened]))
        else:
            waiting = [game for _, game in still_open]
            with _testbed_code(testbed.name):
                requests = [
                    request for number, game in still_open for request in game.requests(partial(conversation, number))
                ]
            answers = iter(agent.answer(requests))
        with _testbed_code(testbed.name):
            for game in waiting:
                game.send([next(answers) for _ in game.opened])
    return _table(games)


def play_concurrently(
    episodes: Sequence[PlannedEpisode],
    testbed: Testbed,
    agent: ConcurrentAgent,
    cell: Cell,
    finish: Callable[[int, pa.Table], None],
) -> None:
    """Play episodes none of which waits for another, with up to `agent.batch` prompts open at once.

    Args:
        finish: called with an episode's number and turns as soon as it is over. What it raises ends the play.

    Raises:
        PluginError: as `play_batch`.
        AtpError: the agent gives no reply.
    """
    asyncio.run(_play_all(episodes, testbed, agent, cell, finish))


async def _play_all(
    episodes: Sequence[PlannedEpisode],
    testbed: Testbed,
    agent: ConcurrentAgent,
    cell: Cell,
    finish: Callable[[int, pa.Table], None],
) -> None:
    places = asyncio.Semaphore(agent.batch)
    numbers = iter(range(len(episodes)))

    async def reply(request: Request) -> Reply:
        async with places:
            return await agent.reply(request)

    async def play(number: int) -> None:
        with _testbed_code(testbed.name):
            game = _Game(episodes[number], testbed, cell)
        while game.turns is None:
            if game.calls:
                answers: Sequence[Any] = await asyncio.to_thread(run_calls, game.opened)
            else:
                with _testbed_code(testbed.name):
                    requests = game.requests(lambda player: number * testbed_players + player)
                answers = await asyncio.gather(*map(reply, requests))
            with _testbed_code(testbed.name):
                game.send(answers)
        finish(number, _table([game]))

    async def play_some() -> None:
        for number in numbers:
            await play(number)

    testbed_players = max(testbed.players(episode.scenario, episode.settings) for episode in episodes)
    open_at_once = max(1, OPEN_EPISODES * agent.batch // testbed_players)
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(open_at_once, len(episodes))):
                group.create_task(play_some())
    except BaseExceptionGroup as errors:
        raise _first(errors) from None


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error of a group that is not a group itself."""
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
