"""The jobs of a study: rules of the workflow, plans and tests read this one enumeration."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from atp.agents.load import OWN
from atp.agents.scripted import SCRIPTED
from atp.files.code import code_digest
from atp.files.provenance import Job
from atp.files.schemas import TRANSFER
from atp.measures.job import REPAIR, MeasureJob
from atp.memory.channel import MEMORY
from atp.models.spec import ModelSpec
from atp.organism.train import OrganismJob
from atp.registry import Entry, entries, find, find_testbed, sources
from atp.report.job import ReportJob
from atp.rollout.engine import RolloutJob
from atp.rollout.judge import JudgeJob
from atp.rollout.rubric import own_rubric
from atp.rollout.table import Cell
from atp.rollout.transplant import RECORDED_FROM, HistorySource, TransplantJob
from atp.rollout.yoked import PAYMENTS_FROM
from atp.scenarios.sources import DEFAULT_TEST, ScenariosJob
from atp.study import paths, sizes
from atp.study.memory_jobs import MemorySteps
from atp.study.project import Project
from atp.study.stages import MODULES
from atp.study.study import (
    NONE,
    TestbedSection,
    alignment_rows,
    alignment_training,
    alignments_on,
    channel_seeds,
    deployment,
    evaluation,
    is_aligned_here,
    players,
    training_seeds,
    variants,
)
from atp.testbed import Testbed
from atp.training.filters import FilterJob
from atp.training.own import conversations_in
from atp.training.pairs import PairsJob
from atp.training.run import AlignJob, FinetuneJob

#: Memory of rules that need more than 1,000 MB and no model.
MEMORY_MB = {"organism": 3000, "measure": 2000, "report": 2000}


@dataclass(frozen=True)
class Step:
    """A job of a study.

    Args:
        rule: of the workflow.
        outputs: files or folders, relative to the results of the study.
        jobs: what makes each output; none where shards are joined.
        artifacts: inputs that other steps make, by their names in the rule.
        files: other inputs, by their names in the rule.
        model: whose files are inputs, and whose resources the step takes; None for a step without one.
        uses: extensions whose code the step runs.
        work: amount of work, in the rule's unit (see `atp.study.plan`).
    """

    rule: str
    outputs: tuple[str, ...]
    jobs: tuple[Job, ...]
    artifacts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    files: Mapping[str, Sequence[str]] = field(default_factory=dict)
    model: ModelSpec | None = None
    uses: tuple[Entry, ...] = ()
    work: float = 0.0

    @property
    def stage(self) -> str:
        """Name of the stage that the step runs."""
        return self.jobs[0].stage if self.jobs else RolloutJob.stage

    @property
    def plugins(self) -> list[str]:
        """Files of plug-ins whose code the step runs, which are inputs."""
        return sorted({str(entry.file) for entry in self.uses if entry.file})

    @property
    def code(self) -> str:
        """Digest of the code that the step runs, apart from plug-ins' files."""
        names = [entry.value.name for entry in self.uses if isinstance(entry.value, Testbed)]
        testbeds = [module for name in names for module in sources(name, self.stage)]
        installed = sorted(entry.origin for entry in self.uses if not (entry.file or entry.built_in))
        return code_digest(MODULES[self.stage], *dict.fromkeys([*testbeds, *installed]))

    @property
    def gpus(self) -> int:
        """GPUs that the step takes: joining shards, and counting a memory's tokens, need none."""
        return self.model.gpus if self.model and self.jobs and self.rule != MEMORY else 0

    @property
    def memory_mb(self) -> int:
        """Memory that the step takes, in MB."""
        return self.model.mem_mb if self.model else MEMORY_MB.get(self.rule, 1000)

    @property
    def minutes(self) -> int:
        """Time limit of the step on a cluster."""
        return self.model.minutes if self.model else 60 if self.rule == "organism" else 30


def study_jobs(project: Project) -> dict[str, Step]:
    """Return all jobs of a study by their first output."""
    study, steps = project.study, list[Step]()
    for testbed, section in study.testbeds.items():
        steps += _Testbed(project, testbed, section).steps()

    def made_by(*rules: str) -> list[str]:
        return [path for step in steps if step.rule in rules for path in step.outputs]

    turns = made_by(*sizes.WHOLE)
    decisions = sum(step.work for step in steps if step.rule in (*sizes.WHOLE, "rollout_shard"))
    testbeds = tuple(find("testbeds", testbed) for testbed in study.testbeds)
    steps.append(
        Step(
            "measure",
            (paths.MEASURES,),
            (MeasureJob(),),
            {"turns": turns},
            uses=(*testbeds, *entries("measures").values()),
            work=decisions,
        )
    )
    organism = any(spec and spec.organism for spec in project.models.values())
    steps.append(
        Step(
            "report",
            (paths.REPORT, paths.FIGURES),
            (ReportJob(study=project.name, text=project.text, organism=organism, primary=study.primary),),
            {
                "measures": [paths.MEASURES],
                "turns": turns,
                "scenarios": made_by("scenarios"),
                "pairs": made_by("pairs"),
                "selections": made_by("filter"),
                "memories": made_by("memory"),
                "adapters": made_by("align", "finetune"),
            },
            {"published": [str(entry.value.published) for entry in testbeds if entry.value.published]},
            uses=(*testbeds, *entries("figures").values()),
            work=decisions,
        )
    )
    return {step.outputs[0]: step for step in steps}


class _Testbed(MemorySteps):
    """The jobs of a study on one testbed."""

    def __init__(self, project: Project, testbed: str, section: TestbedSection):
        self.project, self.study, self.testbed, self.section = project, project.study, testbed, section
        names = section.weights.conditions if section.weights else ()
        self.learning = {condition: section.learning(condition) for condition in names}

    def steps(self) -> Iterator[Step]:
        """Yield all jobs but those of the measures and the report."""
        scenarios, testbed = self.section.scenarios, find("testbeds", self.testbed)
        alignments = alignments_on(self.study, self.testbed)
        if self.project.rebuilds and testbed.value.templates:
            yield Step(
                "organism",
                (paths.ORGANISM.format(testbed=self.testbed),),
                (OrganismJob(testbed=self.testbed),),
                files={"templates": [str(testbed.value.templates)]},
                uses=(testbed,),
            )
        yield Step(
            "scenarios",
            (paths.SCENARIOS.format(testbed=self.testbed),),
            (ScenariosJob(testbed=self.testbed, settings=scenarios),),
            files={"files": [str(file) for file in scenarios.files(find_testbed(self.testbed), self.project.root)]},
            uses=(testbed,),
            work=scenarios.train + (scenarios.test or DEFAULT_TEST),
        )
        # Rehearsal and interleaved alignment use a model's pairs, even without alignment by DPO.
        paired = (
            alignments
            if any(map(self.section.needs_pairs, self.learning))
            else [alignment for alignment in alignments if alignment == "dpo"]
        )
        seeds = {alignment: training_seeds(self.study, self.section, alignment) for alignment in alignments}
        for model in self.study.models:
            for seed in dict.fromkeys(seed for alignment in paired for seed in seeds[alignment]):
                yield self._pairs(self._cell(model, "dpo", None, seed, "weights"))
            for alignment in alignments:
                for seed in seeds[alignment] if is_aligned_here(alignment) else ():
                    yield self._align(self._cell(model, alignment, None, seed, "weights"))
        steps_of = {"context": self._context, "weights": self._generations, MEMORY: self._memories}
        for name, channel in self.section.channels.items():
            for condition in channel.conditions:
                for model, aligned in players(self.study, channel):
                    for seed in channel_seeds(self.study, channel, aligned):
                        yield from steps_of[name](self._cell(model, aligned, condition, seed, name))

    def _cell(self, model: str, alignment: str, condition: str | None, seed: int, channel: str) -> Cell:
        return Cell(model, self.testbed, alignment, condition, seed, channel)

    def _path(self, pattern: str, cell: Cell, **wildcards: Any) -> str:
        return pattern.format(**{**vars(cell), "testbed": self.testbed, **wildcards})

    def _step(self, rule: str, cell: Cell, outputs: Sequence[str], jobs: Sequence[Job], **others: Any) -> Step:
        """Return a step of an agent, whose inputs begin with the scenarios."""
        artifacts = {"scenarios": [paths.SCENARIOS.format(testbed=cell.testbed)], **others.pop("artifacts", {})}
        uses, model = self._uses(cell), self._model(cell)
        own = {name: paths for name, paths in artifacts.items() if paths and paths == self._given(cell)}
        artifacts = {name: paths for name, paths in artifacts.items() if name not in own}
        others["files"] = {**others.get("files", {}), **own}
        return Step(rule, tuple(outputs), tuple(jobs), artifacts, model=model, uses=uses, **others)

    def _model(self, cell: Cell) -> ModelSpec | None:
        """Return the model of a cell: a checkpoint of the user's own takes the place of the study's model."""
        spec, own = self.project.models[cell.model], self.study.own_alignments.get(cell.alignment)
        if spec and own and own.model:
            given = {"path": own.model, "gguf_file": None, "revision": None, "organism": False}
            return spec.model_copy(update=given)
        return spec and spec.of(self.testbed)

    def _given(self, cell: Cell) -> list[str]:
        """Return the files of the adapter of a user's own that a cell begins with."""
        return self.project.adapters.get(cell.alignment, [])

    def _uses(self, cell: Cell) -> tuple[Entry, ...]:
        """Return the extensions that a cell's agent runs: its testbed, the tools it is offered, its own code."""
        kind, _, name = cell.model.partition(":")
        tools = self._tools
        if cell.testbed != self.testbed:
            settings = evaluation(self.study.testbeds[cell.testbed])
            tools = list(find_testbed(cell.testbed).settings(**settings).offered)
        used = [find("testbeds", cell.testbed), *(find("tools", tool) for tool in tools)]
        if f"{kind}:" == OWN:
            used.append(find("agents", name.partition(":")[0]))
        if f"{kind}:" == SCRIPTED and name.partition(":")[0] in entries("policies"):
            used.append(find("policies", name.partition(":")[0]))
        return tuple(used)

    @cached_property
    def _tools(self) -> list[str]:
        """Tools that an agent may call in any rollout of the testbed."""
        section, kind = self.section, find_testbed(self.testbed).settings
        conditions = section.context.conditions if section.context else ()
        played = [settings for condition in conditions for settings in variants(section, condition).values()]
        for each in [each for each in (section.weights, section.memory) if each]:
            played += [evaluation(section, each), *(deployment(section, name, each) for name in each.conditions)]
        return sorted({tool for values in played for tool in kind(**values).offered})

    def _adapter(self, cell: Cell, generation: int) -> list[str]:
        """Return the trained weights of a generation: generation 0 has those of its alignment, the user's, or none."""
        if generation:
            return [self._path(paths.ADAPTER, cell, generation=generation)]
        return [self._path(paths.ALIGNED, cell)] if is_aligned_here(cell.alignment) else self._given(cell)

    def _pairs(self, cell: Cell) -> Step:
        alignment, limit = self.section.alignment, alignment_rows(self.section)
        settings = {**self.section.settings, "rounds": 1}
        job = PairsJob(cell=cell, model=self._model(cell), settings=settings, retries=alignment.retries, limit=limit)
        return self._step("pairs", cell, [self._path(paths.PAIRS, cell)], [job], work=alignment.scenarios)

    def _align(self, cell: Cell) -> Step:
        training = alignment_training(self.study, self.section, cell.alignment, cell.model)
        pairs = [self._path(paths.PAIRS, cell)] if cell.alignment == "dpo" else []
        own = self.study.own_alignments.get(cell.alignment)
        data = [str(self.project.root / own.sft.data)] if own and own.sft else []
        settings, limit = {**self.section.settings, "rounds": 1}, alignment_rows(self.section)
        job = AlignJob(cell=cell, model=self._model(cell), settings=settings, training=training, limit=limit)
        count = conversations_in(Path(data[0])) if data else self.section.alignment.scenarios
        work, out = sizes.steps(training, count, job.model.gpus), self._path(paths.ALIGNED, cell)
        inputs: dict[str, Any] = {"files": {"data": data}} if data else {"artifacts": {"data": pairs}}
        return self._step("align", cell, [out], [job], work=work, **inputs)

    def _context(self, cell: Cell) -> Iterator[Step]:
        section, condition = self.section, str(cell.condition)
        assert section.context
        out, model, adapter = self._path(paths.CONTEXT, cell), self._model(cell), self._adapter(cell, 0)
        played = variants(section, condition)
        job = RolloutJob(cell=cell, model=model, variants=played, samples=section.context.samples)
        conditions = section.conditions[condition]
        if key := next((key for key in RECORDED_FROM if key in conditions), None):
            recorded = HistorySource(**conditions[key]).of(cell.model, cell.alignment)
            keys = dict(zip(("model", "alignment", "condition"), recorded, strict=True))
            files = {"histories": [self._path(paths.CONTEXT, cell, **keys)], "adapter": adapter}
            transplant = TransplantJob(cell=cell, model=model, payments=key == PAYMENTS_FROM)
            yield self._step("transplant", cell, [out], [transplant], artifacts=files, work=self._decisions(job))
            return
        yield from self._rollouts("rollout", {out: job}, adapter)

    def _generations(self, cell: Cell) -> Iterator[Step]:
        section, learning = self.section, self.learning[str(cell.condition)]
        assert section.weights
        fresh, model = section.weights.scenarios, self._model(cell)
        deployed, evaluated = deployment(section, str(cell.condition)), evaluation(section)
        for generation in range(learning.generations + 1):
            here = replace(cell, generation=generation)
            evaluate = RolloutJob(
                cell=here,
                model=model,
                variants={"evaluation": evaluated},
                samples=section.weights.evaluation.samples,
            )
            if generation:
                yield from self._learned(here)
            for testbed in section.weights.transfer:
                yield from self._transfer(here, testbed)
            adapter, evaluations = self._adapter(cell, generation), {self._path(paths.EVALUATION, here): evaluate}
            if generation == learning.generations:
                yield from self._rollouts("evaluate", evaluations, adapter)
                yield from self._repairs(evaluate)
                return
            deploy = RolloutJob(
                cell=here,
                model=model,
                variants={"deployment": deployed},
                split="train",
                samples=section.weights.samples,
                limit=(generation * fresh, (generation + 1) * fresh),
            )
            turns = self._path(paths.DEPLOYMENT, here)
            yield from self._rollouts("deploy", {turns: deploy, **evaluations}, adapter)
            if learning.filter:
                seen = section.weights.samples * self._questions(here)
                out, uses = self._path(paths.SELECTION, here), (find("filters", learning.filter.name),)
                job, files = FilterJob(filter=learning.filter, monitor=learning.monitor), {"turns": [turns]}
                if learning.monitor and learning.monitor.model:
                    judge = self._judge(here, learning.monitor.model, turns, seen)
                    yield judge
                    files["verdicts"] = [*judge.outputs]
                yield Step("filter", (out,), (job,), files, uses=uses, work=seen)

    def _judge(self, cell: Cell, model: str, turns: str, seen: int) -> Step:
        """Return the step in which a monitor's model judges a deployment, in a cell of its own without alignment."""
        own = replace(cell, model=model, alignment=NONE)
        rubric, uses = own_rubric(self.testbed), self._uses(own)
        job = JudgeJob(cell=own, model=self._model(own), rubric=rubric)
        out, files = self._path(paths.VERDICTS, cell), {"turns": [turns]}
        return Step("judge", (out,), (job,), files, model=job.model, uses=uses, work=seen)

    def _repairs(self, last: RolloutJob) -> Iterator[Step]:
        """Yield the steps that align the last generation again on some pairs and evaluate it, as channel REPAIR.

        Args:
            last: the evaluation of the last generation.
        """
        cell = last.cell
        for pairs in self.section.weights.repair_pairs if self.section.weights and cell.alignment == "dpo" else ():
            here, folder = replace(cell, channel=REPAIR, generation=pairs), f"{cell.condition}.repair"
            adapter = self._path(paths.ADAPTER, here, condition=folder)
            yield self._align_again(here, adapter, self._adapter(cell, cell.generation), pairs)
            evaluation = self._path(paths.EVALUATION, here, condition=folder)
            yield from self._rollouts("evaluate", {evaluation: last.model_copy(update={"cell": here})}, [adapter])

    def _align_again(self, cell: Cell, out: str, parent: list[str], pairs: int | None = None) -> Step:
        """Return the step that aligns a generation's agent again by DPO, on all pairs or the first ones."""
        training = alignment_training(self.study, self.section, "dpo", cell.model)
        settings = {**self.section.settings, "rounds": 1}
        job = AlignJob(cell=cell, model=self._model(cell), settings=settings, training=training, pairs=pairs)
        files = {"data": [self._path(paths.PAIRS, cell, alignment="dpo")], "parent": parent}
        work = sizes.steps(training, pairs or self.section.alignment.scenarios, job.model.gpus)
        return self._step("finetune", cell, [out], [job], artifacts=files, work=work)

    def _learned(self, cell: Cell) -> Iterator[Step]:
        """Yield the steps that train a generation: on what deployment paid and, every so often, on pairs again."""
        step, every = self._finetune(cell), self.learning[str(cell.condition)].training.realign_every
        if every and cell.generation % every == 0:
            learned = self._path(paths.ADAPTER, cell, condition=f"{cell.condition}.learned")
            yield replace(step, outputs=(learned,))
            yield self._align_again(cell, step.outputs[0], [learned])
        else:
            yield step

    def _transfer(self, cell: Cell, testbed: str) -> Iterator[Step]:
        """Yield the evaluation of a generation on another testbed, in a cell of the testbed that is played."""
        assert self.section.weights
        job = RolloutJob(
            cell=replace(cell, testbed=testbed, channel=f"{TRANSFER}{self.testbed}"),
            model=self._model(cell),
            variants={"evaluation": evaluation(self.study.testbeds[testbed])},
            samples=self.section.weights.evaluation.samples,
        )
        out = self._path(paths.TRANSFER, cell, played=testbed)
        return self._rollouts("transfer", {out: job}, self._adapter(cell, cell.generation))

    def _finetune(self, cell: Cell) -> Step:
        section, learning = self.section, self.learning[str(cell.condition)]
        training, before = learning.training.model_copy(update={"realign_every": None}), cell.generation - 1
        unused = alignment_rows(section)[1] if "max_violation_increase" in training.defences else None
        job = FinetuneJob(
            cell=cell,
            model=self._model(cell),
            settings=evaluation(section),
            training=training,
            first_unused=unused,
            monitor=None if learning.filter else learning.monitor,
        )
        rehearsed = "rehearsal" in training.defences
        files = {
            "data": [self._path(paths.SELECTION if learning.filter else paths.DEPLOYMENT, cell, generation=before)],
            "parent": self._adapter(cell, before),
            "reference": self._adapter(cell, 0),
            "pairs": [self._path(paths.PAIRS, cell, alignment="dpo")] if rehearsed else [],
        }
        count = sizes.examples(learning, self._questions(cell))
        work = sizes.steps(training, count, job.model.gpus)
        step = self._step("finetune", cell, [self._path(paths.ADAPTER, cell)], [job], artifacts=files, work=work)
        return replace(step, uses=(*step.uses, *([find("filters", learning.filter.name)] if learning.filter else [])))

    def _questions(self, cell: Cell) -> int:
        """Return the questions of a deployment; each has as many samples as its scenario."""
        assert self.section.weights
        settings = find_testbed(self.testbed).settings(**deployment(self.section, str(cell.condition)))
        return self.section.weights.scenarios * settings.learnable_turns

    def _decisions(self, job: RolloutJob) -> int:
        """Return the turns of a whole rollout, as far as settings decide them."""
        per_variant = self._episodes(job) // len(job.variants)
        return per_variant * sum(settings.turns for settings in job.variants.values())

    def _episodes(self, job: RolloutJob) -> int:
        return sizes.episodes(job, self.study.testbeds[job.cell.testbed])

    def _rollouts(self, rule: str, jobs: Mapping[str, RolloutJob], adapter: list[str], *memory: str) -> Iterator[Step]:
        """Yield the step that plays jobs, by their outputs, or, where one is large, its shards and their joining."""
        artifacts = {"adapter": adapter, **({"memory": [*memory]} if memory else {})}
        cell = next(iter(jobs.values())).cell
        counts = [sizes.shards(self.study, self._model(cell), self._episodes(job)) for job in jobs.values()]
        work = sum(map(self._decisions, jobs.values()))
        if max(counts) == 1:
            yield self._step(rule, cell, list(jobs), list(jobs.values()), artifacts=artifacts, work=work)
            return
        shards: dict[str, list[str]] = {}
        for (out, job), n in zip(jobs.items(), counts, strict=True):
            *_, condition, place, name = out.split("/")
            kind = name.removesuffix(".parquet")
            for k in range(1, n + 1):
                shard = self._path(paths.SHARD, cell, condition=condition, place=place, kind=kind, k=k, n=n)
                shards.setdefault(f"{kind}_shards", []).append(shard)
                part = job.model_copy(update={"part": (k, n)})
                share = self._decisions(job) / n
                yield self._step("rollout_shard", cell, [shard], [part], artifacts=artifacts, work=share)
        yield Step(rule, tuple(jobs), (), shards, model=self._model(cell), uses=self._uses(cell))
