"""What a study will take, before it runs: jobs, hours and disk, at the rates of jobs of the same kind that have run.

A rate is measured or missing, never guessed: a row without one says so, and what would measure it. Of files only the
metadata is read: Parquet footers, lineages, heads of pages.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from glob import escape
from itertools import product
from pathlib import Path
from typing import Any

from atp import sizes
from atp.agents.spec import ModelSpec
from atp.artifacts import read_provenance
from atp.config import NONE, Study, alignment_training, check_files, check_models, played, read_models, read_study
from atp.errors import AtpError
from atp.provenance import together
from atp.scenarios.stage import TEST
from atp.units import count, digits, duration, size

STUDIES = Path("config/studies")
#: A job whose work is a smaller part of the planned one's has not measured its rate.
SMALLEST = 0.1
#: The study that `make run` runs, in minutes.
DEFAULT = "demo"


@dataclass(frozen=True)
class Rule:
    """What a rule of the workflow makes: the path, what its work is counted in, and the key of an artifact's cost that
    holds how much of it there was. A `whole` one is about as large however much work it was; others grow with it.
    """

    path: str
    unit: str
    cost: str
    whole: bool = False


SHARD, REPLAY = "rollout_shard", "replay"
_AGENT = "{study}/{model}/{testbed}/{alignment}/seed{seed}"
_GENERATION = _AGENT + "/{arm}/generation{g}"
RULES = {
    "generate_scenarios": Rule("{study}/{testbed}/scenarios.parquet", "scenarios", "scenarios"),
    "prefer": Rule(_AGENT + "/pairs.parquet", "scenarios", "scenarios"),
    "align_agent": Rule(_AGENT + "/adapter", "steps", "steps", whole=True),
    "rollout_context": Rule(_AGENT + "/{arm}/context/turns.parquet", "decisions", "decisions"),
    REPLAY: Rule(_AGENT + "/{arm}/context/turns.parquet", "decisions", "decisions"),
    "rollout_weights": Rule(_GENERATION + "/turns.parquet", "decisions", "decisions"),
    "select": Rule(_GENERATION + "/selection.parquet", "decisions", "seen"),
    "train": Rule(_GENERATION + "/adapter", "steps", "steps", whole=True),
    "evaluate_generation": Rule(_GENERATION + "/evaluation.parquet", "decisions", "decisions"),
    "measure": Rule("{study}/measures.parquet", "decisions", "turns", whole=True),
    "report": Rule("{study}/report.html", "decisions", "turns", whole=True),
}
#: What a study's rows are sorted by. `all` is Snakemake's own target, which it counts as a job.
ORDER = (*list(RULES)[:3], SHARD, *list(RULES)[3:], "all")
#: Settings of a training that, with its method, decide how long a step takes and how large its weights are.
ALIKE = ("tune", "rank", "batch", "device_batch", "max_completion", "vllm")
NOTE = (
    "Wall time: one job after the other. Trainings: as if every pair came and filters kept all they can. Range: at the "
    "rate of the fastest and of the slowest file."
)
PLAYED = ("rollout_context", REPLAY, "rollout_weights", "evaluate_generation")


@dataclass(frozen=True)
class Kind:
    """What shares a rate: jobs of a rule for a model on a testbed, and of trainings those that are `alike`."""

    rule: str
    model: str = ""
    testbed: str = ""
    how: str = ""


@dataclass(frozen=True)
class Row:
    """Jobs of a rule, and all that they do together: work in their kind's unit; kept, how much of that, or how many
    whole artifacts, stays on disk; gpus of each job; a command that runs one of them.
    """

    rule: str
    kind: Kind
    jobs: int
    work: float
    kept: float
    gpus: int
    command: str


@dataclass(frozen=True)
class Rate:
    """Seconds and bytes of a unit of work (bytes of an artifact, of a whole one), over all that was measured, and the
    seconds of the fastest and the slowest artifact.
    """

    seconds: float
    fastest: float
    slowest: float
    bytes: float
    files: int


@dataclass(frozen=True)
class _Made:
    """An artifact that is there: what work it was, how long it took, how much of it there is on disk."""

    work: float
    seconds: float
    bytes: float
    kept: float


def plan(named: str, results: Path, models: Path) -> str:
    """The plan of a study (a name in config/studies, or a path) as a table, with rates from what lies in `results`.

    Raises:
        AtpError: a study or model that is not right; an artifact of the study's models that cannot be read.
    """
    path = Path(named) if named.endswith((".yaml", ".yml")) else STUDIES / f"{named}.yaml"
    study = read_study(path)
    check_files(path, study, Path())
    specs = read_models(played(study), models)
    check_models(path, study, specs, Path())
    rows = jobs(study, specs, named)
    lines = [_table(rows, rates(rows, specs, results)), "", NOTE]
    for testbed, section in study.testbeds.items():
        if section.scenarios.source == "release" and section.scenarios.test is None:
            lines.append(f"{testbed}: nobody has counted the release's test scenarios, it is taken for {TEST}.")
    return "\n".join(lines)


def jobs(study: Study, specs: Mapping[str, ModelSpec | None], named: str) -> list[Row]:
    """The jobs of a fresh run, as Snakemake counts them, a row for each kind."""
    rows: dict[tuple[str, Kind], Row] = {}
    for row in _jobs(study, specs, named):
        same = rows.get((row.rule, row.kind))
        if same:
            row = replace(same, jobs=same.jobs + row.jobs, work=same.work + row.work, kept=same.kept + row.kept)
        rows[row.rule, row.kind] = row
    return sorted(rows.values(), key=lambda row: ORDER.index(row.rule))


def _jobs(study: Study, specs: Mapping[str, ModelSpec | None], named: str) -> Iterator[Row]:
    seeds, decisions = len(study.seeds), 0.0
    for testbed, section in study.testbeds.items():
        here: dict[str, Any] = {"testbed": testbed, "seed": study.seeds[0], "named": named}
        yield _row("generate_scenarios", here, 1, section.scenarios.train + (section.scenarios.test or TEST))
        agents = [
            here | {"model": model, "alignment": alignment, "gpus": _gpus(specs[model])}
            for model, alignment in product(study.models, study.alignments)
        ]
        scenarios = section.alignment.scenarios
        if "dpo" in study.alignments or any(map(section.needs_pairs, section.trainings())):
            for model in study.models:  # an arm that replays pairs takes its model's, aligned by them or not
                at = here | {"model": model, "alignment": "dpo", "gpus": _gpus(specs[model])}
                yield _row("prefer", at, seeds, scenarios)
        for at in agents:
            if at["alignment"] == NONE:
                continue
            training = alignment_training(section, at["alignment"], at["model"])
            yield _row("align_agent", at, seeds, sizes.steps(training, scenarios), alike(training.model_dump()))
        beside = section.context.yardsticks if section.context else ()
        policies = [here | {"model": name, "alignment": NONE, "gpus": 0} for name in beside]
        cells = [
            (channel, at | {"arm": arm, "g": 0})
            for channel, players in ((section.context, agents + policies), (section.weights, agents))
            for arm, at in product(channel.arms if channel else (), players)
        ]
        for channel, at in cells:
            for row in _cell(study, specs[at["model"]], at, seeds, is_context=channel is section.context):
                decisions += row.kept if row.rule in PLAYED else 0
                yield row
    for rule in ("measure", "report"):  # whoever has no rate of these gets one from the default study
        yield _row(rule, {"named": DEFAULT}, 1, decisions)
    yield Row("all", Kind("all"), 1, 0, 0, 0, "")


def _cell(study: Study, spec: ModelSpec | None, at: dict[str, Any], seeds: int, is_context: bool) -> Iterator[Row]:
    """Jobs of a cell on one of its channels, all seeds together."""
    section, testbed, arm = study.testbeds[at["testbed"]], at["testbed"], at["arm"]

    def rollouts(rule: str, kind: sizes.Kind, number: int) -> Iterator[Row]:
        whole = _row(rule, at, number, sizes.decisions(testbed, section, arm, kind))
        parts = sizes.shards(study, spec, sizes.episodes(section, arm, kind))
        if parts == 1:
            yield whole
        else:  # the whole is put together without a GPU, in a time that is part of the shards' rate
            yield replace(whole, rule=SHARD, jobs=number * parts, kept=0)
            yield replace(whole, work=0, gpus=0)

    if is_context and arm in study.readers:  # a job each, and a decision for each that it reads
        yield _row(REPLAY, at, seeds, sizes.decisions(testbed, section, arm, "context"))
        return
    if is_context:
        yield from rollouts("rollout_context", "context", seeds)
        return
    learning = section.learning(arm)
    trained, training = learning.generations, learning.training
    yield from rollouts("rollout_weights", "deployment", seeds * trained)
    yield from rollouts("evaluate_generation", "evaluation", seeds * (trained + 1))
    if learning.filter:
        yield replace(_row("select", at, seeds * trained, sizes.seen(testbed, section, arm)), gpus=0)
    steps = sizes.steps(training, sizes.examples(testbed, section, arm))
    yield _row("train", at | {"g": 1}, seeds * trained, steps, alike(training.model_dump()))


def _row(rule: str, at: Mapping[str, Any], number: int, work: float, how: str = "") -> Row:
    """So many jobs of a rule, each with so much work."""
    kind = Kind(rule, at.get("model", ""), at.get("testbed", ""), how)
    path = "results/" + RULES[rule].path.format(**at, study=Path(at["named"]).stem)
    command = shlex.join(["snakemake", "--cores", "all", path, "--config", f"study={at['named']}"])
    kept = number if RULES[rule].whole else number * work
    return Row(rule, kind, number, number * work, kept, at.get("gpus", 0), command)


def _gpus(spec: ModelSpec | None) -> int:
    return spec.gpus if spec else 0


def alike(training: Mapping[str, Any]) -> str:
    """What trainings have in common whose steps take as long and whose weights are as large, the method first; the
    divergence from generation 0 costs every step a second pass.
    """
    method = f"{training.get('method')}+kl" if training.get("kl") else str(training.get("method"))
    return " ".join([method, *(str(training.get(key)) for key in ALIKE)])


def rates(rows: Sequence[Row], specs: Mapping[str, ModelSpec | None], results: Path) -> dict[Kind, Rate]:
    """The measured rate of each kind that has one, from the artifacts of any study under `results`. Much smaller ones
    say little of it: what they took was their start.

    Raises:
        AtpError: an artifact that cannot be read.
    """
    made: dict[Kind, list[_Made]] = {}
    for kind in dict.fromkeys(replace(row.kind, how="") for row in rows if row.work or row.kept):
        spec = specs.get(kind.model)
        sizes = [row.work / row.jobs for row in rows if row.jobs and replace(row.kind, how="") == kind]
        fields = {"model": escape(kind.model), "testbed": kind.testbed}
        others = dict.fromkeys(("study", "alignment", "seed", "arm", "g"), "*")
        for path in sorted(results.glob(RULES[kind.rule].path.format(**fields, **others))):
            found = read_provenance(path)
            try:
                one, training = _made(path, found, kind, spec), found.get("params", {}).get("training")
                how = alike(training) if training else ""
            except (AttributeError, KeyError, TypeError) as error:
                raise AtpError(f"{path}: its metadata is of no stage's making ({error!r})") from error
            if one is not None and one.work >= SMALLEST * max(sizes):
                made.setdefault(replace(kind, how=how), []).append(one)
    return {kind: _rate(each) for kind, each in made.items()}


def _made(path: Path, found: Mapping[str, Any], kind: Kind, spec: ModelSpec | None) -> _Made | None:
    """What an artifact's metadata tells of a kind's rate; None if nothing, or of other settings of the model."""
    rule, cost = RULES[kind.rule], found.get("cost", {})
    work, seconds = cost.get(rule.cost, 0), cost.get("wall_seconds", 0)
    if not work or not seconds:
        return None
    if cost.get("resumed_steps") and cost.get("starts", 1) == 1:  # killed before: what that took is not known
        return None
    if (found.get("stage") == REPLAY) != (kind.rule == REPLAY):  # both lie under the same names
        return None
    recorded = found["params"].get("model")
    if recorded and spec:
        now, gpus = spec.of(kind.testbed).params(), round(cost.get("gpu_seconds", 0) / seconds)
        same = all(recorded[key] == now[key] for key in recorded if key in now and key != "path")
        if not same or Path(recorded["path"]).name != Path(now["path"]).name or gpus != spec.gpus:
            return None
    files = path.rglob("*") if path.is_dir() else [path]
    return _Made(work, seconds, sum(file.stat().st_size for file in files), 1 if rule.whole else work)


def _rate(made: Sequence[_Made]) -> Rate:
    each = [one.seconds / one.work for one in made]
    return Rate(
        seconds=sum(one.seconds for one in made) / sum(one.work for one in made),
        fastest=min(each),
        slowest=max(each),
        bytes=sum(one.bytes for one in made) / sum(one.kept for one in made),
        files=len(made),
    )


def _table(rows: Sequence[Row], measured: Mapping[Kind, Rate]) -> str:
    """Rows, their sum, and what would measure those that have no rate."""
    missing = [row for row in rows if (row.work or row.kept) and row.kind not in measured]
    costs = [_cost(row, measured.get(row.kind)) for row in rows]
    cells = [["rule", "model", "testbed", "jobs", "work", "wall time", "range", "GPU hours", "disk", "files measured"]]
    for row, cost in zip(rows, costs, strict=True):
        name = f"{row.rule} {row.kind.rule if row.rule == SHARD else row.kind.how.partition(' ')[0]}".rstrip()
        work = f"{count(row.work)} {RULES[row.kind.rule].unit}" if row.work else "–"
        files = count(measured[row.kind].files) if row.kind in measured else "–"
        told = ["not measured", *["–"] * 3] if row in missing else _told(cost)
        cells.append([name, row.kind.model or "–", row.kind.testbed or "–", count(row.jobs), work, *told, files])
    cells.append(["together", "", "", count(sum(row.jobs for row in rows)), "", *_told(together(costs)), ""])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(f"{cell:{'<>'[at > 2]}{widths[at]}}" for at, cell in enumerate(row)).rstrip() for row in cells]
    if missing:
        lines += ["", f"{len(missing)} of {len(rows)} rows are not measured and stand in no sum. To measure them:", ""]
        lines += dict.fromkeys(f"    {row.command}" for row in missing)
    return "\n".join(lines)


def _cost(row: Row, rate: Rate | None) -> dict[str, float]:
    """Seconds and bytes of a row's jobs; nothing where there is no rate."""
    if rate is None:
        return {}
    wall, fastest, slowest = (row.work * each for each in (rate.seconds, rate.fastest, rate.slowest))
    return {
        "wall": wall,
        "fastest": fastest,
        "slowest": slowest,
        "gpu": wall * row.gpus,
        "disk": row.kept * rate.bytes,
    }


def _told(cost: Mapping[str, float]) -> list[str]:
    """Wall time, its range where there is one, GPU hours and disk."""
    wall, fastest, slowest, gpu, disk = (cost.get(key, 0.0) for key in ("wall", "fastest", "slowest", "gpu", "disk"))
    return [
        duration(wall) if wall else "–",
        f"{duration(fastest)} to {duration(slowest)}" if fastest < slowest else "–",
        digits(gpu / 3600) if gpu else "–",
        size(disk) if disk else "–",
    ]
