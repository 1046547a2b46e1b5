"""Play scenarios: many episodes in flight, one batch of open prompts a step, turns out.

Knows neither games' rules nor how agents answer. Episodes are played in batches of fixed make-up; each finished batch
is written as a shard, so that a killed rollout goes on where it was and its turns are those of an undisturbed one.
"""

import gc
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from atp.agents import Agent, ModelSpec, Request, load_agent
from atp.artifacts import (
    LATER,
    LINEAGE,
    MESSAGE,
    TOLD,
    TURNS,
    check_file,
    read_provenance,
    read_turns,
    unfinished,
    write_table,
)
from atp.errors import AtpError, Interrupted
from atp.progress import Progress
from atp.provenance import Provenance, Stage, together
from atp.scenarios.scenario import Scenario, read_scenarios
from atp.stopping import until_stopped
from atp.testbeds import TESTBEDS
from atp.testbeds.base import Message, Reply, Settings, Testbed, Turn
from atp.tools import Call, run_calls

TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens")
OF_SCENARIO = ("scenario_id", "environment", "split")
NOT_AS_IS = ("messages", "reply", "details")
#: Columns that a turn has under the same name.
OF_TURN = [field.name for field in fields(Turn) if field.name in TURNS.names and field.name not in NOT_AS_IS]

#: The one shard of one.
WHOLE = (1, 1)
#: Rounds that all prompts of a batch together may show, which are kept to its end: about a gigabyte, where a column's
#: texts must stay below two.
MOST_SHOWN = 400_000
#: Round, agent and step of a prompt -> its sampling seed.
Seeds = dict[tuple[int, int, int], int]


@dataclass(frozen=True)
class Cell:
    """Where turns belong: one line of evidence, and the point on its channel."""

    model: str
    testbed: str
    alignment: str
    arm: str
    seed: int
    channel: str
    generation: int


@dataclass(frozen=True)
class Planned:
    """An episode to be played."""

    scenario: Scenario
    variant: str
    settings: Settings
    sample: int

    @property
    def name(self) -> str:
        return f"{self.scenario.scenario_id}/{self.variant}/{self.sample}"

    def game(self, testbed: Testbed, seed: int) -> Any:
        """The game, whose chance goes by a seed."""
        return testbed.play(self.scenario, self.settings, Random(seed))


def rollout_stage(
    scenarios: Path,
    out: Path,
    cell: Cell,
    variants: Mapping[str, Mapping[str, Any]],
    split: str | None,
    samples: int,
    limit: tuple[int, int] | None = None,
    model: ModelSpec | None = None,
    adapter: Path | None = None,
    part: tuple[int, int] = WHOLE,
) -> None:
    """Play a scenario file's split (or its rows limit[0]:limit[1]) and write turns.parquet.

    variants maps each label to the testbed's settings. model is None for a scripted agent. part (k, n) plays the k-th
    of n shards alone, which `gather_stage` puts together.

    Raises:
        AtpError: bad scenarios, model or adapter, fewer scenarios than `limit` asks for.
        Interrupted: it was asked to stop.
    """
    check_file(out)
    params = {
        "cell": asdict(cell),
        "variants": {label: dict(settings) for label, settings in variants.items()},
        "split": split,
        "samples": samples,
        "limit": limit,
        "model": model and model.params(),
        "part": part,
    }
    local = [Path(model.path)] if model and Path(model.path).is_dir() else []
    files = [scenarios, *local, *([adapter] if adapter else [])]
    stage = Stage("rollout", __name__, params, files, model.gpus if model else 0)
    chosen = read_scenarios(scenarios, cell.testbed, split)
    if limit:
        if limit[1] > len(chosen):
            raise AtpError(f"{scenarios}: {len(chosen)} scenarios in split '{split}', {limit[1]} are needed")
        chosen = chosen[slice(*limit)]
    testbed = TESTBEDS[cell.testbed]
    settings = {label: testbed.settings(**values) for label, values in variants.items()}
    run_calls(
        [Call(tool, "") for each in settings.values() for tool in each.offered]
    )  # each can be had here, or it says so
    try:
        for scenario, chosen_settings in itertools.product(chosen, settings.values()):
            testbed.players(scenario, chosen_settings)
    except AtpError as error:
        raise AtpError(f"{scenarios}: {error}") from error
    check_organism(model, adapter, cell.testbed)
    rollout(chosen, testbed, settings, load_agent(cell.model, model, adapter), cell, samples, out, stage, part)


def gather_stage(shards: Sequence[Path], out: Path) -> None:
    """Put the shards of a rollout together, in their order, into the turns.parquet of the whole.

    Raises:
        AtpError: files that are not all the shards of one rollout.
    """
    check_file(out)
    stage = Stage("rollout", __name__, {})
    kept = [read_provenance(shard) for shard in shards]
    whole = [{**each, "cost": {}, "params": {**each["params"], "part": WHOLE}} for each in kept]
    for number, (shard, each) in enumerate(zip(shards, kept, strict=True), 1):
        if whole[number - 1] != whole[0] or each["params"].get("part") != [number, len(shards)]:
            raise AtpError(f"{shard}: no shard {number} of {len(shards)} of the rollout of {shards[0]}")
    turns = pa.concat_tables(map(read_turns, shards))
    own = stage.spent() | {"starts": 0.0, "shards": float(len(shards))}
    cost = together([*(each["cost"] for each in kept), own])
    write_table(turns, out, Provenance(**{**whole[0], "cost": cost}))


def check_organism(model: ModelSpec | None, adapter: Path | None, testbed: str) -> None:
    """Raises AtpError if an adapter was trained on another testbed's organism, whose weights have the same shapes."""
    if not (model and model.organism and adapter):
        return
    try:
        trained = json.loads((adapter / LINEAGE).read_text(encoding="utf-8"))["params"]["testbed"]
    except (OSError, ValueError, KeyError):
        return
    if trained != testbed:
        raise AtpError(f"{adapter}: was trained on the organism of testbed '{trained}', '{testbed}' is played")


def rollout(
    scenarios: Sequence[Scenario],
    testbed: Testbed,
    variants: Mapping[str, Settings],
    agent: Agent,
    cell: Cell,
    samples: int,
    out: Path,
    stage: Stage,
    part: tuple[int, int] = WHOLE,
) -> None:
    """Play each scenario `samples` times in each variant and write turns.parquet to `out`.

    Samples and variants of a scenario stand in one batch, so that an agent can share what their prompts have in common.
    """
    episodes = [
        Planned(scenario, variant, settings, sample)
        for scenario in scenarios
        for sample in range(samples)
        for variant, settings in variants.items()
    ]
    play(episodes, testbed, agent, cell, out, stage, part)


def play(
    episodes: Sequence[Planned],
    testbed: Testbed,
    agent: Agent,
    cell: Cell,
    out: Path,
    stage: Stage,
    part: tuple[int, int] = WHOLE,
) -> None:
    """Play episodes in batches and write turns.parquet to `out`, going on where an earlier start was stopped.

    A shard is a run of whole batches: its turns are those that the whole rollout would have there.
    """
    players = max(testbed.players(each.scenario, each.settings) for each in episodes)
    shown = players * max(map(_shown, {id(each.settings): each.settings for each in episodes}.values()))
    size = max(1, min(agent.batch // players, MOST_SHOWN // shown))
    every = [episodes[start : start + size] for start in range(0, len(episodes), size)]
    batches = every[(part[0] - 1) * len(every) // part[1] : part[0] * len(every) // part[1]]
    total = sum(map(len, batches))
    with unfinished(out, stage) as folder, until_stopped() as stopped:
        paths = [folder / f"{number:05}.parquet" for number in range(len(batches))]
        resumed = sum(len(batch) for batch, path in zip(batches, paths, strict=True) if path.exists())
        progress = Progress(str(out), total, "episodes", skipped=resumed)
        tables = [TURNS.empty_table()]
        for batch, path in zip(batches, paths, strict=True):
            if path.exists():
                tables.append(read_turns(path))
                continue
            if stopped.is_set():
                raise Interrupted(f"{out}: stopped after {progress.done} of {total} episodes; a rerun goes on there")
            tables.append(play_batch(batch, testbed, agent, cell))
            write_table(tables[-1], path, stage.provenance())
            stage.counts = dict(getattr(agent, "served", {}))  # requests, retries and refusals of a server
            stage.keep(folder)
            progress.advance(len(batch), steps=len(tables[-1]), last=path == paths[-1])
        turns = pa.concat_tables(tables)
        spent = {name: float(pc.sum(turns[name], min_count=0).as_py()) for name in TOKENS}
        counts = {"episodes": total, "resumed_episodes": resumed, "decisions": len(turns)}
        write_table(turns, out, stage.provenance(**counts, **spent))


def _shown(settings: Settings) -> int:
    """Rounds that a player's prompts of an episode show in all: each its own, and those before that it remembers."""
    return sum(1 + min(settings.window, before) for before in range(settings.rounds))


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the search for cycles: a batch keeps its prompts and turns to its end, and walking them again and again
    takes a quarter of a scripted rollout. For the games alone: what a model leaves behind is searched as ever.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def tokens(replies: Iterable[Reply]) -> dict[str, float]:
    """Tokens that an agent read and wrote for replies, by their names in a stage's cost."""
    said = list(replies)
    return {name: float(sum(getattr(reply, name) for reply in said)) for name in TOKENS}


def sampling_seed(
    seed: int, scenario_id: str, sample: int, generation: int, round: int, agent: int, step: int = 0
) -> int:
    """63-bit seed of a turn. It depends on nothing else, so a turn's randomness is its own, and variants share it."""
    key = f"{seed}|{scenario_id}|{sample}|{generation}|{round}|{agent}{f'|{step}' if step else ''}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 1


def play_batch(batch: Sequence[Planned], testbed: Testbed, agent: Agent, cell: Cell) -> pa.Table:
    """Turns of a batch of episodes, all played side by side."""
    agent.start()
    games: list[Any] = []
    prompts: list[Any] = []
    for planned in batch:
        seed = sampling_seed(cell.seed, planned.scenario.scenario_id, planned.sample, cell.generation, 0, 0)
        game = planned.game(testbed, seed)
        games.append(game)
        prompts.append(next(game))
    seeds: list[Seeds] = [{} for _ in batch]
    turns: list[list[Turn]] = [[] for _ in batch]
    conversations: dict[tuple[int, int], int] = {}

    @_uncollected()
    def ask(numbers: Sequence[int]) -> list[Request]:
        """What the players of these episodes are asked now."""
        requests = []
        for number in numbers:
            scenario, sample = batch[number].scenario.scenario_id, batch[number].sample
            for prompt in prompts[number]:
                place = (prompt.round, prompt.agent, prompt.step)
                seeds[number][place] = seed = sampling_seed(cell.seed, scenario, sample, cell.generation, *place)
                conversation = conversations.setdefault((number, prompt.agent), len(conversations))
                requests.append(Request(conversation, prompt, seed))
        return requests

    @_uncollected()
    def tell(numbers: Sequence[int], answers: Iterator[Any]) -> list[int]:
        """Play on with replies, or outcomes of calls; the episodes that are still open."""
        still_open = []
        for number in numbers:
            try:
                prompts[number] = games[number].send([next(answers) for _ in prompts[number]])
                still_open.append(number)
            except StopIteration as end:
                turns[number] = end.value
        return still_open

    open_games = list(range(len(batch)))
    while open_games:
        calling = [number for number in open_games if isinstance(prompts[number][0], Call)]
        if calling:
            outcomes = run_calls([call for number in calling for call in prompts[number]])
            ended = {*calling} - {*tell(calling, iter(outcomes))}
            open_games = [number for number in open_games if number not in ended]
        else:
            open_games = tell(open_games, iter(agent.answer(ask(open_games))))
    return _table(cell, batch, turns, seeds)


@_uncollected()
def _table(cell: Cell, batch: Sequence[Planned], turns: Sequence[Sequence[Turn]], seeds: Sequence[Seeds]) -> pa.Table:
    """Columns of TURNS, episode by episode."""
    played = [(planned, turn) for planned, made in zip(batch, turns, strict=True) for turn in made]
    flat = [turn for _, turn in played]
    columns: dict[str, list[Any]] = {name: [getattr(turn, name) for turn in flat] for name in OF_TURN}
    columns |= {name: [value] * len(flat) for name, value in vars(cell).items()}
    columns |= {name: [getattr(planned.scenario, name) for planned, _ in played] for name in OF_SCENARIO}
    columns |= {name: [getattr(planned, name) for planned, _ in played] for name in ("variant", "sample")}
    names = [planned.name for planned in batch]
    columns["episode"] = [name for name, made in zip(names, turns, strict=True) for _ in made]
    columns["reply"] = [turn.reply.text for turn in flat]
    columns["finish_reason"] = [turn.reply.finish_reason for turn in flat]
    columns |= {
        name: [sum([getattr(each, name) for each in (turn.reply, *turn.further)]) for turn in flat] for name in TOKENS
    }
    columns["sampling_seed"] = [
        drawn[turn.round, turn.agent, 0] for made, drawn in zip(turns, seeds, strict=True) for turn in made
    ]
    columns["details"] = [
        [
            *turn.details.items(),
            *((f"{LATER}{step}", reply.text) for step, reply in enumerate(turn.further, 1)),
            *((f"{TOLD}{step}", json.dumps(results)) for step, results in enumerate(turn.results, 1)),
        ]
        for turn in flat
    ]
    columns["messages"] = _conversations([turn.messages for turn in flat])
    return pa.table(columns, schema=TURNS)


def _conversations(prompts: Sequence[list[Message]]) -> pa.ListArray:
    """Messages as Arrow has them: laid end to end, which is four times as fast as giving it lists of dictionaries."""
    flat = [message for prompt in prompts for message in prompt]
    texts = [pa.array([message[name] for message in flat], pa.string()) for name in ("role", "content")]
    offsets = pa.array(itertools.accumulate(map(len, prompts), initial=0), pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(texts, fields=list(MESSAGE)))
