"""Episodes whose prompts show a memory. The memory does not change while they are played.

An agent that keeps lessons or a notebook writes a text after each episode of its deployment, as the reply to a further
prompt of its last round.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import Field

from atp.files.schemas import DEPLOYMENT, EMPTIED
from atp.files.turns import decision_messages
from atp.memory.recall import WRITTEN, Entry, Memory, Recall, past_rounds, read_memory, with_memory
from atp.registry import find_testbed
from atp.rollout.engine import RolloutJob, rollout_stages
from atp.rollout.table import PlannedEpisode
from atp.testbed import TESTED, Message, Prompt, Scenario, Testbed, Turn

ASKED = {
    "reflection": "The task is over. Write a lesson from it, in one or two sentences, that helps you in later tasks.",
    "notebook": "The task is over. Rewrite your notebook, in a few sentences, so that it helps you in later tasks.",
}


class MemoryRolloutJob(RolloutJob):
    """Play scenarios with a memory. The variant `emptied` is played without it."""

    stage = "memory_rollout"

    recall: Recall = Field(description="what prompts show of the memory")


@dataclass(frozen=True)
class RememberingEpisode(PlannedEpisode):
    """An episode whose prompts show a memory.

    Args:
        writes: whether the agent writes a lesson after it.
    """

    memory: Memory
    writes: bool

    def start(self, testbed: Testbed, seed: int) -> Any:
        return _Remembering(self, testbed).play(super().start(testbed, seed))


class _Remembering:
    """A running episode: what each player is shown, and its prompts so far."""

    def __init__(self, episode: RememberingEpisode, testbed: Testbed):
        self.memory, self.writes, self.several = episode.memory, episode.writes, testbed.several_players
        self.shown: dict[int, list[Entry]] = {}
        self.first: dict[tuple[int, int], list[Message]] = {}
        self.last: dict[tuple[int, int], Prompt] = {}

    def play(self, game: Any) -> Any:
        """Yield the prompts of the testbed's generator with the memory, and return its turns with these prompts."""
        opened = next(game)
        while True:
            if isinstance(opened, list) and all(isinstance(item, Prompt) for item in opened):
                opened = [self._remind(prompt) for prompt in opened]
            answers = yield opened
            try:
                opened = game.send(answers)
            except StopIteration as end:
                turns = end.value
                break
        if not isinstance(turns, list):
            return turns  # refused as any testbed's
        turns = [replace(turn, messages=self.first[turn.round, turn.agent]) for turn in turns]
        return (yield from self._reflect(turns)) if self.writes else turns

    def _remind(self, prompt: Prompt) -> Prompt:
        recall, seen = self.memory.recall, prompt.observation
        if prompt.agent not in self.shown:
            question = next(message["content"] for message in prompt.messages if message["role"] == "user")
            self.shown[prompt.agent] = self.memory.shown(prompt.agent, question)
        entries = self.shown[prompt.agent]
        observation = replace(seen, history=(*past_rounds(entries, recall), *seen.history))
        reminded = replace(prompt, messages=with_memory(prompt.messages, entries, recall), observation=observation)
        place = prompt.round, prompt.agent
        self.first.setdefault(place, reminded.messages)
        self.last[place] = reminded
        return reminded

    def _reflect(self, turns: list[Turn]) -> Any:
        """Ask for a text after the last turn of each player, and return the turns with these texts as later replies."""
        recall = self.memory.recall
        writers = last_turns([(turn.role, turn.agent) for turn in turns], self.several)
        lessons = yield [self._question(turns[place], ASKED[recall.kind]) for place in writers]
        for place, lesson in zip(writers, lessons, strict=True):
            turns[place] = replace(turns[place], later_replies=(*turns[place].later_replies, lesson))
        return turns

    def _question(self, turn: Turn, text: str) -> Prompt:
        last = self.last[turn.round, turn.agent]
        replies = {"reply": turn.reply.text, "later_replies": [reply.text for reply in turn.later_replies]}
        decision = decision_messages({**replies, "tool_results": turn.tool_results})
        asked = {"role": "user", "content": "\n".join(part for part in (turn.feedback, text) if part)}
        answers = {decision: f"Next time: {decision}." for decision in last.observation.answers}
        observation = replace(last.observation, answers=answers, violations=None)
        messages = [*turn.messages, *decision, asked]
        return replace(last, messages=messages, observation=observation, step=last.step + 1, continues=False)


def last_turns(players: Sequence[tuple[str, int]], several_players: bool) -> list[int]:
    """Return the places of each player's last turn that enters a history.

    Args:
        players: role and agent of each turn.
    """
    last = {agent if several_players else 0: at for at, (role, agent) in enumerate(players) if role != TESTED}
    return sorted(last.values())


def memory_rollout_stages(
    jobs: Sequence[tuple[MemoryRolloutJob, Path]], scenarios: Path, memory: Path | None, adapter: Path | None = None
) -> None:
    """Run rollouts of one agent with a memory, which is loaded once.

    Args:
        memory: memory.parquet; None for an agent that has none yet.

    Raises:
        AtpError: as `rollout_stages`; a memory of another testbed.
        Interrupted: the stage was asked to stop.
    """
    testbed = find_testbed(jobs[0][0].cell.testbed)
    rows = read_memory(memory, testbed.name).to_pylist() if memory else []

    def plan_remembering(job: RolloutJob, played: Sequence[Scenario]) -> list[PlannedEpisode]:
        assert isinstance(job, MemoryRolloutJob)
        remembered = Memory(rows, job.recall, testbed.several_players)
        return list(chain.from_iterable(_episodes(job, scenario, remembered) for scenario in played))

    rollout_stages(jobs, scenarios, adapter, [memory] if memory else [], plan_remembering)


def _episodes(job: MemoryRolloutJob, scenario: Scenario, memory: Memory) -> list[PlannedEpisode]:
    """Return a scenario's samples and variants, which are in one batch as those of any rollout."""
    episodes = list[PlannedEpisode]()
    for sample in range(job.samples):
        for variant, settings in job.variants.items():
            if variant == EMPTIED:
                episodes.append(PlannedEpisode(scenario, variant, settings, sample))
            else:
                writes = variant == DEPLOYMENT and job.recall.kind in WRITTEN
                episodes.append(RememberingEpisode(scenario, variant, settings, sample, memory, writes))
    return episodes
