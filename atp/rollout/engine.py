"""Play scenarios with an agent: many episodes in flight, one batch of open prompts a step, turns.parquet out.

Episodes are played in batches that are the same on every run, or one by one by an agent that answers each prompt when
it can (`atp.rollout.drive`). What is finished is written to a folder next to the output, so that a rollout that was
killed resumes there. Turns are in the same order however the replies come.
"""

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from atp.agents.base import Agent, ConcurrentAgent
from atp.agents.load import load_agent
from atp.errors import AtpError, Interrupted
from atp.files.provenance import Provenance, Stage, together
from atp.files.resume import unfinished
from atp.files.schemas import turns_schema
from atp.files.tables import LINEAGE, check_file, read_provenance, write_table
from atp.files.turns import read_turns
from atp.models.engines import resolve_engine
from atp.models.spec import ModelSpec
from atp.progress import Progress
from atp.registry import find_testbed, origins, sources
from atp.rollout.drive import play_batch, play_concurrently
from atp.rollout.table import TOKENS, AgentJob, Cell, PlannedEpisode, TestbedSettings
from atp.scenarios.scenario import read_scenarios
from atp.stopping import until_stopped
from atp.testbed import Scenario, Settings
from atp.tools import Call, run_calls

#: (1, 1): the whole of a rollout, as its only shard.
WHOLE = (1, 1)
#: Most rounds that all prompts of a batch may show together. A batch keeps its prompts to its end: that many take about
#: a gigabyte, and the texts of an Arrow column must stay below two.
MAX_SHOWN_ROUNDS = 400_000


#: (job, scenarios) -> the job's episodes.
Plan = Callable[["RolloutJob", Sequence[Scenario]], Sequence[PlannedEpisode]]


class RolloutJob(AgentJob):
    """Play a scenario file's split, or its rows limit[0]:limit[1]."""

    stage = "rollout"

    variants: dict[str, TestbedSettings] = Field(description="label -> the testbed's settings")
    split: Literal["train", "test"] | None = Field("test", description="None plays both")
    samples: int = Field(1, ge=1, description="episodes of each scenario and variant")
    limit: tuple[int, int] | None = None
    part: tuple[int, int] = Field(WHOLE, description="(k, n): the k-th of n shards, which `gather_stage` joins")


def rollout_stage(job: RolloutJob, scenarios: Path, out: Path, adapter: Path | None = None) -> None:
    """Play scenarios with an agent and write turns.parquet.

    Args:
        adapter: a trained agent's weights.

    Raises:
        AtpError: bad scenarios, model or adapter; fewer scenarios than `limit` needs.
        Interrupted: the stage was asked to stop.
    """
    rollout_stages([(job, out)], scenarios, adapter)


def rollout_stages(
    jobs: Sequence[tuple[RolloutJob, Path]],
    scenarios: Path,
    adapter: Path | None = None,
    others: Sequence[Path] = (),
    planned: Plan | None = None,
) -> None:
    """Run rollouts of one agent, which is loaded once. Raises as `rollout_stage` does, before the first one begins.

    Args:
        others: further inputs.
        planned: returns the episodes of a job, in place of `plan_episodes`; its module is the stage's code.
    """
    planned = planned or plan_episodes
    first, inputs = jobs[0][0], [scenarios, *([adapter] if adapter else []), *others]
    # The clock of a stage begins when it is made.
    stages = (agent_stage(job, planned.__module__, inputs) for job, _ in jobs)
    stage: Stage | None = next(stages)
    chosen = [_scenarios(job, scenarios, out) for job, out in jobs]
    check_organism(first.model, adapter, first.cell.testbed)
    agent = load_agent(first.cell.model, first.model, adapter, first.cell.testbed)
    for (job, out), played in zip(jobs, chosen, strict=True):
        play(planned(job, played), agent, job.cell, out, stage or next(stages), job.part)
        stage = None


def _scenarios(job: RolloutJob, scenarios: Path, out: Path) -> list[Scenario]:
    """Return the scenarios that a job plays, after checking that it can."""
    check_file(out, scenarios)
    chosen = read_scenarios(scenarios, job.cell.testbed, job.split)
    if job.limit:
        if job.limit[1] > len(chosen):
            raise AtpError(
                f"{scenarios}: has {len(chosen)} scenarios in split '{job.split}', {job.limit[1]} are needed"
            )
        chosen = chosen[slice(*job.limit)]
    testbed = find_testbed(job.cell.testbed)
    run_calls(
        [Call(tool, "") for settings in job.variants.values() for tool in settings.offered]
    )  # raises for an absent tool
    try:
        for scenario, settings in itertools.product(chosen, job.variants.values()):
            testbed.players(scenario, settings)
    except AtpError as error:
        raise AtpError(f"{scenarios}: {error}") from error
    return chosen


def agent_stage(job: AgentJob, module: str, inputs: Sequence[Path]) -> Stage:
    """Return a stage in which an agent plays a testbed: its code is the module's and the testbed's.

    Its params have the engine that plays, because replies depend on it and `auto` depends on the machine.
    """
    model = resolve_engine(job.model) if job.model else None
    local = [Path(model.path)] if model and Path(model.path).is_dir() else []
    code = [module, *sources(job.cell.testbed, job.stage), *origins("agents"), *origins("policies"), *origins("tools")]
    params = job.model_copy(update={"model": model}).params()
    return Stage(job.stage, code, params, [*inputs, *local], model.gpus if model else 0)


def gather_stage(shards: Sequence[Path], out: Path) -> None:
    """Concatenate the shards of a rollout, in their order, to the turns.parquet of the whole.

    Raises:
        AtpError: files that are not all shards of one rollout.
    """
    check_file(out)
    stage = Stage("rollout", __name__, {})
    provenances = [read_provenance(shard) for shard in shards]
    whole = [
        {**provenance, "cost": {}, "params": {**provenance["params"], "part": [*WHOLE]}} for provenance in provenances
    ]
    for number, (shard, provenance) in enumerate(zip(shards, provenances, strict=True), 1):
        if whole[number - 1] != whole[0] or provenance["params"].get("part") != [number, len(shards)]:
            raise AtpError(f"{shard}: is not shard {number} of {len(shards)} of the rollout of {shards[0]}")
    turns = pa.concat_tables(map(read_turns, shards))
    own = stage.spent() | {"starts": 0.0, "shards": float(len(shards))}
    cost = together([*(provenance["cost"] for provenance in provenances), own])
    write_table(turns, out, Provenance(**{**whole[0], "cost": cost}))


def check_organism(model: ModelSpec | None, adapter: Path | None, testbed: str) -> None:
    """Raise AtpError if an adapter was trained on another testbed's model organism: their weights have equal shapes."""
    if not (model and model.organism and adapter):
        return
    try:
        trained = json.loads((adapter / LINEAGE).read_text(encoding="utf-8"))["params"]["cell"]["testbed"]
    except (OSError, ValueError, KeyError):
        return
    if trained != testbed:
        raise AtpError(f"{adapter}: was trained on the model organism of testbed '{trained}', not of '{testbed}'")


def rollout(job: RolloutJob, scenarios: Sequence[Scenario], agent: Agent, out: Path, stage: Stage) -> None:
    """Play each scenario `job.samples` times in each variant and write turns.parquet to `out`."""
    play(plan_episodes(job, scenarios), agent, job.cell, out, stage, job.part)


def plan_episodes(job: RolloutJob, scenarios: Sequence[Scenario]) -> list[PlannedEpisode]:
    """Return the episodes of a job.

    Samples and variants of a scenario are in one batch, so that an agent can share the common part of their prompts.
    """
    return [
        PlannedEpisode(scenario, variant, settings, sample)
        for scenario in scenarios
        for sample in range(job.samples)
        for variant, settings in job.variants.items()
    ]


def play(
    episodes: Sequence[PlannedEpisode],
    agent: Agent,
    cell: Cell,
    out: Path,
    stage: Stage,
    part: tuple[int, int] = WHOLE,
) -> None:
    """Play episodes and write turns.parquet to `out`, resuming where an earlier start was stopped.

    A concurrent agent plays each episode on its own, another one whole batches. A shard is a run of batches, so its
    turns are those that the whole rollout has there.

    Raises:
        AtpError: the model's `max_tokens_total` is spent.
        Interrupted: the stage was asked to stop.
    """
    testbed = find_testbed(cell.testbed)
    size = 1
    if not isinstance(agent, ConcurrentAgent):
        players = max(testbed.players(episode.scenario, episode.settings) for episode in episodes)
        shown = players * max(
            map(_shown_rounds, {id(episode.settings): episode.settings for episode in episodes}.values())
        )
        size = max(1, min(agent.batch // players, MAX_SHOWN_ROUNDS // shown))
    all_batches = [episodes[start : start + size] for start in range(0, len(episodes), size)]
    batches = all_batches[(part[0] - 1) * len(all_batches) // part[1] : part[0] * len(all_batches) // part[1]]
    total = sum(map(len, batches))
    with unfinished(out, stage) as folder, until_stopped() as stopped:
        paths = [folder / f"{size}x{number:05}.parquet" for number in range(len(batches))]
        tables = [read_turns(path) if path.exists() else None for path in paths]
        missing = [number for number, table in enumerate(tables) if table is None]
        resumed = total - sum(len(batches[number]) for number in missing)
        progress = Progress(str(out), total, "episodes", skipped=resumed)
        tokens, limit = sum(map(_tokens, filter(None, tables))), getattr(agent, "max_tokens", None)

        def check_end() -> None:
            done = f"after {progress.done} of {total} episodes"
            if stopped.is_set():
                raise Interrupted(f"{out}: stopped {done}; a rerun resumes there")
            if limit is not None and tokens >= limit:
                raise AtpError(
                    f"{out}: {tokens} tokens spent {done}, max_tokens_total in the model's file allows "
                    f"{limit}; what is finished is kept, raise it and rerun to resume"
                )

        def finish(place: int, table: pa.Table) -> None:
            nonlocal tokens
            number = missing[place]
            tables[number] = table
            tokens += _tokens(table)
            write_table(table, paths[number], stage.provenance())
            stage.counts = dict(getattr(agent, "served", {}))  # requests, retries and refusals of a server
            stage.keep(folder)
            progress.advance(len(batches[number]), steps=len(table), last=progress.done + len(batches[number]) == total)
            if progress.done < total:
                check_end()

        if missing:
            check_end()
        if isinstance(agent, ConcurrentAgent):
            play_concurrently([batches[number][0] for number in missing], testbed, agent, cell, finish)
        else:
            for place, number in enumerate(missing):
                finish(place, play_batch(batches[number], testbed, agent, cell))
        turns = pa.concat_tables([turns_schema(testbed.columns).empty_table(), *filter(None, tables)])
        spent = {name: float(pc.sum(turns[name], min_count=0).as_py()) for name in TOKENS}
        counts = {"episodes": total, "resumed_episodes": resumed, "decisions": len(turns)}
        write_table(turns, out, stage.provenance(**counts, **spent))


def _tokens(table: pa.Table) -> int:
    """Return the tokens that the turns of a table cost, cached ones included."""
    return sum(pc.sum(table[name], min_count=0).as_py() for name in ("prompt_tokens", "completion_tokens"))


def _shown_rounds(settings: Settings) -> int:
    """Return how many rounds a player's prompts of an episode show in all: each its own and those it remembers."""
    return sum(1 + min(settings.window, before) for before in range(settings.rounds))
