"""Transplanted histories: an agent answers every prompt of episodes that another agent played.

Each prompt of a recorded episode is asked again, with the recorded history and all other replies as recorded. The reply
is scored where it stands and enters no history, so the agent cannot change what it reads. Chance is drawn as it was for
the recorded agent: an agent that reads its own histories answers as it did.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from atp.agents.load import load_agent
from atp.errors import AtpError
from atp.explain import explain
from atp.files.tables import check_file, read_provenance
from atp.files.turns import read_turns
from atp.rollout.branching import Place, question, recorded_replies
from atp.rollout.engine import RolloutJob, agent_stage, check_organism, play
from atp.rollout.table import AgentJob, PlannedEpisode
from atp.rollout.yoked import PAYMENTS_FROM, yoked_episodes
from atp.scenarios.scenario import read_scenarios
from atp.testbed import TESTED, TRANSPLANTED, Episode, Message, Prompt, Reply, Scenario, Testbed, Turn

#: Key of a condition whose agents read another agent's histories.
HISTORY_FROM = "history_from"
#: Keys of conditions that need recorded episodes, each with the keys of `HistorySource`.
RECORDED_FROM = (HISTORY_FROM, PAYMENTS_FROM)


class HistorySource(BaseModel):
    """Whose episodes a condition reads or is paid: of the same testbed and seed; by default the agent's own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = Field(None, description="the model that played them")
    alignment: str | None = Field(None, description="its alignment before deployment")
    condition: str = Field("baseline", description="the condition under which it played them")

    def of(self, model: str, alignment: str) -> tuple[str, str, str]:
        """Return model, alignment and condition of the histories that an agent reads."""
        return self.model or model, self.alignment or alignment, self.condition


def check_history_sources(
    where: str,
    conditions: Mapping[str, Mapping[str, Any]],
    played: Mapping[str, Mapping[str, Any]],
    learning: Collection[str],
    players: Collection[tuple[str, str]],
) -> None:
    """Raise ValueError where a condition would read histories that the study does not play.

    Args:
        conditions: what each condition of a testbed overrides.
        played: conditions of the context channel, and the variants of each.
        learning: conditions of the weights channel.
        players: (model, alignment) of the agents in the context channel.
    """
    named = [(name, each) for name in conditions for each in RECORDED_FROM if each in conditions[name]]
    for condition, kind in named:
        key = f"{where}.conditions.{condition}.{kind}"
        if len([name for name, _ in named if name == condition]) > 1:
            raise ValueError(f"{key}: a condition has {HISTORY_FROM} or {PAYMENTS_FROM}, not both")
        try:
            source = HistorySource.model_validate(conditions[condition][kind])
        except ValidationError as error:
            raise ValueError(f"{key}: {explain(error, HistorySource)}") from None
        if condition in learning:
            raise ValueError(f"{where}.weights.conditions: '{condition}' has {kind}, which only context can have")
        if condition not in played:
            continue
        if source.condition not in played or source.condition in dict(named):
            raise ValueError(f"{key}.condition: '{source.condition}' plays no histories in the context channel")
        if played[condition] != played[source.condition]:
            raise ValueError(f"{key}: condition '{condition}' must have the variants of '{source.condition}'")
        for player in players:
            model, alignment, _ = source.of(*player)
            if (model, alignment) not in players:
                raise ValueError(
                    f"{key}: '{player[0]}' would read histories of '{model}', alignment '{alignment}', which the study "
                    "does not play"
                )


@dataclass(frozen=True)
class RecordedEpisode(PlannedEpisode):
    """A recorded episode: the prompts of its decisions in order, all replies by place, and the name of its agent."""

    prompts: Mapping[Place, Sequence[Message]]
    replies: Mapping[Place, Reply]
    history_from: str

    def start(self, testbed: Testbed, seed: int) -> Episode:
        """Yield the recorded prompts, round by round, and score the replies."""
        turns: list[Turn] = []
        for _, round in groupby(self.prompts, key=lambda place: place[0]):
            places = list(round)
            questions = [question(self.scenario, testbed, self.settings, seed, self.replies, place) for place in places]
            for each, place in zip(questions, places, strict=True):
                if each.prompt.messages != self.prompts[place]:
                    raise AtpError(
                        f"episode {self.name}: differs from the recording from round {place[0]} on when it is played "
                        "again; its scenario or the testbed has changed since, or a tool returned another result"
                    )
            answers: list[list[Reply]] = [[] for _ in places]
            following: list[Prompt | Turn] = [each.prompt for each in questions]
            while waiting := {number: each for number, each in enumerate(following) if isinstance(each, Prompt)}:
                new = yield list(waiting.values())
                for number, reply in zip(waiting, new, strict=True):
                    answers[number].append(reply)
                    following[number] = questions[number].follow(answers[number])
            scored = zip(following, answers, strict=True)
            turns += [self._transplanted(turn, answer) for turn, answer in scored if isinstance(turn, Turn)]
        return turns

    def _transplanted(self, turn: Turn, answer: Sequence[Reply]) -> Turn:
        """Return a turn with the replies as the agent gave them, and without feedback for a later prompt."""
        return replace(
            turn,
            reply=answer[0],
            later_replies=(*answer[1:], *turn.later_replies[len(answer) - 1 :]),
            role=turn.role if turn.role == TESTED else TRANSPLANTED,
            feedback="",
            history_from=self.history_from,
        )


class TransplantJob(AgentJob):
    """Ask an agent, whose cell this is, every prompt of recorded episodes, or pay it what they earned."""

    stage = "transplant"

    payments: bool = Field(False, description="play new episodes that pay recorded rewards (`atp.rollout.yoked`)")


def transplant_stage(
    job: TransplantJob, histories: Path, scenarios: Path, out: Path, adapter: Path | None = None
) -> None:
    """Play recorded episodes with an agent and write turns.parquet, one row for each row of `histories`.

    The agent is asked every recorded prompt; with `job.payments` it plays again and is paid the recorded rewards.

    Args:
        histories: turns of the context channel, whose agent, seed and variants are in their metadata.
        scenarios: the scenarios of these episodes.

    Raises:
        AtpError: turns that are no rollout of the context channel, or that differ when they are played again.
        Interrupted: the stage was asked to stop.
    """
    check_file(out, histories, scenarios)
    recorded = recording(histories)
    cell = replace(job.cell, testbed=recorded.cell.testbed, seed=recorded.cell.seed)
    played = job.model_copy(update={"cell": cell})
    stage = agent_stage(played, __name__, [histories, scenarios, *([adapter] if adapter else [])])
    source = PAYMENTS_FROM if job.payments else HISTORY_FROM
    stage.params |= recorded.model_dump(mode="json", include={"variants"}) | {source: vars(recorded.cell)}
    episodes_of = yoked_episodes if job.payments else _episodes
    episodes = episodes_of(histories, read_scenarios(scenarios, cell.testbed), recorded)
    check_organism(job.model, adapter, cell.testbed)
    play(episodes, load_agent(cell.model, job.model, adapter, cell.testbed), cell, out, stage)


def recording(turns: Path) -> RolloutJob:
    """Return the job that recorded turns. Raises AtpError if they cannot be replayed."""
    provenance = read_provenance(turns)
    params = provenance.get("params", {})
    if provenance.get("stage") != RolloutJob.stage or params["cell"]["channel"] != "context":
        raise AtpError(f"{turns}: is not a rollout of the context channel, so it has no histories")
    return RolloutJob(**{**params, "model": None})  # its address is not recorded, and it is not needed


def _episodes(turns: Path, scenarios: Sequence[Scenario], recorded: RolloutJob) -> list[RecordedEpisode]:
    """Return recorded episodes in their order."""
    known, cell, settings = {scenario.scenario_id: scenario for scenario in scenarios}, recorded.cell, recorded.variants
    history_from = f"{cell.model}, {cell.alignment}, {cell.condition}"
    episodes = []
    for _, group in groupby(read_turns(turns).to_pylist(), key=lambda row: row["episode"]):
        rows = list(group)
        first = rows[0]
        if first["scenario_id"] not in known:
            raise AtpError(f"{turns}: its scenario '{first['scenario_id']}' is not among the scenarios given")
        prompts = {(row["round"], row["agent"], 0): row["messages"] for row in rows}
        given = {
            (row["round"], row["agent"], step): reply
            for row in rows
            for step, reply in enumerate(recorded_replies(row))
        }
        variant, scenario = first["variant"], known[first["scenario_id"]]
        episodes.append(
            RecordedEpisode(scenario, variant, settings[variant], first["sample"], prompts, given, history_from)
        )
    if not episodes:
        raise AtpError(f"{turns}: no turns")
    return episodes
