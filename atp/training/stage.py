"""The stages that train. Each yields an adapter with its lineage if the post-training check passes, or nothing."""

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from atp.errors import AtpError, Interrupted
from atp.files.provenance import Stage
from atp.files.resume import unfinished
from atp.files.schemas import SELECTION
from atp.files.tables import LINEAGE, read_table, write_text
from atp.models.spec import ModelSpec
from atp.registry import find, find_testbed, sources
from atp.rollout.branching import Question, first_questions
from atp.rollout.table import TOKENS
from atp.scenarios.scenario import read_scenarios
from atp.training import TrainingSettings
from atp.training.post_training_check import check_after_training
from atp.training.run import METRICS, Job, train
from atp.training.trainer import EQUAL

log = logging.getLogger("atp")

#: A trained agent's folder has at least one of these files.
AGENT_FILES = (LINEAGE, "adapter_config.json", "config.json")


def finetune_stage(
    data: Path,
    scenarios: Path,
    out: Path,
    testbed: str,
    settings: dict[str, Any],
    model: ModelSpec,
    training: dict[str, Any],
    seed: int,
    generation: int,
    parent: Path | None = None,
    reference: Path | None = None,
    pairs: Path | None = None,
    first_unused: int | None = None,
    cell: dict[str, Any] | None = None,
) -> dict[str, float]:
    """Train the adapter of a generation on what deployment paid, starting from its parent's adapter or from the model.

    Args:
        data: selection.parquet (SFT, or DPO with the filter best_and_worst), or turns.parquet (GRPO).
        scenarios: the scenarios of `data`, and the held-out ones for the check.
        settings: the testbed's settings of the evaluation.
        parent: adapter of the previous generation.
        reference: generation 0's adapter, None if that is the model.
        pairs: preference pairs, for `training.rehearsal`.
        first_unused: row of the training split from which on no stage trains, for `training.max_violation_increase`:
            the check uses those scenarios instead of the held-out ones.
        cell: what the lineage records of the adapter's place in a study (see `Job`).

    Returns:
        The result of `check_after_training`.

    Raises:
        AtpError: unreadable data, conversations over max_length, a training whose check fails.
    """
    method_settings: TrainingSettings = TypeAdapter(TrainingSettings).validate_python(training)
    needs = (("rehearsal", "pairs", pairs), ("max_violation_increase", "first_unused", first_unused))
    for setting, name, value in needs:
        if (setting in method_settings.defences) != (value is not None):
            missing = f"training.{setting}" if value is not None else name
            raise AtpError(f"{out}: training.{setting} and {name} go together, {missing} is missing")
    job = Job(
        label=str(out),
        model=model,
        training=method_settings,
        seed=seed,
        testbed=testbed,
        settings=settings,
        scenarios=scenarios,
        data=data,
        data_kind="turns" if method_settings.method == "grpo" else "selection",
        parent=parent,
        generation=generation,
        reference=reference,
        pairs=pairs,
        cell=cell or {},
    )
    params = {"generation": generation, "testbed": testbed, "settings": settings, "first_unused": first_unused}
    return train_stage("finetune", __name__, job, out, params, first_unused)


def train_stage(
    name: str, module: str, job: Job, out: Path, params: dict[str, Any], first_unused: int | None = None
) -> dict[str, float]:
    """Train, run the post-training check, write lineage.json, and move the folder to `out`: complete or not at all.

    A deployment may leave nothing to learn: the filter kept no reply, or all replies to each prompt earned the same. Or
    the check finds more violations than `training.max_violation_increase` allows. Then the agent stays its parent, and
    the lineage has "unchanged": true and the "reason".

    Returns:
        The result of `check_after_training`: of the trained agent, even if its training is undone.
    """
    _check_paths(out, (job.scenarios, job.data, job.pairs), (job.parent, job.reference))
    job.training.check_processes(max(1, job.model.gpus))
    plugin = find("testbeds", job.testbed).file
    job = job.model_copy(update={"plugins": (str(plugin.resolve()),) if plugin else ()})
    params = params | {"model": job.model.params(), "training": job.training.model_dump(), "seed": job.seed}
    local = [Path(job.model.path)] if Path(job.model.path).is_dir() else []
    inputs = [job.scenarios, *local, *(path for path in (job.data, job.parent, job.pairs) if path)]
    stage = Stage(name, [module, *sources(job.testbed, name)], params | {"cell": job.cell}, inputs, job.model.gpus)
    questions = _questions(job, first_unused)
    with unfinished(out, stage) as folder:
        temporary = folder / out.name
        try:
            metrics = {"steps": 0.0} if _is_empty(job) else train(job, temporary)
            reason = _nothing_learned(metrics)
            if reason and not job.data:
                raise AtpError(f"{out}: nothing to learn, to each prompt all replies complied or none did")
            if reason:
                _keep_parent(job.parent, temporary)
            min_valid = 0.0 if reason else job.training.validity
            start = (job.parent, job.reference)
            check = check_after_training(questions, job.model, temporary, *start, min_valid, job.seed, not reason)
            if not reason and (reason := _too_many_violations(check, job.training.max_violation_increase)):
                _keep_parent(job.parent, temporary)
        except AtpError as error:
            # A finished training stays, so that a rerun whose check must fail again does not train again.
            if not isinstance(error, Interrupted) and not (temporary / METRICS).is_file():
                shutil.rmtree(folder.parent)
            raise type(error)(str(error).replace(str(temporary), str(out))) from error
        metrics |= {name: check.pop(name) for name in TOKENS}
        if reason:
            log.info("%s: %s, the agent is unchanged", out, reason)
        outcome = {"check": check, "unchanged": bool(reason), "reason": reason}
        lineage = json.loads(stage.provenance(**metrics).to_json()) | outcome
        write_text(json.dumps(lineage, sort_keys=True), temporary / LINEAGE)
        if out.exists():
            shutil.rmtree(out)
        temporary.rename(out)
        (out / METRICS).unlink(missing_ok=True)  # last: until then a rerun reads from it that the training has ended
    return check


def _check_paths(out: Path, files: Sequence[Path | None], agents: Sequence[Path | None]) -> None:
    """Raise AtpError if `out` is not a trained agent's folder that may be replaced, or an input does not exist."""
    if out.is_file() or out.is_symlink() or (out.is_dir() and any(out.iterdir()) and not (out / LINEAGE).is_file()):
        raise AtpError(f"{out}: exists and is not a trained agent's folder; remove it or name another folder")
    for path in files:
        if path and not path.is_file():
            raise AtpError(f"{path}: no such file")
    for folder in agents:
        if folder and not any((folder / file).is_file() for file in AGENT_FILES):
            raise AtpError(f"{folder}: not a trained agent's folder, it has none of {', '.join(AGENT_FILES)}")


def _questions(job: Job, first_unused: int | None) -> list[Question]:
    """Return the check's questions, of the test split, or of training scenarios that no stage trains on.

    A check that may undo training selects agents by their violations on its prompts, which biases the rate on these
    prompts downwards. So it leaves the test split to the evaluation.
    """
    if first_unused is None:
        scenarios = read_scenarios(job.scenarios, job.testbed, "test")
    else:
        scenarios = read_scenarios(job.scenarios, job.testbed, "train")[first_unused:]
        if not scenarios:
            raise AtpError(
                f"{job.scenarios}: no training scenario is left for training.max_violation_increase, from row "
                f"{first_unused} on; generate more"
            )
    return first_questions(scenarios, find_testbed(job.testbed), job.settings)


def _nothing_learned(metrics: dict[str, float]) -> str | None:
    if metrics["steps"] == 0:
        return "nothing to learn, no reply was kept"
    return "nothing to learn, all replies to a prompt earned the same" if metrics.get(EQUAL) == 1 else None


def _too_many_violations(check: dict[str, float], max_violation_increase: float | None) -> str | None:
    before, after = (check[f"{name}violations"] / max(check[f"{name}valid"], 1.0) for name in ("reference_", ""))
    if max_violation_increase is None or after - before <= max_violation_increase:
        return None
    counts = "training undone, violations on prompts that no training uses were {violations:.0f}/{valid:.0f}, of "
    counts += "generation 0 {reference_violations:.0f}/{reference_valid:.0f}"
    return f"{counts.format_map(check)}, max_violation_increase is {max_violation_increase:g}"


def _is_empty(job: Job) -> bool:
    return job.data_kind == "selection" and read_table(job.data or "", SELECTION, "selection").num_rows == 0


def _keep_parent(parent: Path | None, out: Path) -> None:
    """Copy the parent to `out`. Without a parent, write only a lineage, which stands for the model itself."""
    shutil.rmtree(out, ignore_errors=True)
    if parent:
        shutil.copytree(parent, out, ignore=shutil.ignore_patterns(".*"))
    else:
        write_text("{}", out / LINEAGE)
