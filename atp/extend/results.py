"""Check what comes after an episode: stored turns, measures, figures, policies of the testbed's own, its curriculum."""

import math
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa

from atp.agents.load import load_agent
from atp.extend.episodes import BrokenRule, Player
from atp.files.provenance import Stage
from atp.files.tables import write_table
from atp.files.turns import read_turns
from atp.registry import describe, entries, plugin_error, resolve
from atp.rollout.drive import play_batch
from atp.rollout.engine import RolloutJob
from atp.rollout.table import Cell, PlannedEpisode
from atp.testbed import Testbed

AGENT = "scripted:random"


class Results:
    """The turns of a random policy in a temporary folder, and what measures and figures make of them."""

    def __init__(self, player: Player, folder: Path):
        self.player, self.testbed, self.turns = player, player.testbed, folder / "turns.parquet"
        self.measures: Any = None
        entry = entries("testbeds").get(self.testbed.name)
        self.place = entry.place if entry and entry.place else f"testbed '{self.testbed.name}'"

    def store(self) -> str:
        """Play the scenarios with the engine, write the turns and read them."""
        testbed, player = self.testbed, self.player
        cell = Cell(AGENT, testbed.name, seed=player.seed)
        settings = player.settings()
        batch = [PlannedEpisode(scenario, "default", settings, 0) for scenario in player.scenarios]
        table: pa.Table = play_batch(batch, testbed, load_agent(AGENT, None), cell)
        job = RolloutJob(cell=cell, variants={"default": {}})
        write_table(table, self.turns, Stage(job.stage, [], job.params()).provenance())
        return f"{len(read_turns(self.turns))} rows"

    def measure(self) -> str:
        """Compute the testbed's measures, next to those of every testbed."""
        from atp.measures.rates import INVALID_RATE, VIOLATION_RATE, add_rows, read_evidence

        own = read_evidence([self.turns]).of(self.testbed.name)
        rows = add_rows(VIOLATION_RATE(own), INVALID_RATE(own))
        before = set(rows["measure"])
        for measure in resolve(self.testbed.measures):
            name = getattr(measure, "name", None) or getattr(measure, "__name__", repr(measure))
            try:
                rows = add_rows(rows, measure(own))
            except Exception as error:
                raise BrokenRule(plugin_error(error) or f"{self.place}: measure '{name}': {describe(error)}") from error
        self.measures = rows
        names = [name for name in rows["measure"].unique(maintain_order=True) if name not in before]
        if self.testbed.order_parameter not in (*before, *names):
            raise BrokenRule(
                f"{self.place}: order_parameter: no measure is called '{self.testbed.order_parameter}', known are "
                f"{', '.join(sorted((*before, *names)))}"
            )
        return ", ".join(names)

    def draw(self) -> str:
        """Draw the testbed's figures."""
        from atp.report.figures import Figure, svg
        from atp.report.results import Results as Evidence

        figures = resolve(self.testbed.figures)(Evidence(self.measures))
        if not isinstance(figures, Sequence) or not all(isinstance(figure, Figure) for figure in figures):
            raise BrokenRule(
                f"{self.place}: figures must return a list of atp.report.figures.Figure, found {figures!r:.80}"
            )
        for figure in figures:
            if any(len(row) != len(figure.columns) for row in figure.rows):
                raise BrokenRule(
                    f"{self.place}: figure '{figure.name}': a row has another number of cells than `columns`"
                )
            svg(figure, titled=True)
        return ", ".join(figure.name for figure in figures) or "none of these measures"


def policies(player: Player) -> str:
    """Check that the testbed's own policies return decisions that the prompt has."""
    factories = resolve(player.testbed.policies)
    for name, factory in factories.items():
        policy, draw = factory(), Random(player.seed).random

        def answer(prompt: Any, policy: Any = policy, draw: Any = draw, name: str = name) -> str:
            decision = policy(prompt.observation, draw)
            if decision not in prompt.observation.answers:
                raise BrokenRule(
                    f"policy '{name}' returns {decision!r}, the prompt has {', '.join(prompt.observation.answers)}"
                )
            text: str = prompt.observation.answers[decision]
            return text

        list(player.episodes(answer))
    return ", ".join(factories)


def curriculum(testbed: Testbed, seed: int) -> str:
    """Check that the model organism's curriculum can be made and draws examples."""
    from atp.organism.curriculum import Curriculum, TrainingExample

    course = resolve(testbed.curriculum)(testbed.templates)
    if not isinstance(course, Curriculum):
        raise BrokenRule(f"curriculum must return atp.organism.curriculum.Curriculum, found {course!r:.80}")
    count = 0
    for part in ("short", "mixed", "episodes"):
        mixture = getattr(course, part)
        if not mixture:
            raise BrokenRule(f"curriculum: {part} must have at least one kind of conversations")
        for _, draw in mixture:
            examples = draw(Random(f"{seed}|{part}"))
            if not isinstance(examples, list) or not all(isinstance(each, TrainingExample) for each in examples):
                raise BrokenRule(f"curriculum: {part} must draw a list of TrainingExample, found {examples!r:.80}")
            for example in examples:
                _check_example(part, course.words, example)
            count += len(examples)
    return f"{count} examples"


def _check_example(part: str, words: tuple[str, str], example: Any) -> None:
    where = f"curriculum: an example of {part}"
    if example.probability is None:
        return
    if not 0 < example.probability < 1 or not math.isfinite(example.probability):
        raise BrokenRule(f"{where}: probability is {example.probability}, must be above 0 and below 1")
    if not example.decision.startswith(words):
        raise BrokenRule(f"{where}: decision '{example.decision:.60}' must begin with one of words {words}")
