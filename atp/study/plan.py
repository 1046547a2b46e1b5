"""Plan a study before it runs: jobs, hours and disk space, from the measured rates of jobs of the same kind.

Rates are measured, never estimated: a row without a rate is marked, with a command that measures it. Of artifacts only
the metadata is read: Parquet footers, lineages, heads of pages.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from glob import escape
from itertools import product
from pathlib import Path
from typing import Any

from atp.errors import AtpError
from atp.files.provenance import together
from atp.files.tables import read_provenance
from atp.models.spec import ModelSpec
from atp.scenarios.sources import DEFAULT_TEST
from atp.study import sizes
from atp.study.checks import check_files, check_models
from atp.study.read import read_models, read_study
from atp.study.study import NONE, Study, agents, alignment_training
from atp.units import count, digits, duration, size

STUDIES = Path("config/studies")
#: A job with less work than this proportion of the planned job's is too small to measure its rate.
MIN_WORK = 0.1
#: The study that `make run` runs, which takes minutes.
DEFAULT = "demo"
TOTAL = "total"


@dataclass(frozen=True)
class Rule:
    """An output of a rule of the workflow.

    Args:
        path: of the output, relative to the folder of results.
        unit: of the rule's work.
        cost: key of the artifact's cost that has the amount of work.
        fixed_size: whether the artifact's size does not depend on the amount of work.
    """

    path: str
    unit: str
    cost: str
    fixed_size: bool = False


SHARD, TRANSPLANT = "rollout_shard", "transplant"
_AGENT = "{study}/{model}/{testbed}/{alignment}/seed{seed}"
_GENERATION = _AGENT + "/{condition}/generation{g}"
RULES = {
    "generate_scenarios": Rule("{study}/{testbed}/scenarios.parquet", "scenarios", "scenarios"),
    "prefer": Rule(_AGENT + "/pairs.parquet", "scenarios", "scenarios"),
    "align_agent": Rule(_AGENT + "/adapter", "steps", "steps", fixed_size=True),
    "rollout_context": Rule(_AGENT + "/{condition}/context/turns.parquet", "decisions", "decisions"),
    TRANSPLANT: Rule(_AGENT + "/{condition}/context/turns.parquet", "decisions", "decisions"),
    "rollout_weights": Rule(_GENERATION + "/turns.parquet", "decisions", "decisions"),
    "select": Rule(_GENERATION + "/selection.parquet", "decisions", "seen"),
    "train": Rule(_GENERATION + "/adapter", "steps", "steps", fixed_size=True),
    "evaluate_generation": Rule(_GENERATION + "/evaluation.parquet", "decisions", "decisions"),
    "measure": Rule("{study}/measures.parquet", "decisions", "turns", fixed_size=True),
    "report": Rule("{study}/report.html", "decisions", "turns", fixed_size=True),
}
#: Order of a plan's rows. `all` is Snakemake's default target, which it counts as a job.
ORDER = (*list(RULES)[:3], SHARD, *list(RULES)[3:], "all")
#: Settings of a training that, with its method, decide the time of a step and the size of its weights.
RATE_SETTINGS = (
    "use_peft",
    "lora_r",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "max_completion_length",
    "use_vllm",
)
NOTE = (
    "Wall time: jobs run one after the other. Trainings: as if every pair is collected and filters select the maximum. "
    "Range: at the rate of the fastest and of the slowest file."
)
PLAYED = ("rollout_context", TRANSPLANT, "rollout_weights", "evaluate_generation")


@dataclass(frozen=True)
class Kind:
    """Jobs with the same rate: of a rule, a model and a testbed; of trainings also with the same `rate_key`."""

    rule: str
    model: str = ""
    testbed: str = ""
    training: str = ""


@dataclass(frozen=True)
class Row:
    """Jobs of a rule.

    Args:
        work: of all jobs together, in the rule's unit.
        on_disk: amount of work, or number of artifacts of a fixed size, that stays on disk.
        gpus: of each job.
        command: runs one of the jobs.
    """

    rule: str
    kind: Kind
    jobs: int
    work: float
    on_disk: float
    gpus: int
    command: str


@dataclass(frozen=True)
class Rate:
    """Seconds per unit of work over all measured artifacts, and of the fastest and the slowest artifact.

    `bytes` is per unit of work too, or per artifact if its size is fixed.
    """

    seconds: float
    fastest: float
    slowest: float
    bytes: float
    files: int


@dataclass(frozen=True)
class _Artifact:
    """An existing artifact: its work, its time, its size, and the amount that its size is for."""

    work: float
    seconds: float
    bytes: float
    on_disk: float


def plan(named: str, results: Path, models: Path) -> str:
    """Return the plan of a study as a table.

    Args:
        named: name of a file in config/studies, or a path.
        results: folder with artifacts from which rates are measured.
        models: folder of model files.

    Raises:
        AtpError: an invalid study or model; an unreadable artifact of the study's models.
    """
    path = Path(named) if named.endswith((".yaml", ".yml")) else STUDIES / f"{named}.yaml"
    study = read_study(path)
    check_files(path, study, Path())
    specs = read_models(agents(study), models)
    check_models(path, study, specs, Path())
    rows = jobs(study, specs, named)
    lines = [_table(rows, rates(rows, specs, results)), "", NOTE]
    for testbed, section in study.testbeds.items():
        if section.scenarios.test is None and section.scenarios.source != "templates":
            lines.append(f"{testbed}: the number of test scenarios is not known yet, {DEFAULT_TEST} are assumed.")
    return "\n".join(lines)


def jobs(study: Study, specs: Mapping[str, ModelSpec | None], named: str) -> list[Row]:
    """Return the jobs of a complete run, as Snakemake counts them, in a row for each kind."""
    rows: dict[tuple[str, Kind], Row] = {}
    for row in _jobs(study, specs, named):
        same = rows.get((row.rule, row.kind))
        if same:
            row = replace(
                same, jobs=same.jobs + row.jobs, work=same.work + row.work, on_disk=same.on_disk + row.on_disk
            )
        rows[row.rule, row.kind] = row
    return sorted(rows.values(), key=lambda row: ORDER.index(row.rule))


def _jobs(study: Study, specs: Mapping[str, ModelSpec | None], named: str) -> Iterator[Row]:
    seeds, decisions = len(study.seeds), 0.0
    for testbed, section in study.testbeds.items():
        here: dict[str, Any] = {"testbed": testbed, "seed": study.seeds[0], "named": named}
        yield _row("generate_scenarios", here, 1, section.scenarios.train + (section.scenarios.test or DEFAULT_TEST))
        agents = [
            here | {"model": model, "alignment": alignment, "gpus": _gpus(specs[model])}
            for model, alignment in product(study.models, study.alignments)
        ]
        scenarios = section.alignment.scenarios
        if "dpo" in study.alignments or any(map(section.needs_pairs, section.trainings())):
            for model in study.models:  # rehearsal uses a model's pairs, even without alignment by DPO
                at = here | {"model": model, "alignment": "dpo", "gpus": _gpus(specs[model])}
                yield _row("prefer", at, seeds, scenarios)
        for at in agents:
            if at["alignment"] == NONE:
                continue
            training = alignment_training(section, at["alignment"], at["model"])
            steps = sizes.steps(training, scenarios, at["gpus"])
            yield _row("align_agent", at, seeds, steps, rate_key(training.model_dump()))
        names = section.context.reference_policies if section.context else ()
        policies = [here | {"model": name, "alignment": NONE, "gpus": 0} for name in names]
        cells = [
            (channel, at | {"condition": condition, "g": 0})
            for channel, players in ((section.context, agents + policies), (section.weights, agents))
            for condition, at in product(channel.conditions if channel else (), players)
        ]
        for channel, at in cells:
            for row in _cell(study, specs[at["model"]], at, seeds, is_context=channel is section.context):
                decisions += row.on_disk if row.rule in PLAYED else 0
                yield row
    for rule in ("measure", "report"):  # the default study can measure their rates
        yield _row(rule, {"named": DEFAULT}, 1, decisions)
    yield Row("all", Kind("all"), 1, 0, 0, 0, "")


def _cell(study: Study, spec: ModelSpec | None, at: dict[str, Any], seeds: int, is_context: bool) -> Iterator[Row]:
    """Yield the jobs of a cell on one of its channels, for all seeds."""
    section, testbed, condition = study.testbeds[at["testbed"]], at["testbed"], at["condition"]

    def rollouts(rule: str, kind: sizes.Kind, number: int) -> Iterator[Row]:
        whole = _row(rule, at, number, sizes.decisions(testbed, section, condition, kind))
        parts = sizes.shards(study, spec, sizes.episodes(section, condition, kind))
        if parts == 1:
            yield whole
        else:  # the whole is gathered without a GPU; its time is part of the shards' rate
            yield replace(whole, rule=SHARD, jobs=number * parts, on_disk=0)
            yield replace(whole, work=0, gpus=0)

    if is_context and condition in study.readers:  # one job per seed, and a decision for each one that it reads
        yield _row(TRANSPLANT, at, seeds, sizes.decisions(testbed, section, condition, "context"))
        return
    if is_context:
        yield from rollouts("rollout_context", "context", seeds)
        return
    learning = section.learning(condition)
    generations, training = learning.generations, learning.training
    yield from rollouts("rollout_weights", "deployment", seeds * generations)
    yield from rollouts("evaluate_generation", "evaluation", seeds * (generations + 1))
    if learning.filter:
        yield replace(_row("select", at, seeds * generations, sizes.seen(testbed, section, condition)), gpus=0)
    steps = sizes.steps(training, sizes.examples(testbed, section, condition), at["gpus"])
    yield _row("train", at | {"g": 1}, seeds * generations, steps, rate_key(training.model_dump()))


def _row(rule: str, at: Mapping[str, Any], number: int, work: float, training: str = "") -> Row:
    """Return a row of `number` jobs of a rule, each with this amount of work."""
    kind = Kind(rule, at.get("model", ""), at.get("testbed", ""), training)
    path = "results/" + RULES[rule].path.format(**at, study=Path(at["named"]).stem)
    command = shlex.join(["snakemake", "--cores", "all", path, "--config", f"study={at['named']}"])
    on_disk = number if RULES[rule].fixed_size else number * work
    return Row(rule, kind, number, number * work, on_disk, at.get("gpus", 0), command)


def _gpus(spec: ModelSpec | None) -> int:
    return spec.gpus if spec else 0


def rate_key(training: Mapping[str, Any]) -> str:
    """Return the settings that trainings with the same rate share, the method first.

    With `kl` every step has a second forward pass.
    """
    method = f"{training.get('method')}+kl" if training.get("kl") else str(training.get("method"))
    return " ".join([method, *(str(training.get(key)) for key in RATE_SETTINGS)])


def rates(rows: Sequence[Row], specs: Mapping[str, ModelSpec | None], results: Path) -> dict[Kind, Rate]:
    """Return the measured rates, from the artifacts of any study in `results`.

    Much smaller artifacts are ignored: most of their time was the start of the job.

    Raises:
        AtpError: an unreadable artifact.
    """
    measured: dict[Kind, list[_Artifact]] = {}
    for kind in dict.fromkeys(replace(row.kind, training="") for row in rows if row.work or row.on_disk):
        spec = specs.get(kind.model)
        work = [row.work / row.jobs for row in rows if row.jobs and replace(row.kind, training="") == kind]
        fields = {"model": escape(kind.model), "testbed": kind.testbed}
        others = dict.fromkeys(("study", "alignment", "seed", "condition", "g"), "*")
        for path in sorted(results.glob(RULES[kind.rule].path.format(**fields, **others))):
            provenance = read_provenance(path)
            try:
                artifact = _artifact(path, provenance, kind, spec)
                training = provenance.get("params", {}).get("training")
                key = rate_key(training) if training else ""
            except (AttributeError, KeyError, TypeError) as error:
                raise AtpError(f"{path}: its metadata was not written by a stage ({error!r})") from error
            if artifact is not None and artifact.work >= MIN_WORK * max(work):
                measured.setdefault(replace(kind, training=key), []).append(artifact)
    return {kind: _rate(each) for kind, each in measured.items()}


def _artifact(path: Path, provenance: Mapping[str, Any], kind: Kind, spec: ModelSpec | None) -> _Artifact | None:
    """Return an artifact that measures a kind's rate; None if it does not, for example with other model settings."""
    rule, cost = RULES[kind.rule], provenance.get("cost", {})
    work, seconds = cost.get(rule.cost, 0), cost.get("wall_seconds", 0)
    if not work or not seconds:
        return None
    if cost.get("resumed_steps") and cost.get("starts", 1) == 1:  # it was killed before, so its total time is unknown
        return None
    if (provenance.get("stage") == TRANSPLANT) != (kind.rule == TRANSPLANT):  # their files have the same names
        return None
    recorded = provenance["params"].get("model")
    if recorded and spec:
        now, gpus = spec.of(kind.testbed).params(), round(cost.get("gpu_seconds", 0) / seconds)
        same = all(recorded[key] == now[key] for key in recorded if key in now and key != "path")
        if not same or Path(recorded["path"]).name != Path(now["path"]).name or gpus != spec.gpus:
            return None
    files = path.rglob("*") if path.is_dir() else [path]
    return _Artifact(work, seconds, sum(file.stat().st_size for file in files), 1 if rule.fixed_size else work)


def _rate(artifacts: Sequence[_Artifact]) -> Rate:
    seconds = [each.seconds / each.work for each in artifacts]
    return Rate(
        seconds=sum(each.seconds for each in artifacts) / sum(each.work for each in artifacts),
        fastest=min(seconds),
        slowest=max(seconds),
        bytes=sum(each.bytes for each in artifacts) / sum(each.on_disk for each in artifacts),
        files=len(artifacts),
    )


def _table(rows: Sequence[Row], measured: Mapping[Kind, Rate]) -> str:
    """Return the table of rows and totals, and commands that measure rows without a rate."""
    missing = [row for row in rows if (row.work or row.on_disk) and row.kind not in measured]
    costs = [_cost(row, measured.get(row.kind)) for row in rows]
    cells = [["rule", "model", "testbed", "jobs", "work", "wall time", "range", "GPU hours", "disk", "files measured"]]
    for row, cost in zip(rows, costs, strict=True):
        name = f"{row.rule} {row.kind.rule if row.rule == SHARD else row.kind.training.partition(' ')[0]}".rstrip()
        work = f"{count(row.work)} {RULES[row.kind.rule].unit}" if row.work else "–"
        files = count(measured[row.kind].files) if row.kind in measured else "–"
        amounts = ["not measured", *["–"] * 3] if row in missing else _amounts(cost)
        cells.append([name, row.kind.model or "–", row.kind.testbed or "–", count(row.jobs), work, *amounts, files])
    cells.append([TOTAL, "", "", count(sum(row.jobs for row in rows)), "", *_amounts(together(costs)), ""])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(f"{cell:{'<>'[at > 2]}{widths[at]}}" for at, cell in enumerate(row)).rstrip() for row in cells]
    if missing:
        lines += [
            "",
            f"{len(missing)} of {len(rows)} rows are not measured and left out of the totals. To measure them:",
            "",
        ]
        lines += dict.fromkeys(f"    {row.command}" for row in missing)
    return "\n".join(lines)


def _cost(row: Row, rate: Rate | None) -> dict[str, float]:
    """Return the seconds and bytes of a row's jobs; nothing without a rate."""
    if rate is None:
        return {}
    wall, fastest, slowest = (row.work * seconds for seconds in (rate.seconds, rate.fastest, rate.slowest))
    return {
        "wall": wall,
        "fastest": fastest,
        "slowest": slowest,
        "gpu": wall * row.gpus,
        "disk": row.on_disk * rate.bytes,
    }


def _amounts(cost: Mapping[str, float]) -> list[str]:
    """Return wall time, its range if there is one, GPU hours and disk space, as text."""
    wall, fastest, slowest, gpu, disk = (cost.get(key, 0.0) for key in ("wall", "fastest", "slowest", "gpu", "disk"))
    return [
        duration(wall) if wall else "–",
        f"{duration(fastest)} to {duration(slowest)}" if fastest < slowest else "–",
        digits(gpu / 3600) if gpu else "–",
        size(disk) if disk else "–",
    ]
