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
from atp.training.questions import first_questions
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
) -> dict[str, float]:
    """Train the adapter of `generation` on what deployment paid, from its parent generation's or from none.

    Args:
        data: selection.parquet (SFT; DPO, filtered by best_and_worst), or turns.parquet (GRPO).
        scenarios: those that data was played on, and the held-out ones for the canary.
        settings: the testbed's, of the evaluation.
        reference: generation 0's adapter, None where it is the model itself.

    Returns:
        What `canary` measured.

    Raises:
        AtpError: unreadable data, conversations over max_length, a training whose canary fails.
    """
    chosen = _checked(training)
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
    )
    params = {"generation": generation, "testbed": testbed, "settings": settings}
    return make("finetune", __name__, job, out, reference, params)


def make(
    name: str, module: str, job: Job, out: Path, reference: Path | None, params: dict[str, Any]
) -> dict[str, float]:
    """Train, hear the canary, write lineage.json and move the folder to `out`: whole or not at all.

    In deployment there may be nothing to learn: a filter kept nothing, or every reply to each prompt earned the same.
    Then the agent stays its parent, and the lineage says `carried`.

    Returns what the canary measured.
    """
    _check_paths(out, (job.scenarios, job.data), (job.parent, reference))
    shared = {"model": job.model.params(), "training": job.training.model_dump(), "seed": job.seed}
    local = [Path(job.model.path)] if Path(job.model.path).is_dir() else []
    others = [path for path in (job.data, job.parent) if path]
    stage = Stage(name, module, shared | params, [job.scenarios, *local, *others], job.model.gpus)
    held_out = first_questions(read_scenarios(job.scenarios, job.testbed, "test"), TESTBEDS[job.testbed], job.settings)
    with unfinished(out, stage) as folder:
        temporary = folder / out.name
        try:
            measured = {"steps": 0.0} if _is_empty(job) else train(job, temporary)
            carried = measured["steps"] == 0 or measured.get(EQUAL) == 1
            if carried and not job.data:
                raise AtpError(f"{out}: nothing to learn, to each prompt all replies complied or none did")
            if carried:
                log.info("%s: nothing to learn, the agent stays as it is", out)
                _carry(job.parent, temporary)
            floor = 0.0 if carried else job.training.validity
            heard = canary(held_out, job.model, temporary, job.parent, reference, floor, job.seed, not carried)
        except AtpError as error:
            # What has been trained stays: a rerun that is bound to fail again fails without training again.
            if not isinstance(error, Interrupted) and not (temporary / MEASURED).is_file():
                shutil.rmtree(folder.parent)
            raise type(error)(str(error).replace(str(temporary), str(out))) from error
        measured |= {name: heard.pop(name) for name in TOKENS}
        lineage = json.loads(stage.provenance(**measured).to_json()) | {"canary": heard, "carried": carried}
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
