"""One training run: a job that is all data, done here or by `accelerate launch` where it has several GPUs.

python -m atp.training.run JOB.json     one process of several; the first writes what it measured beside the job
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from atp.agents import ModelSpec
from atp.artifacts import PAIRS, QUESTION, SELECTION, read_table
from atp.errors import AtpError
from atp.scenarios.scenario import read_scenarios
from atp.testbeds import TESTBEDS
from atp.training.dpo import DpoSettings, train_dpo
from atp.training.grpo import GrpoSettings, train_grpo
from atp.training.questions import Question, compliance, earned, first_questions, played_questions
from atp.training.sft import SftSettings, train_sft
from atp.training.trainer import load_trainable

FAILED = "failed.txt"
MEASURED = "measured.json"


class Job(BaseModel):
    """What is trained on what.

    data is a selection (SFT, DPO), preference pairs (DPO) or turns (GRPO); GRPO without it is asked the first questions
    of rows `limit` of the training scenarios and paid for compliance, with it the questions of its turns, and paid what
    the environment pays.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

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
    """Train, and save in `out` an adapter or a whole model; returns what was measured on the way.

    Raises:
        AtpError: what the method raises; a process of several that failed.
    """
    if job.model.gpus < 2:
        return _train(job, out)
    from atp.agents.local import on_gpu

    out.mkdir(parents=True)
    (out / "job.json").write_text(job.model_dump_json(), encoding="utf-8")
    kind = ("fsdp" if job.training.tune == "full" else "ddp") if on_gpu(job.model) else "cpu"
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(Path(__file__).with_name(f"{kind}.yaml")),
    ]
    launch += ["--num_processes", str(job.model.gpus), "-m", "atp.training.run", str(out / "job.json")]
    result = subprocess.run(launch, check=False)
    failed = sorted(out.glob(f"*{FAILED}"))
    if failed:
        raise AtpError(failed[0].read_text(encoding="utf-8"))
    if result.returncode or not (out / MEASURED).is_file():
        raise AtpError(
            f"accelerate launch of {job.model.gpus} processes ended with code {result.returncode}, see the log"
        )
    measured: dict[str, float] = json.loads((out / MEASURED).read_text(encoding="utf-8"))
    for name in ("job.json", MEASURED):
        (out / name).unlink()
    return measured


def _train(job: Job, out: Path) -> dict[str, float]:
    loaded = load_trainable(job.model, job.training, job.parent)
    match job.training:
        case SftSettings() as sft:
            assert job.data
            examples = read_table(job.data, SELECTION, "selection").to_pylist()
            return train_sft(examples, loaded, out, job.model, sft, job.seed)
        case DpoSettings() as dpo:
            assert job.data
            return train_dpo(_pairs(job.data, job.data_kind), loaded, out, job.model, dpo, job.seed)
        case GrpoSettings() as grpo:
            questions = _questions(job)
            reward = earned if job.data else compliance
            prompts = [question.prompt.messages for question in questions]

            def paid(number: int, reply: str) -> float:
                return reward(questions[number].judge(reply))

            return train_grpo(prompts, paid, loaded, out, job.model, grpo, job.seed)


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
    path = Path(sys.argv[1])
    job = Job.model_validate_json(path.read_text(encoding="utf-8"))
    try:
        measured = _train(job, path.parent)
    except AtpError as error:
        (path.parent / f"{os.environ.get('RANK', '0')}.{FAILED}").write_text(str(error), encoding="utf-8")
        sys.exit(1)
    if os.environ.get("RANK", "0") == "0":
        (path.parent / MEASURED).write_text(json.dumps(measured), encoding="utf-8")


if __name__ == "__main__":
    main()
