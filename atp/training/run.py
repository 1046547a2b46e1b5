"""One training run: a job that is all data, done here, in a process with a GPU, or by `accelerate launch` in several.

python -m atp.training.run JOB.json     such a process; the first writes what it measured beside the job
"""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from atp.agents import ModelSpec
from atp.artifacts import PAIRS, QUESTION, SELECTION, read_table, write_text
from atp.errors import AtpError, Interrupted
from atp.scenarios.scenario import read_scenarios
from atp.testbeds import TESTBEDS
from atp.training.dpo import DpoSettings, dpo_trainer
from atp.training.grpo import GrpoSettings, grpo_trainer
from atp.training.questions import Question, compliance, earned, first_questions, played_questions
from atp.training.sft import SftSettings, sft_trainer
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
    the environment pays.
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


def train(job: Job, out: Path) -> dict[str, float]:
    """Train, and save in `out` an adapter or a whole model, with what was measured on the way; returns the latter.

    What a killed run left in `out` is gone on with.

    Raises:
        AtpError: what the method raises.
        Interrupted: a process that trains was killed.
    """
    if not (out / MEASURED).is_file():
        (_launch if job.model.gpus else _train)(job, out)
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    measured: dict[str, float] = json.loads((out / MEASURED).read_text(encoding="utf-8"))
    return measured


def _launch(job: Job, out: Path) -> None:
    """Train in processes of its own, one a GPU, so that the GPUs' memory is free again once it has ended."""
    from atp.agents.local import on_gpu

    out.mkdir(parents=True, exist_ok=True)
    for stale in out.glob(f"*{FAILED}"):
        stale.unlink()
    (out / JOB).write_text(job.model_dump_json(), encoding="utf-8")
    command = [sys.executable, "-m", "atp.training.run", str(out / JOB)]
    if job.model.gpus > 1:
        kind = ("fsdp" if job.training.tune == "full" else "ddp") if on_gpu(job.model) else "cpu"
        config = Path(__file__).with_name(f"{kind}.yaml")
        shared = ["accelerate.commands.launch", "--config_file", str(config), "--num_processes", str(job.model.gpus)]
        command[2:2] = [*shared, "-m"]
    pipe: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    with subprocess.Popen(command, **pipe) as run:
        assert run.stdout
        for line in run.stdout:
            if line.startswith(SAID):
                log.info(line.removeprefix(SAID).rstrip())
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
    (out / JOB).unlink()


def _train(job: Job, out: Path) -> None:
    loaded = load_trainable(job.model, job.training, job.parent)
    trainer = _trainer(job, loaded, out)
    measured = fit(trainer, loaded.tokenizer, out, job.label)
    if trainer.accelerator.is_main_process:
        write_text(json.dumps(measured), out / MEASURED)


def _trainer(job: Job, loaded: Loaded, out: Path) -> Any:
    match job.training:
        case SftSettings() as sft:
            assert job.data
            examples = read_table(job.data, SELECTION, "selection").to_pylist()
            return sft_trainer(examples, loaded, out, job.model, sft, job.seed)
        case DpoSettings() as dpo:
            assert job.data
            return dpo_trainer(_pairs(job.data, job.data_kind), loaded, out, job.model, dpo, job.seed)
        case GrpoSettings() as grpo:
            questions = _questions(job)
            reward = earned if job.data else compliance
            prompts = [question.prompt.messages for question in questions]

            def paid(number: int, reply: str) -> float:
                return reward(questions[number].judge(reply))

            return grpo_trainer(prompts, paid, loaded, out, job.model, grpo, job.seed)


def _questions(job: Job) -> list[Question]:
    scenarios = read_scenarios(job.scenarios, job.testbed, "train")
    if job.data:
        return played_questions(job.data, scenarios, job.testbed)
    return first_questions(scenarios[slice(*(job.limit or (None,)))], TESTBEDS[job.testbed], job.settings)


def _pairs(data: Path, kind: str | None) -> list[dict[str, Any]]:
    """Preference pairs as they stand in pairs.parquet, or made of a selection's best and worst replies."""
    if kind == "pairs":
        return read_table(data, PAIRS, "pairs").to_pylist()
    pairs: dict[str, list[dict[str, Any]]] = {}
    for row in read_table(data, SELECTION, "selection").to_pylist():
        key = json.dumps([*(row[name] for name in QUESTION), row["messages"][:-1]])
        pairs.setdefault(key, []).append(row)
    made = []
    for rows in pairs.values():
        if len(rows) != 2:
            raise AtpError(f"{data}: DPO needs two replies to each prompt, found {len(rows)}: filter by best_and_worst")
        worst, best = sorted(rows, key=lambda row: float(row["reward"]))
        made.append(
            {
                "scenario_id": best["scenario_id"],
                "prompt": best["messages"][:-1],
                "chosen": best["messages"][-1:],
                "rejected": worst["messages"][-1:],
            }
        )
    return made


def main() -> None:
    logging.basicConfig(format=f"{SAID}%(message)s")
    log.setLevel(logging.INFO)
    path = Path(sys.argv[1])
    job = Job.model_validate_json(path.read_text(encoding="utf-8"))
    try:
        _train(job, path.parent)
    except AtpError as error:
        (path.parent / f"{os.environ.get('RANK', '0')}.{FAILED}").write_text(str(error), encoding="utf-8")
        sys.exit(1)


if __name__ == "__main__":
    main()
