"""Models of real size, as far as can be shown without their weights: their own config files and the paper's study, with
only the path and the number of epochs changed, on models of a few layers with random weights.
"""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from tiny import save_tiny

from atp.errors import Interrupted
from atp.files.provenance import Provenance
from atp.files.turns import read_turns
from atp.models.spec import ModelSpec
from atp.registry import find_testbed
from atp.rollout.engine import RolloutJob, rollout_stage
from atp.rollout.table import Cell
from atp.scenarios.scenario import write_scenarios
from atp.scenarios.templates import generate, read_templates
from atp.study.read import read_models, read_study
from atp.study.study import alignment_training, variants
from atp.testbeds.role_play.scenarios import RolePlayTemplate, instantiate
from atp.training.pairs import PairsJob, pairs_stage
from atp.training.run import AlignJob, Run, TrainingFiles, train

STUDY = "config/studies/paper_role_play.yaml"
FAMILIES = {"qwen3-8b": "qwen3", "llama-3.1-8b-instruct": "llama", "qwen3-4b-thinking": "qwen3"}
#: A step or two after the warm-up, where eight sequences are a step.
EPOCHS = 3.0


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, tmp_path_factory) -> tuple[str, ModelSpec]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained("resources/organism/role_play")
    folder = save_tiny(
        tmp_path_factory.mktemp("hub") / request.param, FAMILIES[request.param], None, 0, tokenizer, 0.02
    )
    spec = read_models((request.param,), "config/models")[request.param]
    return request.param, spec.model_copy(update={"path": str(folder)})


@pytest.fixture(scope="module")
def scenarios(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("played") / "scenarios.parquet"
    write_scenarios(
        find_testbed("role_play"),
        generate(read_templates("atp/testbeds/role_play/templates.yaml", RolePlayTemplate), instantiate, 8, 2, 0),
        path,
        Provenance("s", "c"),
    )
    return path


@pytest.fixture(scope="module")
def pairs(scenarios) -> Path:
    out = scenarios.with_name("pairs.parquet")
    cell = Cell("scripted:random:0.5", "role_play", "dpo", None, channel="weights")
    pairs_stage(PairsJob(cell=cell, settings={}, retries=9), scenarios, out)
    return out


def play(name: str, spec: ModelSpec, scenarios: Path, out: Path, adapter: Path | None) -> list[dict[str, Any]]:
    section = read_study(STUDY).testbeds["role_play"]
    job = RolloutJob(cell=Cell(name, "role_play"), model=spec, variants=variants(section, "baseline"))
    rollout_stage(job, scenarios, out, adapter)
    return read_turns(out).to_pylist()


def run(spec: ModelSpec, training: Any, files: dict[str, Path], limit: tuple[int, int] | None = None) -> Run:
    cell = Cell("organism", "role_play", training.method, None, channel="weights")
    job = AlignJob(cell=cell, model=spec, settings={}, training=training, limit=limit)
    return Run.of(job, TrainingFiles(**files), "test")


def test_the_files_play_and_align(model, scenarios, pairs, tmp_path):
    name, spec = model
    before = play(name, spec, scenarios, tmp_path / "before.parquet", None)
    assert len(before) == 2 * 8 * 6
    assert {turn["finish_reason"] for turn in before} == {"stop"}
    if name == "qwen3-4b-thinking":  # the paper's tool use, which this study has not
        return
    study = read_study(STUDY)
    section = study.testbeds["role_play"]
    method = "dpo" if name.startswith("llama") else "grpo"
    settings = alignment_training(study, section, method, name).model_copy(update={"num_train_epochs": EPOCHS})
    files = {"scenarios": scenarios} | ({"data": pairs} if method == "dpo" else {})
    measured = train(run(spec, settings, files, None if method == "dpo" else (0, 8)), tmp_path / method)
    assert measured["steps"] >= 1 and (tmp_path / method / "adapter_model.safetensors").is_file()
    if method == "dpo":  # random weights earn the same with every reply, so GRPO leaves them as they are
        assert len(play(name, spec, scenarios, tmp_path / "after.parquet", tmp_path / method)) == len(before)


def checkpoints(out: Path) -> set[str]:
    return {path.parent.name for path in out.glob("checkpoints/*/trainer_state.json")}


def kill_the_parent(run: Run, out: Path) -> set[str]:
    """Kill a process that trains in another once there is a checkpoint; the other must end too. Returns checkpoints."""
    code = "import sys; from pathlib import Path; from atp.training.run import Run, train; "
    code += "train(Run.model_validate_json(sys.argv[1]), Path(sys.argv[2]))"
    command = [sys.executable, "-c", code, run.model_dump_json(), str(out)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as parent:
        while not checkpoints(out):
            assert parent.poll() is None
            time.sleep(0.02)
        children = psutil.Process(parent.pid).children(recursive=True)
        parent.kill()
    assert children and psutil.wait_procs(children, timeout=10)[1] == []
    return checkpoints(out)


def test_two_processes_train_one_adapter(scenarios, pairs, tmp_path):
    """What several GPUs do, by the same launcher, on a machine without any; and what is left when one is killed."""
    spec = ModelSpec(path="resources/organism/role_play", device="cpu", gpus=2)
    study = read_study("config/studies/demo.yaml")
    section = study.testbeds["role_play"]
    halves = {"num_train_epochs": 4.0, "per_device_train_batch_size": 2}
    settings = alignment_training(study, section, "dpo", "organism").model_copy(update=halves)
    files = {"scenarios": scenarios, "data": pairs}
    both = train(run(spec, settings, files), tmp_path / "two")
    whole = settings.model_copy(update={"per_device_train_batch_size": 4})
    single = run(spec.model_copy(update={"gpus": 1}), whole, files)
    found = kill_the_parent(single, tmp_path / "one")
    with ThreadPoolExecutor() as pool:
        killed = pool.submit(train, single, tmp_path / "one")
        while checkpoints(tmp_path / "one") <= found:
            assert not killed.done()
            time.sleep(0.02)
        for process in psutil.Process().children():
            process.kill()
        with pytest.raises(Interrupted, match="test: training ended with code -9"):
            killed.result()
    alone = train(single, tmp_path / "one")
    assert (both["processes"], alone["processes"]) == (2, 1)
    assert both["steps"] == alone["steps"] and both["tokens"] == alone["tokens"]
    assert both["loss"] == pytest.approx(alone["loss"], abs=0.02)
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == sorted(
        path.name for path in (tmp_path / "one").iterdir()
    )
