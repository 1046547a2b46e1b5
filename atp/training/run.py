"""Run one training, described by a `Job`: in this process, or with GPUs in processes of its own (one for each GPU).

python -m atp.training.run JOB.json PID     such a process; it exits when process PID does, and the main one writes
                                            the metrics next to the job
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
from typing import Any, Literal

import psutil
from pydantic import BaseModel, ConfigDict, Field

from atp.errors import AtpError, Interrupted
from atp.files.tables import write_text
from atp.models.spec import ModelSpec
from atp.registry import find_testbed, load_plugins
from atp.rollout.branching import earned, first_questions, played_questions
from atp.scenarios.scenario import read_scenarios
from atp.stopping import until_stopped
from atp.training.dpo import DpoSettings, dpo_trainer
from atp.training.examples import read_best_and_worst, read_conversations, read_pairs, sample_rehearsal
from atp.training.grpo import GrpoSettings, grpo_trainer
from atp.training.interpolate import interpolate
from atp.training.sft import SftSettings, sft_trainer
from atp.training.trainer import CHECKPOINTS, Loaded, fit, load_trainable

log = logging.getLogger("atp")

JOB = "job.json"
#: Prefix of log messages in the output of training processes.
LOG_PREFIX = "atp: "
FAILURE = "failed.txt"
#: Written last, so its presence means that the training has ended.
METRICS = "metrics.json"


class Job(BaseModel):
    """What is trained, on which data.

    label names it in log messages. data is a selection (SFT, DPO), preference pairs (DPO) or turns (GRPO, on the turns'
    questions and the testbed's rewards). Without data, GRPO rewards compliance, on the first questions of the training
    scenarios limit[0]:limit[1]. reference is generation 0's adapter, None if that is the model. pairs are mixed into
    the data by `training.rehearsal`. cell holds what is known of model, testbed, alignment, condition, seed, channel
    and generation, for the report. plugins are files that define the testbed, which a new process must load.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    label: str
    model: ModelSpec
    training: SftSettings | DpoSettings | GrpoSettings = Field(discriminator="method")
    seed: int
    testbed: str
    settings: dict[str, Any]
    scenarios: Path
    data: Path | None = None
    data_kind: Literal["selection", "pairs", "turns"] | None = None
    limit: tuple[int, int] | None = None
    parent: Path | None = None
    generation: int = 0
    reference: Path | None = None
    pairs: Path | None = None
    cell: dict[str, Any] = {}
    plugins: tuple[str, ...] = ()


def train(job: Job, out: Path) -> dict[str, float]:
    """Train, and save an adapter or a whole model in `out`. A run that was killed resumes from its last checkpoint.

    Returns:
        The metrics that `fit` returns.

    Raises:
        AtpError: data or settings that the method cannot train with, or a training that fails.
        Interrupted: the process was asked to stop, or a training process was killed.
    """
    if not (out / METRICS).is_file():
        (_launch if job.model.gpus else _train)(job, out)
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    (out / JOB).unlink(missing_ok=True)
    metrics: dict[str, float] = json.loads((out / METRICS).read_text(encoding="utf-8"))
    return metrics


def _launch(job: Job, out: Path) -> None:
    """Train in new processes, one for each GPU, so that the memory of the GPUs is free when they have ended."""
    from atp.models.load import on_gpu

    out.mkdir(parents=True, exist_ok=True)
    for stale in out.glob(f"*{FAILURE}"):
        stale.unlink()
    (out / JOB).write_text(job.model_dump_json(), encoding="utf-8")
    command = [sys.executable, "-m", "atp.training.run", str(out / JOB), str(os.getpid())]
    if job.model.gpus > 1 and on_gpu(job.model):
        config = Path(__file__).with_name("ddp.yaml" if job.training.use_peft else "fsdp.yaml")
        shared = ["--config_file", str(config), "--num_processes", str(job.model.gpus), "--main_process_port", "0"]
        command[2:2] = ["accelerate.commands.launch", *shared, "-m"]
    elif job.model.gpus > 1:  # accelerate starts only one process on a machine without a GPU
        command[2:2] = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(job.model.gpus), "-m"]
    pipe: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    with subprocess.Popen(command, **pipe) as run, until_stopped(lambda: _stop(run, job.model.gpus)):
        assert run.stdout
        for line in run.stdout:
            if line.startswith(LOG_PREFIX):
                level, _, message = line.removeprefix(LOG_PREFIX).rstrip().partition(" ")
                log.log(logging.getLevelNamesMapping().get(level, logging.INFO), message)
            else:
                sys.stderr.write(line)
    failures = sorted(out.glob(f"*{FAILURE}"))
    if failures:
        raise AtpError(failures[0].read_text(encoding="utf-8"))
    if run.returncode or not (out / METRICS).is_file():
        raise Interrupted(
            f"{job.label}: training ended with code {run.returncode}, see the log; a rerun resumes from the last "
            "checkpoint"
        )


def _stop(run: subprocess.Popen[str], processes: int) -> None:
    """Stop a single training process too. A launcher of several kills them at its second signal, and a cluster has sent
    it the first one: it signals the whole process group.
    """
    if processes == 1:
        run.terminate()


def _train(job: Job, out: Path) -> None:
    data = _read_data(job)
    loaded = load_trainable(job.model, job.training, job.parent)
    trainer = _create_trainer(job, data, loaded, out)
    metrics = fit(trainer, loaded.tokenizer, out, job.label)
    if trainer.accelerator.is_main_process:
        if job.training.interpolate:
            interpolate(out, job.reference, job.model, job.training.interpolate)
        write_text(json.dumps(metrics), out / METRICS)


def _read_data(job: Job) -> list[Any]:
    """Return the method's training data: conversations, pairs or questions."""
    source = (job.scenarios, job.testbed)
    if job.training.method == "grpo":
        scenarios = read_scenarios(*source, "train")
        if job.data:
            return played_questions(job.data, scenarios, job.testbed)
        chosen = scenarios[slice(*(job.limit or (None,)))]
        if not chosen:
            raise AtpError(f"{job.scenarios}: has {len(scenarios)} training scenarios, none in rows {job.limit}")
        return first_questions(chosen, find_testbed(job.testbed), job.settings)
    assert job.data
    if job.training.method == "sft":
        rows = read_conversations(job.data, *source)
    else:
        rows = (read_pairs if job.data_kind == "pairs" else read_best_and_worst)(job.data, *source)
    if not job.pairs:
        return rows
    random = Random(f"{job.seed}|{job.generation}")
    return rows + sample_rehearsal(read_pairs(job.pairs, *source), len(rows), job.training.rehearsal, random)


def _create_trainer(job: Job, data: list[Any], loaded: Loaded, out: Path) -> Any:
    match job.training:
        case SftSettings() as sft:
            return sft_trainer(data, loaded, out, job.model, sft, job.seed, job.reference)
        case DpoSettings() as dpo:
            return dpo_trainer(data, loaded, out, job.model, dpo, job.seed)
        case GrpoSettings() as grpo:
            reward = earned if job.data else find_testbed(job.testbed).alignment_reward
            return grpo_trainer(data, reward, loaded, out, job.model, grpo, job.seed)


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
    job = Job.model_validate_json(path.read_text(encoding="utf-8"))
    try:
        load_plugins(job.plugins)
        _train(job, path.parent)
    except Interrupted as error:
        log.warning("%s", error)
        sys.exit(1)
    except AtpError as error:
        (path.parent / f"{os.environ.get('RANK', '0')}.{FAILURE}").write_text(str(error), encoding="utf-8")
        sys.exit(1)


if __name__ == "__main__":
    main()
