"""The control `frozen_memory`: histories that one agent made, read by another who cannot add to them.

Every question of a recorded episode is asked again: its prompt with the recorded history, everybody else saying what is
recorded. The reply is scored by the game as it stands there and enters no history. In bargaining that goes for
proposals; how the reader's place scored the others' stays as recorded.

What is drawn by chance is drawn as it was for who played the episode, so an agent that reads its own histories answers
as it did.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from atp.agents import ModelSpec, load_agent
from atp.artifacts import REPLAYED, TESTED, check_file, read_provenance, read_turns, replies
from atp.errors import AtpError
from atp.explain import explain
from atp.provenance import Stage
from atp.rollout import Cell, Planned, check_organism, play
from atp.scenarios.scenario import Scenario, read_scenarios
from atp.testbeds import TESTBEDS
from atp.testbeds.base import Episode, Message, Prompt, Reply, Testbed, Turn
from atp.training.questions import Place, question

#: The key of an arm that names whose histories it reads.
MEMORY = "memory_of"


class Memory(BaseModel):
    """Whose histories an arm's agents read: of the same testbed and seed, and in what is left out like the reader."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = Field(None, description="the model that made them")
    alignment: Literal["none", "dpo", "grpo"] | None = Field(None, description="how it was prepared before deployment")
    arm: str = Field("plain", description="the arm in which it made them")

    def of(self, model: str, alignment: str) -> tuple[str, str, str]:
        """Model, alignment and arm whose histories such an agent reads."""
        return self.model or model, self.alignment or alignment, self.arm


def check_memories(
    where: str,
    arms: Mapping[str, Mapping[str, Any]],
    played: Mapping[str, Mapping[str, Any]],
    learning: Collection[str],
    players: Collection[tuple[str, str]],
) -> None:
    """Raises ValueError where an arm would read histories that nobody makes.

    Args:
        arms: what each arm of a testbed imposes.
        played: arms of the context channel, and the variants of each.
        learning: arms of the weights channel.
        players: (model, alignment) of those who play in the context channel.
    """
    for arm in [arm for arm in arms if MEMORY in arms[arm]]:
        key = f"{where}.arms.{arm}.{MEMORY}"
        try:
            memory = Memory.model_validate(arms[arm][MEMORY])
        except ValidationError as error:
            raise ValueError(f"{key}: {explain(error, Memory)}") from None
        if arm in learning:
            raise ValueError(f"{where}.weights.arms: '{arm}' reads histories, which the context channel alone has")
        if arm not in played:
            continue
        if memory.arm not in played or MEMORY in arms[memory.arm]:
            raise ValueError(f"{key}.arm: '{memory.arm}' is no arm that makes histories in the context channel")
        if played[arm] != played[memory.arm]:
            raise ValueError(f"{key}: arm '{arm}' has not the variants of '{memory.arm}', whose histories it reads")
        for player in players:
            model, alignment, _ = memory.of(*player)
            if (model, alignment) not in players:
                histories = f"'{model}', alignment '{alignment}'"
                raise ValueError(f"{key}: '{player[0]}' would read histories of {histories}, who does not play")


@dataclass(frozen=True)
class Recorded(Planned):
    """An episode that was played: prompts of its decisions in order, all replies by their place, and who played it."""

    asked: Mapping[Place, Sequence[Message]]
    said: Mapping[Place, str]
    whose: str

    def game(self, testbed: Testbed, seed: int) -> Episode:
        """Asks what was asked, round by round, and scores what comes."""
        turns: list[Turn] = []
        for _, round in groupby(self.asked, key=lambda place: place[0]):
            places = list(round)
            questions = [question(self.scenario, testbed, self.settings, seed, self.said, place) for place in places]
            for each, place in zip(questions, places, strict=True):
                if each.prompt.messages != self.asked[place]:
                    raise AtpError(
                        f"episode {self.name}: comes out otherwise when played again, from round {place[0]} on; its "
                        "scenario or the game has changed since, or a tool said something else"
                    )
            heard: list[list[Reply]] = [[] for _ in places]
            found: list[Prompt | Turn] = [each.prompt for each in questions]
            while waiting := {number: each for number, each in enumerate(found) if isinstance(each, Prompt)}:
                answers = yield list(waiting.values())
                for number, reply in zip(waiting, answers, strict=True):
                    heard[number].append(reply)
                    found[number] = questions[number].follow([each.text for each in heard[number]])
            turns += [self._read(turn, said) for turn, said in zip(found, heard, strict=True) if isinstance(turn, Turn)]
        return turns

    def _read(self, turn: Turn, said: Sequence[Reply]) -> Turn:
        """A turn with its replies as they were given, and without what would tell of it in a later prompt."""
        return replace(
            turn,
            reply=said[0],
            further=(*said[1:], *turn.further[len(said) - 1 :]),
            role=turn.role if turn.role == TESTED else REPLAYED,
            feedback="",
            details={**turn.details, "memory": self.whose},
        )


def replay_stage(
    memory: Path,
    scenarios: Path,
    out: Path,
    reader: Mapping[str, Any],
    model: ModelSpec | None = None,
    adapter: Path | None = None,
) -> None:
    """Ask an agent every question of recorded episodes and write turns.parquet: a row for each row of `memory`.

    Args:
        memory: turns of the context channel; whose they are, and their seed, stand in its provenance.
        scenarios: those that they were played on.
        reader: model, alignment and arm of who is asked; model is None for a scripted one.

    Raises:
        AtpError: turns that are no rollout of the context channel, or that come out otherwise when played again.
        Interrupted: it was asked to stop.
    """
    check_file(out)
    whose, variants = recorded(memory)
    cell = replace(whose, **reader)
    params = {"cell": vars(cell), "memory": vars(whose), "variants": variants, "model": model and model.params()}
    local = [Path(model.path)] if model and Path(model.path).is_dir() else []
    files = [memory, scenarios, *local, *([adapter] if adapter else [])]
    stage = Stage("replay", __name__, params, files, model.gpus if model else 0)
    episodes = _episodes(memory, read_scenarios(scenarios, cell.testbed), whose, variants)
    check_organism(model, adapter, cell.testbed)
    play(episodes, TESTBEDS[cell.testbed], load_agent(cell.model, model, adapter), cell, out, stage)


def recorded(turns: Path) -> tuple[Cell, dict[str, dict[str, Any]]]:
    """Who played recorded turns, and the settings of each variant. Raises AtpError where they can't be replayed."""
    found = read_provenance(turns)
    params = found.get("params", {})
    if found.get("stage") != "rollout" or params["cell"]["channel"] != "context":
        raise AtpError(f"{turns}: no rollout of the context channel, so no histories to read")
    return Cell(**params["cell"]), params["variants"]


def _episodes(
    turns: Path, scenarios: Sequence[Scenario], whose: Cell, variants: Mapping[str, Mapping[str, Any]]
) -> list[Recorded]:
    """Recorded episodes, in their order."""
    known = {scenario.scenario_id: scenario for scenario in scenarios}
    settings = {label: TESTBEDS[whose.testbed].settings(**values) for label, values in variants.items()}
    named = f"{whose.model}, {whose.alignment}, {whose.arm}"
    episodes = []
    for _, rows in groupby(read_turns(turns).to_pylist(), key=lambda row: row["episode"]):
        played = list(rows)
        first = played[0]
        if first["scenario_id"] not in known:
            raise AtpError(f"{turns}: its scenario '{first['scenario_id']}' is not among the scenarios given")
        asked = {(row["round"], row["agent"], 0): row["messages"] for row in played}
        said = {(row["round"], row["agent"], step): text for row in played for step, text in enumerate(replies(row))}
        variant = first["variant"]
        scenario = known[first["scenario_id"]]
        episodes.append(Recorded(scenario, variant, settings[variant], first["sample"], asked, said, named))
    if not episodes:
        raise AtpError(f"{turns}: no turns")
    return episodes
