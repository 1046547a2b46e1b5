"""The stages that train. Each yields an adapter with its lineage if the post-training check passes, or nothing.

Alignment is training before deployment: DPO on preference pairs, GRPO that rewards compliance, or SFT on a user's
conversations. It makes generation 0. Fine-tuning makes the later generations.
"""

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from atp.errors import AtpError, Interrupted
from atp.files.provenance import Stage
from atp.files.resume import unfinished
from atp.files.schemas import SELECTION
from atp.files.tables import LINEAGE, read_table, write_text
from atp.models.engines import resolve_engine
from atp.registry import find_testbed, sources
from atp.rollout.branching import Question, first_questions
from atp.rollout.table import TOKENS
from atp.scenarios.scenario import read_scenarios
from atp.training.post_training_check import check_after_training
from atp.training.run import METRICS, AlignJob, FinetuneJob, Run, TrainingFiles, TrainingJob, train
from atp.training.trainer import EQUAL, NO_DEFENCE

log = logging.getLogger("atp")

#: A trained agent's folder has at least one of these files.
AGENT_FILES = (LINEAGE, "adapter_config.json", "config.json")


def align_stage(
    job: AlignJob, scenarios: Path, out: Path, data: Path | None = None, parent: Path | None = None
) -> dict[str, float]:
    """Train the adapter that an agent is deployed with, generation 0, and compare its violations with the model's.

    Args:
        data: pairs.parquet for DPO, a user's conversations for SFT. GRPO asks training scenarios.
        parent: the agent that is aligned again, and compared with, instead of the model.

    Returns:
        The result of `check_after_training`.

    Raises:
        AtpError: bad data, scenarios or model; a training whose check fails.
    """
    if job.training.defences:
        raise AtpError(f"{out}: training.{job.training.defences[0]}: {NO_DEFENCE}")
    if (job.training.method == "grpo") != (data is None):
        needed = {"dpo": "pairs", "sft": "conversations", "grpo": "no file: it asks training scenarios"}
        raise AtpError(f"{out}: data: method {job.training.method} needs {needed[job.training.method]}")
    return _train_stage(job, TrainingFiles(scenarios=scenarios, data=data, parent=parent, reference=parent), out)


def finetune_stage(job: FinetuneJob, files: TrainingFiles, out: Path) -> dict[str, float]:
    """Train the adapter of a generation on what deployment paid, starting from its parent's adapter or from the model.

    Args:
        files: `data` is selection.parquet (SFT, or DPO with the filter best_and_worst) or turns.parquet (GRPO), and
            `scenarios` has its scenarios, and the held-out ones for the check.

    Returns:
        The result of `check_after_training`.

    Raises:
        AtpError: unreadable data, conversations over max_length, a training whose check fails.
    """
    defences = job.training.defences
    if job.training.realign_every:
        raise AtpError(f"{out}: training.realign_every: only a study aligns again between generations; remove it")
    needs = (("rehearsal", "pairs", files.pairs), ("max_violation_increase", "first_unused", job.first_unused))
    for setting, name, value in needs:
        if (setting in defences) != (value is not None):
            missing = f"training.{setting}" if value is not None else name
            raise AtpError(f"{out}: training.{setting} and {name} go together, {missing} is missing")
    return _train_stage(job, files, out)


def _train_stage(job: AlignJob | FinetuneJob, files: TrainingFiles, out: Path) -> dict[str, float]:
    """Train, run the post-training check, write lineage.json, and move the folder to `out`: complete or not at all.

    A deployment may leave nothing to learn: the filter kept no reply, or all replies to each prompt earned the same. Or
    the check finds more violations than `training.max_violation_increase` allows. Then the agent stays its parent, and
    the lineage has "unchanged": true and the "reason".

    Returns:
        The result of `check_after_training`: of the trained agent, even if its training is undone.
    """
    if job.training.method == "grpo":  # its replies depend on the engine, and `auto` depends on the machine
        job = job.model_copy(update={"model": resolve_engine(job.model, in_process=True)})
    _check_paths(out, (files.scenarios, files.data, files.pairs), (files.parent, files.reference))
    job.training.check_processes(max(1, job.model.gpus))
    local = [Path(job.model.path)] if Path(job.model.path).is_dir() else []
    inputs = [files.scenarios, *local, *(path for path in (files.data, files.parent, files.pairs) if path)]
    stage = Stage(job.stage, [__name__, *sources(job.cell.testbed, job.stage)], job.params(), inputs, job.model.gpus)
    questions = _questions(job, files.scenarios)
    with unfinished(out, stage) as folder:
        temporary = folder / out.name
        try:
            metrics = {"steps": 0.0} if _is_empty(job, files) else train(Run.of(job, files, str(out)), temporary)
            reason = _nothing_learned(metrics)
            if reason and not files.data:
                raise AtpError(f"{out}: nothing to learn, to each prompt all replies complied or none did")
            if reason:
                _keep_parent(files.parent, temporary)
            min_valid = 0.0 if reason else job.training.validity
            check = check_after_training(job, questions, temporary, files, min_valid, must_differ=not reason)
            if not reason and (reason := _too_many_violations(check, job.training.max_violation_increase)):
                _keep_parent(files.parent, temporary)
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


def _questions(job: TrainingJob, file: Path) -> list[Question]:
    """Return the check's questions, of the test split, or of training scenarios that no stage trains on.

    A check that may undo training selects agents by their violations on its prompts, which biases the rate on these
    prompts downwards. So it leaves the test split to the evaluation.
    """
    first_unused = job.first_unused if isinstance(job, FinetuneJob) else None
    scenarios = read_scenarios(file, job.cell.testbed, "test" if first_unused is None else "train")[first_unused:]
    if not scenarios:
        raise AtpError(
            f"{file}: no training scenario is left for training.max_violation_increase, from row {first_unused} on; "
            "generate more"
        )
    return first_questions(scenarios, find_testbed(job.cell.testbed), job.settings)


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


def _is_empty(job: TrainingJob, files: TrainingFiles) -> bool:
    selected = isinstance(job, FinetuneJob) and job.training.method != "grpo"
    return selected and read_table(files.data or "", SELECTION, "selection").num_rows == 0


def _keep_parent(parent: Path | None, out: Path) -> None:
    """Copy the parent to `out`. Without a parent, write only a lineage, which stands for the model itself."""
    shutil.rmtree(out, ignore_errors=True)
    if parent:
        shutil.copytree(parent, out, ignore=shutil.ignore_patterns(".*"))
    else:
        write_text("{}", out / LINEAGE)
