"""One training run: a job that is all data, done here, in a process with a GPU, or by `accelerate launch` in several.

python -m atp.training.run JOB.json PID     such a process, which ends when process PID does; the first writes what it
                                            measured beside the job
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

from atp.agents import ModelSpec
from atp.artifacts import write_text
from atp.errors import AtpError, Interrupted
from atp.scenarios.scenario import read_scenarios
from atp.stopping import until_stopped
from atp.testbeds import TESTBEDS
from atp.training.dpo import DpoSettings, dpo_trainer
from atp.training.examples import best_and_worst_pairs, conversations, preference_pairs, replayed
from atp.training.grpo import GrpoSettings, grpo_trainer
from atp.training.questions import earned, first_questions, played_questions
from atp.training.sft import SftSettings, sft_trainer
from atp.training.shrink import shrink
from atp.training.trainer import CHECKPOINTS, Loaded, fit, load_trainable

log = logging.getLogger("atp")

JOB = "job.json"
#: What a line of progress begins with, among all that training processes print.
SAID = "atp: "
FAILED = "failed.txt"
#: Written last: where it stands, the training has ended.
MEASURED = "measured.json"


class Job(BaseModel):
    """What is trained on what. label is what its progress is called.

    data is a selection (SFT, DPO), preference pairs (DPO) or turns (GRPO); GRPO without it is asked the first questions
    of rows `limit` of the training scenarios and paid for compliance, with it the questions of its turns, and paid what
    the environment pays. reference is generation 0, None where that is the model itself; pairs are those that are mixed
    into the data where `training.replay` asks for it.
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


def train(job: Job, out: Path) -> dict[str, float]:
    """Train, and save in `out` an adapter or a whole model, with what was measured on the way; returns the latter.

    What a killed run left in `out` is gone on with.

    Raises:
        AtpError: what the method raises.
        Interrupted: it was asked to stop, or a process that trains was killed.
    """
    if not (out / MEASURED).is_file():
        (_launch if job.model.gpus else _train)(job, out)
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    (out / JOB).unlink(missing_ok=True)
    measured: dict[str, float] = json.loads((out / MEASURED).read_text(encoding="utf-8"))
    return measured


def _launch(job: Job, out: Path) -> None:
    """Train in processes of its own, one a GPU, so that the GPUs' memory is free again once it has ended."""
    from atp.agents.local import on_gpu

    out.mkdir(parents=True, exist_ok=True)
    for stale in out.glob(f"*{FAILED}"):
        stale.unlink()
    (out / JOB).write_text(job.model_dump_json(), encoding="utf-8")
    command = [sys.executable, "-m", "atp.training.run", str(out / JOB), str(os.getpid())]
    if job.model.gpus > 1 and on_gpu(job.model):
        config = Path(__file__).with_name("fsdp.yaml" if job.training.tune == "full" else "ddp.yaml")
        shared = ["--config_file", str(config), "--num_processes", str(job.model.gpus), "--main_process_port", "0"]
        command[2:2] = ["accelerate.commands.launch", *shared, "-m"]
    elif job.model.gpus > 1:  # accelerate starts one process alone where there is no GPU
        command[2:2] = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(job.model.gpus), "-m"]
    pipe: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    with subprocess.Popen(command, **pipe) as run, until_stopped(lambda: _pass_on(run, job.model.gpus)):
        assert run.stdout
        for line in run.stdout:
            if line.startswith(SAID):
                level, _, message = line.removeprefix(SAID).rstrip().partition(" ")
                log.log(logging.getLevelNamesMapping().get(level, logging.INFO), message)
            else:
                sys.stderr.write(line)
    failed = sorted(out.glob(f"*{FAILED}"))
    if failed:
        raise AtpError(failed[0].read_text(encoding="utf-8"))
    if run.returncode or not (out / MEASURED).is_file():
        raise Interrupted(
            f"{job.label}: training ended with code {run.returncode}, see the log; a rerun goes on from its last "
            "checkpoint"
        )


def _pass_on(run: subprocess.Popen[str], processes: int) -> None:
    """Have a training process stop too. A launcher of several ends them on the first signal and kills them on the
    second: what stops this process's whole group, as a cluster does, has told it already.
    """
    if processes == 1:
        run.terminate()


def _train(job: Job, out: Path) -> None:
    learned_from = _read(job)
    loaded = load_trainable(job.model, job.training, job.parent)
    trainer = _trainer(job, learned_from, loaded, out)
    measured = fit(trainer, loaded.tokenizer, out, job.label)
    if trainer.accelerator.is_main_process:
        if job.training.shrink:
            shrink(out, job.reference, job.model, job.training.shrink)
        write_text(json.dumps(measured), out / MEASURED)


def _read(job: Job) -> list[Any]:
    """Conversations, pairs or questions, as the method takes them."""
    given = (job.scenarios, job.testbed)
    if job.training.method == "grpo":
        scenarios = read_scenarios(*given, "train")
        if job.data:
            return played_questions(job.data, scenarios, job.testbed)
        asked = scenarios[slice(*(job.limit or (None,)))]
        if not asked:
            raise AtpError(f"{job.scenarios}: {len(scenarios)} training scenarios, none in rows {job.limit}")
        return first_questions(asked, TESTBEDS[job.testbed], job.settings)
    assert job.data
    if job.training.method == "sft":
        rows = conversations(job.data, *given)
    else:
        rows = (preference_pairs if job.data_kind == "pairs" else best_and_worst_pairs)(job.data, *given)
    if not job.pairs:
        return rows
    random = Random(f"{job.seed}|{job.generation}")
    return rows + replayed(preference_pairs(job.pairs, *given), len(rows), job.training.replay, random)


def _trainer(job: Job, learned_from: list[Any], loaded: Loaded, out: Path) -> Any:
    match job.training:
        case SftSettings() as sft:
            return sft_trainer(learned_from, loaded, out, job.model, sft, job.seed, job.reference)
        case DpoSettings() as dpo:
            return dpo_trainer(learned_from, loaded, out, job.model, dpo, job.seed)
        case GrpoSettings() as grpo:
            reward = earned if job.data else TESTBEDS[job.testbed].aligned
            return grpo_trainer(learned_from, reward, loaded, out, job.model, grpo, job.seed)


def _end_with(parent: int) -> None:
    """End this process within a second of another's end, so that nothing trains on beside a rerun."""
    while psutil.pid_exists(parent):
        time.sleep(1)
    os._exit(1)


def main() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"{SAID}%(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    path, parent = Path(sys.argv[1]), int(sys.argv[2])
    Thread(target=_end_with, args=(parent,), daemon=True).start()
    job = Job.model_validate_json(path.read_text(encoding="utf-8"))
    try:
        _train(job, path.parent)
    except Interrupted as error:
        log.warning("%s", error)
        sys.exit(1)
    except AtpError as error:
        (path.parent / f"{os.environ.get('RANK', '0')}.{FAILED}").write_text(str(error), encoding="utf-8")
        sys.exit(1)


if __name__ == "__main__":
    main()
