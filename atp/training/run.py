"""Run one training, described by a `Run`: in this process, or with GPUs in processes of its own (one for each GPU).

python -m atp.training.run RUN.json PID     such a process; it exits when process PID does, and the main one writes
                                            the metrics next to the file
"""

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from threading import Thread
from typing import Any

import psutil
from pydantic import BaseModel, ConfigDict, Field

from atp.errors import AtpError, Interrupted
from atp.files.code import PACKAGE
from atp.files.tables import write_text
from atp.models.spec import ModelSpec
from atp.registry import find, find_testbed, load_plugins
from atp.rollout.branching import earned, first_questions, played_questions
from atp.rollout.table import AgentJob, TestbedSettings
from atp.scenarios.scenario import read_scenarios
from atp.stopping import until_stopped
from atp.training.dpo import DpoSettings, dpo_trainer
from atp.training.examples import (
    inoculate,
    read_best_and_worst,
    read_chats,
    read_conversations,
    read_pairs,
    rehearse,
)
from atp.training.grpo import GrpoSettings, Rewards, grpo_trainer
from atp.training.interpolate import interpolate
from atp.training.monitors import Monitor
from atp.training.sft import SftSettings, sft_trainer
from atp.training.trainer import CHECKPOINTS, Loaded, fit, load_trainable

log = logging.getLogger("atp")

RUN = "run.json"
#: Prefix of log messages in the output of training processes.
LOG_PREFIX = "atp: "
FAILURE = "failed.txt"
#: Written last, so its presence means that the training has ended.
METRICS = "metrics.json"


class TrainingJob(AgentJob):
    """A training of an agent: its place in a study, and its settings."""

    model: ModelSpec
    settings: TestbedSettings = Field(description="the testbed's; one round is played, in the post-training check too")
    training: SftSettings | DpoSettings | GrpoSettings = Field(discriminator="method")


class AlignJob(TrainingJob):
    """Align an agent before deployment, or again. GRPO asks rows limit[0]:limit[1] of the training split."""

    stage = "align"

    limit: tuple[int, int] | None = None
    pairs: int | None = Field(None, ge=1, description="dpo: only the first so many pairs")


class FinetuneJob(TrainingJob):
    """Train a generation on what the deployment of the generation before it paid."""

    stage = "finetune"

    first_unused: int | None = Field(
        None,
        description="row of the training split from which on no stage trains, for training.max_violation_increase: the "
        "check uses those scenarios instead of the held-out ones",
    )
    monitor: Monitor | None = Field(None, description="grpo: lowers the rewards of the replies that it flags")


class TrainingFiles(BaseModel):
    """Inputs of a training.

    Args:
        data: preference pairs (DPO as alignment), a user's conversations (SFT as alignment), a selection (SFT, DPO)
            or turns (GRPO, on the turns' questions and the testbed's rewards). Without data, GRPO rewards compliance,
            on first questions.
        parent: adapter or weights of the previous generation.
        reference: generation 0's, None if that is the model.
        pairs: preference pairs, for `training.rehearsal`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    scenarios: Path
    data: Path | None = None
    parent: Path | None = None
    reference: Path | None = None
    pairs: Path | None = None


class Run(BaseModel):
    """A training to run, as a new process reads it.

    Args:
        label: names it in log messages.
        gpus: of the model, which its own JSON leaves out.
        plugins: files that define the testbed, which a new process must load.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    job: AlignJob | FinetuneJob
    files: TrainingFiles
    label: str
    gpus: int = 0
    plugins: tuple[str, ...] = ()

    @classmethod
    def of(cls, job: AlignJob | FinetuneJob, files: TrainingFiles, label: str) -> "Run":
        """Return the run of a job."""
        plugin = find("testbeds", job.cell.testbed).file
        plugins = (str(plugin.resolve()),) if plugin else ()
        return cls(job=job, files=files, label=label, gpus=job.model.gpus, plugins=plugins)


def train(run: Run, out: Path) -> dict[str, float]:
    """Train, and save an adapter or a whole model in `out`. A run that was killed resumes from its last checkpoint.

    Returns:
        The metrics that `fit` returns.

    Raises:
        AtpError: data or settings that the method cannot train with, or a training that fails.
        Interrupted: the process was asked to stop, or a training process was killed.
    """
    if not (out / METRICS).is_file():
        (_launch if run.gpus else _train)(run, out)
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    (out / RUN).unlink(missing_ok=True)
    metrics: dict[str, float] = json.loads((out / METRICS).read_text(encoding="utf-8"))
    return metrics


def _launch(run: Run, out: Path) -> None:
    """Train in new processes, one for each GPU, so that the memory of the GPUs is free when they have ended."""
    from atp.models.load import on_gpu

    out.mkdir(parents=True, exist_ok=True)
    for stale in out.glob(f"*{FAILURE}"):
        stale.unlink()
    (out / RUN).write_text(run.model_dump_json(), encoding="utf-8")
    command = [sys.executable, "-m", "atp.training.run", str(out / RUN), str(os.getpid())]
    model, gpus = run.job.model, run.gpus
    if gpus > 1 and on_gpu(model):
        config = Path(__file__).with_name("ddp.yaml" if run.job.training.use_peft else "fsdp.yaml")
        shared = ["--config_file", str(config), "--num_processes", str(gpus), "--main_process_port", "0"]
        command[2:2] = ["accelerate.commands.launch", *shared, "-m"]
    elif gpus > 1:  # accelerate starts only one process on a machine without a GPU
        command[2:2] = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(gpus), "-m"]
    # The new processes import the same package, wherever this one found it.
    paths = os.pathsep.join([str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    pipe: dict[str, Any] = {
        "env": os.environ | {"PYTHONPATH": paths},
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "text": True,
        "errors": "replace",
    }
    with subprocess.Popen(command, **pipe) as process, until_stopped(lambda: _stop(process, gpus)):
        assert process.stdout
        for line in process.stdout:
            if line.startswith(LOG_PREFIX):
                level, _, message = line.removeprefix(LOG_PREFIX).rstrip().partition(" ")
                log.log(logging.getLevelNamesMapping().get(level, logging.INFO), message)
            else:
                sys.stderr.write(line)
    failures = sorted(out.glob(f"*{FAILURE}"))
    if failures:
        raise AtpError(failures[0].read_text(encoding="utf-8"))
    if process.returncode or not (out / METRICS).is_file():
        raise Interrupted(
            f"{run.label}: training ended with code {process.returncode}, see the log; a rerun resumes from the last "
            "checkpoint"
        )


def _stop(process: subprocess.Popen[str], processes: int) -> None:
    """Stop a single training process too. A launcher of several kills them at its second signal, and a cluster has sent
    it the first one: it signals the whole process group.
    """
    if processes == 1:
        process.terminate()


def _train(run: Run, out: Path) -> None:
    job, data = run.job, _read_data(run.job, run.files)
    loaded = load_trainable(job.model, job.training, run.files.parent)
    trainer = _create_trainer(run, data, loaded, out)
    metrics = fit(trainer, loaded.tokenizer, out, run.label)
    if trainer.accelerator.is_main_process:
        if job.training.interpolate:
            interpolate(out, run.files.reference, job.model, job.training.interpolate)
        write_text(json.dumps(metrics), out / METRICS)


def _read_data(job: TrainingJob, files: TrainingFiles) -> list[Any]:
    """Return the method's training data: conversations, pairs or questions."""
    source = (files.scenarios, job.cell.testbed)
    if job.training.method == "grpo":
        scenarios = read_scenarios(*source, "train")
        if files.data:
            return played_questions(files.data, scenarios, job.cell.testbed)
        limit = job.limit if isinstance(job, AlignJob) else None
        chosen = scenarios[slice(*(limit or (None,)))]
        if not chosen:
            raise AtpError(f"{files.scenarios}: has {len(scenarios)} training scenarios, none in rows {limit}")
        return first_questions(chosen, find_testbed(job.cell.testbed), job.settings)
    assert files.data
    if job.training.method == "sft":
        rows = read_chats(files.data) if isinstance(job, AlignJob) else read_conversations(files.data, *source)
    elif isinstance(job, AlignJob):
        rows = read_pairs(files.data, *source)[: job.pairs]
    else:
        rows = read_best_and_worst(files.data, *source)
    if job.training.inoculation:
        rows = inoculate(rows, job.training.inoculation)
    if not files.pairs:
        return rows
    random = Random(f"{job.cell.seed}|{job.cell.generation}")
    settings = job.training
    return rehearse(
        rows, read_pairs(files.pairs, *source), settings.rehearsal, random, replaces=settings.rehearsal_replaces
    )


def _create_trainer(run: Run, data: list[Any], loaded: Loaded, out: Path) -> Any:
    job = run.job
    match job.training:
        case SftSettings() as sft:
            return sft_trainer(data, loaded, out, sft, job.cell.seed, run.files.reference)
        case DpoSettings() as dpo:
            return dpo_trainer(data, loaded, out, dpo, job.cell.seed)
        case GrpoSettings() as grpo:
            monitor = job.monitor if isinstance(job, FinetuneJob) else None
            of_turn = earned if run.files.data else find_testbed(job.cell.testbed).alignment_reward
            return grpo_trainer(data, Rewards(of_turn, monitor), loaded, out, grpo, job.cell.seed)


def _exit_with(parent: int) -> None:
    """Exit within a second of another process's end, so that no training continues next to a rerun."""
    while psutil.pid_exists(parent):
        time.sleep(1)
    os._exit(1)


def main() -> None:
    """Run the training of a job file. Errors go to a file for the process that waits for this one."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"{LOG_PREFIX}%(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    path, parent = Path(sys.argv[1]), int(sys.argv[2])
    Thread(target=_exit_with, args=(parent,), daemon=True).start()
    values = json.loads(path.read_text(encoding="utf-8"))
    try:
        load_plugins(values["plugins"])  # the job's settings are of a type that a plug-in may define
        run = Run.model_validate(values)
        model = run.job.model.model_copy(update={"gpus": run.gpus})
        job = run.job.model_copy(update={"model": model})
        _train(run.model_copy(update={"job": job}), path.parent)
    except Interrupted as error:
        log.warning("%s", error)
        sys.exit(1)
    except AtpError as error:
        (path.parent / f"{os.environ.get('RANK', '0')}.{FAILURE}").write_text(str(error), encoding="utf-8")
        sys.exit(1)


if __name__ == "__main__":
    main()
