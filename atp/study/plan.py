"""Plan a study before it runs: jobs, hours and disk space from measured rates, and the power of its comparisons.

Rates are measured, never estimated: a row without a rate is marked, with a command that measures it. Of artifacts only
the metadata is read: Parquet footers, lineages, heads of pages.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from atp.errors import AtpError
from atp.files.provenance import together
from atp.files.tables import read_provenance
from atp.models.spec import ModelSpec
from atp.rollout.judge import JudgeJob
from atp.scenarios.sources import DEFAULT_TEST
from atp.study import paths
from atp.study.jobs import Step, study_jobs
from atp.study.power import power_lines
from atp.study.project import Project
from atp.study.read import read_project
from atp.training import TrainingSettings
from atp.training.run import TrainingJob
from atp.training.trainer import TrainerSettings
from atp.units import count, digits, duration, size

#: A job with less work than this proportion of the planned job's is too small to measure its rate.
MIN_WORK = 0.1
#: The study that `make run` runs, which takes minutes.
DEFAULT = "demo"
TOTAL = "total"


@dataclass(frozen=True)
class Rule:
    """What the artifacts of a rule of the workflow tell of its rate.

    Args:
        artifacts: the paths of its outputs.
        unit: of the rule's work.
        cost: key of the artifact's cost that has the amount of work.
        fixed_size: whether the artifact's size does not depend on the amount of work.
    """

    artifacts: tuple[str, ...]
    unit: str
    cost: str
    fixed_size: bool = False


SHARD, TRANSPLANT, JUDGE = "rollout_shard", "transplant", "judge"
#: In the order of a plan's rows.
RULES = {
    "scenarios": Rule((paths.SCENARIOS,), "scenarios", "scenarios"),
    "pairs": Rule((paths.PAIRS,), "scenarios", "scenarios"),
    "align": Rule((paths.ALIGNED,), "steps", "steps", fixed_size=True),
    SHARD: Rule((), "decisions", "decisions"),
    "rollout": Rule((paths.CONTEXT,), "decisions", "decisions"),
    TRANSPLANT: Rule((paths.CONTEXT,), "decisions", "decisions"),
    "deploy": Rule((paths.DEPLOYMENT, paths.EVALUATION), "decisions", "decisions"),
    JUDGE: Rule((paths.VERDICTS,), "decisions", "units"),
    "filter": Rule((paths.SELECTION,), "decisions", "seen"),
    "finetune": Rule((paths.ADAPTER,), "steps", "steps", fixed_size=True),
    "evaluate": Rule((paths.EVALUATION,), "decisions", "decisions"),
    "transfer": Rule((paths.TRANSFER,), "decisions", "decisions"),
    "memory_rollout": Rule((paths.MEMORY_DEPLOYMENT, paths.MEMORY_EVALUATION), "decisions", "decisions"),
    "memory": Rule((paths.MEMORY,), "episodes", "new_entries"),
    "memory_evaluation": Rule((paths.MEMORY_EVALUATION,), "decisions", "decisions"),
    "measure": Rule((paths.MEASURES,), "decisions", "turns", fixed_size=True),
    "report": Rule((paths.REPORT,), "decisions", "turns", fixed_size=True),
}
#: Settings of a training that, with its method, decide the time of a step and the size of its weights.
RATE_SETTINGS = (
    "use_peft",
    "lora_r",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "max_completion_length",
)
NOTE = (
    "Wall time: jobs run one after the other. Trainings: as if every pair is collected and filters select the maximum. "
    "Range: at the rate of the fastest and of the slowest file."
)


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


def plan(named: str, results: Path, models: Path | None = None) -> str:
    """Return the plan of a study as a table.

    Args:
        named: name of a file in config/studies, or a path.
        results: folder with artifacts from which rates are measured.
        models: folder of model files; left out: config/models.

    Raises:
        AtpError: an invalid study or model; an unreadable artifact of the study's models.
    """
    project = read_project({"study": named}, models=models)
    rows = rows_of(project, named)
    lines = [_table(rows, rates(rows, project.models, results)), "", NOTE]
    for testbed, section in project.study.testbeds.items():
        if section.scenarios.test is None and section.scenarios.source != "templates":
            lines.append(f"{testbed}: the number of test scenarios is not known yet, {DEFAULT_TEST} are assumed.")
    lines += ["", *power_lines(project.study)]
    return "\n".join(lines)


def rows_of(project: Project, named: str) -> list[Row]:
    """Return the jobs of a complete run in a row for each kind. Snakemake counts its default target too."""
    rows: dict[tuple[str, Kind], Row] = {}
    for step in study_jobs(project).values():
        row = _row(step, project.name, named)
        if same := rows.get((row.rule, row.kind)):
            work, on_disk = same.work + row.work, same.on_disk + row.on_disk
            row = replace(same, jobs=same.jobs + 1, work=work, on_disk=on_disk)
        rows[row.rule, row.kind] = row
    order = list(RULES)
    return [*sorted(rows.values(), key=lambda row: order.index(row.rule)), Row("all", Kind("all"), 1, 0, 0, 0, "")]


def _row(step: Step, name: str, named: str) -> Row:
    """Return the row of one job."""
    first, rule = step.outputs[0], step.rule
    if rule == SHARD:
        places = {"/context/": "rollout", "/transfer_": "transfer", "/memory": "memory_rollout"}
        rule = next((rule for place, rule in places.items() if place in first), "deploy")
    *folders, _ = first.split("/")
    model, testbed = folders[:2] if len(folders) > 1 else ("", "".join(folders))
    job = step.jobs[0] if step.jobs else None
    if isinstance(job, JudgeJob):  # its output is in the folder of the agent that it judges
        model = job.cell.model
    kind = Kind(rule, model, testbed, rate_key(job.training) if isinstance(job, TrainingJob) else "")
    if step.rule in ("measure", "report"):  # the default study can measure their rates
        name = named = DEFAULT
    command = shlex.join(["snakemake", "--cores", "all", f"results/{name}/{first}", "--config", f"study={named}"])
    on_disk = 1 if RULES[rule].fixed_size else step.work
    return Row(step.rule, kind, 1, step.work, on_disk, step.gpus, command)


def rate_key(training: TrainerSettings) -> str:
    """Return the settings that trainings with the same rate share, the method first.

    With `kl` every step has a second forward pass.
    """
    method: str = getattr(training, "method", "")
    penalised = "+kl" if getattr(training, "kl", 0) else ""
    return " ".join([f"{method}{penalised}", *(str(getattr(training, key, None)) for key in RATE_SETTINGS)])


def rates(rows: Sequence[Row], specs: Mapping[str, ModelSpec | None], results: Path) -> dict[Kind, Rate]:
    """Return the measured rates, from the artifacts of any study in `results`.

    Much smaller artifacts are ignored: most of their time was the start of the job.

    Raises:
        AtpError: an unreadable artifact.
    """
    measured: dict[Kind, list[_Artifact]] = {}
    for kind in dict.fromkeys(replace(row.kind, training="") for row in rows if row.work or row.on_disk):
        work = [row.work / row.jobs for row in rows if row.jobs and replace(row.kind, training="") == kind]
        fields = {"model": "*" if kind.rule == JUDGE else escape(kind.model), "testbed": kind.testbed}
        others = dict.fromkeys(("alignment", "seed", "condition", "generation", "played"), "*")
        patterns = [f"*/{pattern.format(**fields, **others)}" for pattern in RULES[kind.rule].artifacts]
        for path in sorted(path for pattern in patterns for path in results.glob(pattern)):
            provenance = read_provenance(path)
            try:
                artifact = _artifact(path, provenance, kind, specs.get(kind.model))
                training = provenance["params"].get("training")
                key = rate_key(TypeAdapter(TrainingSettings).validate_python(training)) if training else ""
            except (AttributeError, KeyError, TypeError, ValueError) as error:
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
    if (provenance["params"].get("monitor") or {}).get("model"):  # its time includes that of a judge
        return None
    if (provenance.get("stage") == TRANSPLANT) != (kind.rule == TRANSPLANT):  # their files have the same names
        return None
    recorded = provenance["params"].get("model")
    if recorded and spec:
        now, gpus = spec.of(kind.testbed).model_dump(mode="json"), round(cost.get("gpu_seconds", 0) / seconds)
        resolved = ("path", *(["engine"] if now["engine"] == "auto" else []))  # of the machine that played
        same = all(recorded[key] == now[key] for key in recorded if key in now and key not in resolved)
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
