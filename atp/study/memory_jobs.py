"""The jobs of the memory channel: deployments, memories, and evaluations with and without them."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from atp.files.schemas import DEPLOYMENT, EMPTIED, WITH_MEMORY
from atp.memory.play import MemoryRolloutJob
from atp.memory.write import MemoryJob
from atp.models.spec import ModelSpec
from atp.rollout.table import Cell
from atp.study import paths
from atp.study.study import BASELINE, Study, TestbedSection, channel_seeds, deployment, evaluation

if TYPE_CHECKING:
    from atp.study.jobs import Step


class MemorySteps:
    """The part of a testbed's jobs that is about the memory channel. A subclass makes steps, paths and rollouts."""

    study: Study
    section: TestbedSection
    _path: Callable[..., str]
    _step: Callable[..., "Step"]
    _model: Callable[[Cell], ModelSpec | None]
    _adapter: Callable[[Cell, int], list[str]]
    _rollouts: Callable[..., Iterator["Step"]]

    def _memories(self, cell: Cell) -> Iterator["Step"]:
        """Yield the steps of all generations of a cell.

        An agent that is evaluated with another agent's memory deploys nothing, and has none of its own.
        """
        channel = self.section.remembering(str(cell.condition))
        played = evaluation(self.section, channel)
        deployed = deployment(self.section, str(cell.condition), channel)
        fresh, model, adapter = channel.scenarios * channel.pool, self._model(cell), self._adapter(cell, 0)
        for generation in range(channel.generations + 1):
            here = replace(cell, generation=generation)
            shared: dict[str, Any] = {"cell": here, "model": model, "recall": channel.recall}
            evaluate = MemoryRolloutJob(
                **shared, variants={WITH_MEMORY: played, EMPTIED: played}, samples=channel.evaluation.samples
            )
            evaluations = {self._path(paths.MEMORY_EVALUATION, here): evaluate}
            memory = self._memory(here, channel.other_agent)
            if channel.other_agent or generation == channel.generations:
                yield from self._rollouts("memory_evaluation", evaluations, adapter, *memory)
                continue
            deploy = MemoryRolloutJob(
                **shared,
                variants={DEPLOYMENT: deployed},
                split="train",
                samples=channel.samples,
                limit=(generation * fresh, (generation + 1) * fresh),
            )
            turns = self._path(paths.MEMORY_DEPLOYMENT, here)
            yield from self._rollouts("memory_rollout", {turns: deploy, **evaluations}, adapter, *memory)
            later = replace(here, generation=generation + 1)
            write = MemoryJob(
                **{**shared, "cell": later},
                pool=channel.pool,
                shuffled_pay=channel.shuffled_pay,
                compliant_only=channel.compliant_only,
            )
            out, files = self._path(paths.MEMORY, later), {"turns": [turns], "memory": memory}
            yield self._step("memory", later, [out], [write], artifacts=files, work=fresh * channel.samples)

    def _memory(self, cell: Cell, other_agent: bool) -> list[str]:
        """Return the memory of a generation: its own, or the baseline's of the next seed. Generation 0 has none."""
        if not cell.generation:
            return []
        if other_agent:
            assert self.section.memory
            seeds = channel_seeds(self.study, self.section.memory, cell.alignment)
            following = seeds[(seeds.index(cell.seed) + 1) % len(seeds)]
            cell = replace(cell, condition=BASELINE, seed=following)
        return [self._path(paths.MEMORY, cell)]
