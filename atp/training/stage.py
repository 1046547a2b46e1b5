"""The stages that train: an adapter comes out, with its lineage, once its canary has been heard; or nothing."""

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from atp.agents import ModelSpec
from atp.artifacts import LINEAGE, SELECTION, read_table, unfinished, write_text
from atp.errors import AtpError, Interrupted
from atp.provenance import Stage
from atp.rollout import TOKENS
from atp.scenarios.scenario import read_scenarios
from atp.testbeds import TESTBEDS
from atp.training import TrainingSettings
from atp.training.canary import canary
from atp.training.questions import Question, first_questions
from atp.training.run import MEASURED, Job, train
from atp.training.trainer import EQUAL

log = logging.getLogger("atp")

#: One of these stands in every trained agent's folder.
TRAINED = (LINEAGE, "adapter_config.json", "config.json")


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
) -> dict[str, float]:
    """Train the adapter of `generation` on what deployment paid, from its parent generation's or from none.

    Args:
        data: selection.parquet (SFT; DPO, filtered by best_and_worst), or turns.parquet (GRPO).
        scenarios: those that data was played on, and the held-out ones for the canary.
        settings: the testbed's, of the evaluation.
        reference: generation 0's adapter, None where it is the model itself.
        pairs: preference pairs, of which `training.replay` mixes some into the data.
        first_unused: row of the training split from which on no stage learns, where `training.most_rise` is set: the
            canary asks those prompts in place of the held-out ones.

    Returns:
        What `canary` measured.

    Raises:
        AtpError: unreadable data, conversations over max_length, a training whose canary fails.
    """
    chosen = _checked(training)
    for setting, needed, given in (("replay", "pairs", pairs), ("most_rise", "first_unused", first_unused)):
        if (setting in chosen.defences) != (given is not None):
            raise AtpError(f"{out}: training.{setting} and {needed} go together, one of them is missing")
    kind = "turns" if chosen.method == "grpo" else "selection"
    job = Job(
        label=str(out),
        model=model,
        training=chosen,
        seed=seed,
        testbed=testbed,
        settings=settings,
        scenarios=scenarios,
        data=data,
        data_kind=kind,
        parent=parent,
        generation=generation,
        reference=reference,
        pairs=pairs,
    )
    params = {"generation": generation, "testbed": testbed, "settings": settings, "first_unused": first_unused}
    return make("finetune", __name__, job, out, params, first_unused)


def make(
    name: str, module: str, job: Job, out: Path, params: dict[str, Any], first_unused: int | None = None
) -> dict[str, float]:
    """Train, hear the canary, write lineage.json and move the folder to `out`: whole or not at all.

    In deployment there may be nothing to learn: a filter kept nothing, or every reply to each prompt earned the same.
    Or the canary hears more violations than `training.most_rise` allows. Then the agent stays its parent, and the
    lineage says `carried`, and `why`.

    Returns what the canary measured, of the trained agent even where that is undone.
    """
    _check_paths(out, (job.scenarios, job.data, job.pairs), (job.parent, job.reference))
    shared = {"model": job.model.params(), "training": job.training.model_dump(), "seed": job.seed}
    local = [Path(job.model.path)] if Path(job.model.path).is_dir() else []
    others = [path for path in (job.data, job.parent, job.pairs) if path]
    stage = Stage(name, module, shared | params, [job.scenarios, *local, *others], job.model.gpus)
    asked = _asked(job, first_unused)
    with unfinished(out, stage) as folder:
        temporary = folder / out.name
        try:
            measured = {"steps": 0.0} if _is_empty(job) else train(job, temporary)
            why = _nothing_learned(measured)
            if why and not job.data:
                raise AtpError(f"{out}: nothing to learn, to each prompt all replies complied or none did")
            if why:
                _carry(job.parent, temporary)
            floor = 0.0 if why else job.training.validity
            heard = canary(asked, job.model, temporary, job.parent, job.reference, floor, job.seed, not why)
            if not why and (why := _too_many_violations(heard, job.training.most_rise)):
                _carry(job.parent, temporary)
        except AtpError as error:
            # What has been trained stays: a rerun that is bound to fail again fails without training again.
            if not isinstance(error, Interrupted) and not (temporary / MEASURED).is_file():
                shutil.rmtree(folder.parent)
            raise type(error)(str(error).replace(str(temporary), str(out))) from error
        measured |= {name: heard.pop(name) for name in TOKENS}
        if why:
            log.info("%s: %s, the agent stays as it is", out, why)
        heard_and_made = {"canary": heard, "carried": bool(why), "why": why}
        lineage = json.loads(stage.provenance(**measured).to_json()) | heard_and_made
        write_text(json.dumps(lineage, sort_keys=True), temporary / LINEAGE)
        if out.exists():
            shutil.rmtree(out)
        temporary.rename(out)
        (out / MEASURED).unlink(missing_ok=True)  # last: until then a rerun finds that the training has ended
    return heard


def _check_paths(out: Path, files: Sequence[Path | None], trained: Sequence[Path | None]) -> None:
    """What is overwritten must be what this stage makes; what is read and gone on from must be there."""
    if out.is_file() or out.is_symlink() or (out.is_dir() and any(out.iterdir()) and not (out / LINEAGE).is_file()):
        raise AtpError(f"{out}: exists and holds no trained agent, so it is left as it is; name another folder")
    for path in files:
        if path and not path.is_file():
            raise AtpError(f"{path}: no such file")
    for folder in trained:
        if folder and not any((folder / file).is_file() for file in TRAINED):
            raise AtpError(f"{folder}: no folder of a trained agent (none of {', '.join(TRAINED)})")


def _asked(job: Job, first_unused: int | None) -> list[Question]:
    """What the canary asks: the held-out prompts; where it may undo the training, prompts of the training split that
    nothing learns from. Among agents that are chosen by their violations on some prompts, those who happen to violate
    less there are chosen, so that a rate on these prompts would flatter them: the held-out ones are left to evaluation.
    """
    if first_unused is None:
        scenarios = read_scenarios(job.scenarios, job.testbed, "test")
    else:
        scenarios = read_scenarios(job.scenarios, job.testbed, "train")[first_unused:]
        if not scenarios:
            raise AtpError(
                f"{job.scenarios}: no training scenario is left for training.most_rise, from row {first_unused} on"
            )
    return first_questions(scenarios, TESTBEDS[job.testbed], job.settings)


def _nothing_learned(measured: dict[str, float]) -> str | None:
    if measured["steps"] == 0:
        return "nothing to learn, no reply was kept"
    return "nothing to learn, all replies to a prompt earned the same" if measured.get(EQUAL) == 1 else None


def _too_many_violations(heard: dict[str, float], most_rise: float | None) -> str | None:
    before, after = (heard[f"{name}violations"] / max(heard[f"{name}valid"], 1.0) for name in ("reference_", ""))
    if most_rise is None or after - before <= most_rise:
        return None
    counts = "training undone, violations on prompts that nothing learns from were {violations:.0f}/{valid:.0f}, of "
    counts += "generation 0 {reference_violations:.0f}/{reference_valid:.0f}"
    return f"{counts.format_map(heard)}, most_rise is {most_rise:g}"


def _is_empty(job: Job) -> bool:
    return job.data_kind == "selection" and read_table(job.data or "", SELECTION, "selection").num_rows == 0


def _carry(parent: Path | None, out: Path) -> None:
    """The parent once more; without one a folder with a lineage alone, which stands for the model itself."""
    shutil.rmtree(out, ignore_errors=True)
    if parent:
        shutil.copytree(parent, out, ignore=shutil.ignore_patterns(".*"))
    else:
        write_text("{}", out / LINEAGE)


def _checked(training: dict[str, Any]) -> TrainingSettings:
    checked: TrainingSettings = TypeAdapter(TrainingSettings).validate_python(training)
    return checked
