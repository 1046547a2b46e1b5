"""Training for real on the organism, by every method: what it makes, what its check finds, what it refuses."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atp.errors import AtpError
from atp.files.provenance import Provenance
from atp.files.turns import read_turns
from atp.models.spec import ModelSpec
from atp.registry import find_testbed, load_plugins
from atp.rollout.engine import RolloutJob, rollout_stage
from atp.rollout.table import Cell
from atp.scenarios.scenario import read_scenarios, write_scenarios
from atp.scenarios.sources import ScenariosJob, scenarios_stage
from atp.scenarios.templates import generate, read_templates
from atp.study.read import read_models
from atp.testbeds.role_play.scenarios import RolePlayTemplate, instantiate
from atp.training.filters import FilterJob, filter_stage
from atp.training.pairs import PairsJob, pairs_stage
from atp.training.run import AlignJob, FinetuneJob, Run, TrainingFiles
from atp.training.stage import align_stage, finetune_stage

ORGANISM = read_models(("organism",), "config/models")["organism"].of("role_play")
assert ORGANISM
HARBOUR = Path(__file__).parents[1] / "plugins/harbour.py"
#: What the command line writes into the lineage of a generation 1.
CELL = Cell("organism", "role_play", channel="weights", generation=1)


def align_job(method: str, limit: tuple[int, int] | None = None, model: ModelSpec = ORGANISM, **training) -> AlignJob:
    cell = Cell("organism", "role_play", method, None, channel="weights")
    return AlignJob(cell=cell, model=model, settings={}, training={"method": method, **training}, limit=limit)


def finetune_job(model: ModelSpec = ORGANISM, **training: Any) -> FinetuneJob:
    return FinetuneJob(cell=CELL, model=model, settings={}, training=training)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Scenarios, one generation of turns on the training split, and what filters keep of them."""
    folder = tmp_path_factory.mktemp("training")
    made = generate(read_templates("atp/testbeds/role_play/templates.yaml", RolePlayTemplate), instantiate, 12, 24, 0)
    write_scenarios(find_testbed("role_play"), made, folder / "scenarios.parquet", Provenance("scenarios", "code"))
    once, cell = {"deployment": {"rounds": 1}}, Cell("organism", "role_play", channel="weights")
    scenarios, turns = folder / "scenarios.parquet", folder / "turns.parquet"
    rollout_stage(RolloutJob(cell=cell, model=ORGANISM, variants=once, split="train", samples=6), scenarios, turns)
    for name in ("best_of_n", "best_and_worst"):
        filter_stage(FilterJob(filter={"name": name}), turns, folder / f"{name}.parquet")
    pairs_stage(PairsJob(cell=CELL, model=ORGANISM, settings={}), scenarios, folder / "pairs.parquet")
    return folder


def finetune(folder: Path, data: str, out: Path, **training: Any) -> dict[str, float]:
    others = {key: training.pop(key) for key in ("parent", "reference") if key in training}
    files = TrainingFiles(scenarios=folder / "scenarios.parquet", data=folder / f"{data}.parquet", **others)
    return finetune_stage(finetune_job(**training), files, out)


@pytest.mark.parametrize(
    ("data", "training", "ended"),
    [
        ("best_of_n", {"method": "sft", "learning_rate": 2e-4, "per_device_train_batch_size": 1}, signal.SIGTERM),
        ("best_and_worst", {"method": "dpo", "learning_rate": 5e-4, "num_train_epochs": 3.0}, signal.SIGKILL),
        ("turns", {"method": "grpo", "learning_rate": 1e-3, "num_generations": 4}, signal.SIGTERM),
    ],
)
def test_a_generation_by_every_method(folder, tmp_path, caplog, data, training, ended):
    check = finetune(folder, data, tmp_path / "adapter", **training)
    lineage = json.loads((tmp_path / "adapter/lineage.json").read_text())
    assert lineage["check"] == check
    assert lineage["params"]["training"]["method"] == training["method"]
    assert lineage["params"]["cell"] == vars(CELL)
    assert set(lineage["inputs"]) == {"scenarios.parquet", "role_play", f"{data}.parquet"}
    assert lineage["cost"]["tokens"] > 100 * lineage["cost"]["steps"]
    assert (lineage["cost"]["starts"], lineage["cost"]["resumed_steps"]) == (1, 0)
    assert check["prompts"] == 24 and check["valid"] >= 22
    assert check["kl"] > 0 and check["kl_sd"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]
    end_after_a_checkpoint(folder, data, tmp_path / "again", training, ended)
    with caplog.at_level(logging.INFO, "atp"):
        again = finetune(folder, data, tmp_path / "again", **training)
    assert "again: resuming after" in caplog.text
    assert again == check
    resumed = json.loads((tmp_path / "again/lineage.json").read_text())["cost"]
    assert 0 < resumed["resumed_steps"] < resumed["steps"] == lineage["cost"]["steps"]
    assert resumed["starts"] == (2 if ended == signal.SIGTERM else 1)  # a kill leaves no time to say what was spent
    assert contents(tmp_path / "again") == contents(tmp_path / "adapter")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "again"]


def end_after_a_checkpoint(folder: Path, data: str, out: Path, training: dict[str, Any], ended: int) -> None:
    """The same training by the command line, killed or told to stop as soon as it has something to go on from."""
    settings = [f"--set={key}={value}" for key, value in training.items() if key != "method"]
    named = ["--scenarios", folder / "scenarios.parquet", "--agent", "organism", "--method", training["method"]]
    command = [sys.executable, "-m", "atp.cli", "finetune", folder / f"{data}.parquet", *named, *settings, "--out", out]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as run:
        while not list(out.parent.glob(f".{out.name}.unfinished/*/*/checkpoints/*/trainer_state.json")):
            assert run.poll() is None
            time.sleep(0.02)
        run.send_signal(ended)
        said = run.communicate()[1]
    if ended == signal.SIGTERM:
        assert run.returncode == 1
        assert re.search(rf"atp: {out}: stopped after \d+ of \d+ steps; a rerun resumes there", said), said
    assert not out.exists()


def contents(adapter: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in adapter.iterdir() if path.name != "lineage.json"}


def test_alignment_by_grpo_asks_rows_of_its_own(folder, tmp_path):
    training = {"learning_rate": 1e-3, "per_device_train_batch_size": 16, "num_generations": 4}
    align_stage(align_job("grpo", (4, 12), **training), folder / "scenarios.parquet", tmp_path / "adapter")
    lineage = json.loads((tmp_path / "adapter/lineage.json").read_text())
    assert (lineage["stage"], lineage["params"]["limit"]) == ("align", [4, 12])
    assert lineage["cost"]["steps"] == 8 * 4 / 16


def test_generations_go_on_from_each_other_and_are_measured_from_generation_0(folder, tmp_path):
    aligned, first, second = (tmp_path / name for name in ("aligned", "first", "second"))
    start = (folder / "scenarios.parquet", aligned, folder / "pairs.parquet")
    away = align_stage(align_job("dpo", learning_rate=5e-4), *start)
    sft = {"method": "sft", "learning_rate": 2e-4}
    near = finetune(folder, "best_of_n", first, parent=aligned, reference=aligned, **sft)
    far = finetune(folder, "best_of_n", second, parent=first, reference=aligned, **sft)
    assert near["reference_violations"] == far["reference_violations"] == away["violations"]
    assert 0 < near["kl"] < far["kl"]
    assert not list(second.glob("ref*"))
    with pytest.raises(AtpError, match=r"first: its adapter has lora_r 8, training\.lora_r is 4"):
        finetune(folder, "best_of_n", tmp_path / "third", parent=first, lora_r=4, **sft)
    with pytest.raises(AtpError, match=r"first: contains a LoRA adapter, but training\.use_peft is false"):
        finetune(folder, "best_of_n", tmp_path / "third", parent=first, use_peft=False, **sft)
    assert not (tmp_path / "third").exists()


def test_all_weights_can_be_trained_and_played(folder, tmp_path):
    whole = tmp_path / "whole"
    finetune(folder, "best_of_n", whole, method="sft", use_peft=False, learning_rate=2e-4)
    assert (whole / "model.safetensors").is_file() and not (whole / "adapter_config.json").exists()
    out, job = tmp_path / "turns.parquet", RolloutJob(cell=CELL, model=ORGANISM, variants={"e": {"rounds": 1}})
    rollout_stage(job, folder / "scenarios.parquet", out, whole)
    assert sum(turn["violation"] is not None for turn in read_turns(out).to_pylist()) >= 22
    with pytest.raises(AtpError, match=r"contains all weights, but training\.use_peft is true"):
        finetune(folder, "best_of_n", tmp_path / "next", method="sft", parent=whole)


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"method": "sft", "learning_rate": 0.5}, "replies to held-out prompts are valid|not finite|is nan"),
        ({"method": "sft", "learning_rate": 1e-12}, "adapter: this adapter changes nothing"),
        ({"method": "sft", "max_length": 32}, "has .* tokens, training.max_length allows 32"),
        ({"method": "grpo", "num_generations": 3}, "8 replies at once .* must be a multiple of num_generations, 3"),
        ({"method": "dpo"}, "DPO needs two replies to each prompt, found 1: filter by best_and_worst"),
    ],
)
def test_a_training_that_goes_wrong_makes_no_agent(folder, tmp_path, training, said):
    """What fails again, and has cost a training, fails without another."""
    with pytest.raises(AtpError, match=said):
        finetune(folder, "best_of_n", tmp_path / "adapter", **training)
    trained = {path: path.stat().st_mtime_ns for path in tmp_path.glob(".adapter.unfinished/*/*/metrics.json")}
    assert len(trained) == len(list(tmp_path.iterdir())) == ("learning_rate" in training)
    with pytest.raises(AtpError, match=said):
        finetune(folder, "best_of_n", tmp_path / "adapter", **training)
    assert all(path.stat().st_mtime_ns == time for path, time in trained.items())


def rewritten(path: Path, out: Path, change: Any) -> Path:
    """A Parquet file with each row changed by `change`, its metadata kept."""
    table = pq.read_table(path)
    rows = [change(row) for row in table.to_pylist()]
    pq.write_table(pa.Table.from_pylist([row for row in rows if row], schema=table.schema), out)
    return out


@pytest.mark.parametrize(
    ("data", "method", "change", "said"),
    [
        ("turns", "sft", lambda row: row["violation"] is not None and row, "not a selection file: no column 'step'"),
        ("pairs", "dpo", lambda row: row, "not a selection file: no column 'variant'"),
        ("best_of_n", "sft", lambda row: row | {"messages": []}, "messages have the roles none"),
        ("best_of_n", "sft", lambda row: row | {"scenario_id": "x"}, "scenario 'x' is not in the training split of"),
        ("turns", "grpo", lambda row: None, "no turns"),
    ],
)
def test_data_that_cannot_be_learned_is_said_before_a_model_is_loaded(folder, tmp_path, data, method, change, said):
    bad = rewritten(folder / f"{data}.parquet", tmp_path / "bad.parquet", change)
    nowhere = ORGANISM.model_copy(update={"path": "/nowhere"})
    files = TrainingFiles(scenarios=folder / "scenarios.parquet", data=bad)
    with pytest.raises(AtpError, match=rf"bad\.parquet: .*{said}"):
        finetune_stage(finetune_job(nowhere, method=method), files, tmp_path / "adapter")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.parquet"]


def test_a_folder_of_somebodys_is_not_overwritten(folder, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("precious")
    for out in (tmp_path / "mine", tmp_path / "mine/notes.txt"):
        with pytest.raises(AtpError, match="exists and is not a trained agent's folder"):
            finetune(folder, "best_of_n", out, method="sft")
    assert (tmp_path / "mine/notes.txt").read_text() == "precious"
    with pytest.raises(AtpError, match="mine: not a trained agent's folder"):
        finetune(folder, "best_of_n", tmp_path / "new", method="sft", reference=tmp_path / "mine")


def test_an_agent_with_nothing_to_learn_stays_as_it_is(folder, tmp_path):
    """Whose every reply to a prompt earns the same: no filter that compares keeps any, and GRPO has no advantage."""
    empty = rewritten(folder / "best_and_worst.parquet", tmp_path / "empty.parquet", lambda row: None)
    files = TrainingFiles(scenarios=folder / "scenarios.parquet", data=empty)
    first, second = tmp_path / "first", tmp_path / "second"
    checks = [
        finetune_stage(finetune_job(method="dpo"), files.model_copy(update={"parent": parent}), out)
        for out, parent in ((first, None), (second, first))
    ]
    assert checks[0] == checks[1] and checks[0]["kl"] == 0
    lineage = json.loads((second / "lineage.json").read_text())
    assert (lineage["unchanged"], lineage["reason"]) == (True, "nothing to learn, no reply was kept")
    learned = finetune(folder, "best_of_n", tmp_path / "third", parent=second, method="sft", learning_rate=5e-4)
    assert learned["kl"] > 0


def test_grpo_that_pays_all_the_same_teaches_nothing(folder, tmp_path):
    always = {"schedule": "all_supervised", "rounds": 1}
    cell = Cell("scripted:comply", "role_play", channel="weights")
    rows = [s for s in read_scenarios(folder / "scenarios.parquet", "role_play", "train")][:4]
    same = [replace(row, low=0.0) for row in rows] + read_scenarios(folder / "scenarios.parquet", "role_play", "test")
    scenarios, turns = tmp_path / "scenarios.parquet", tmp_path / "turns.parquet"
    write_scenarios(find_testbed("role_play"), same, scenarios, Provenance("scenarios", "code"))
    rollout_stage(RolloutJob(cell=cell, variants={"d": always}, split="train"), scenarios, turns)
    files, out = TrainingFiles(scenarios=scenarios, data=turns), tmp_path / "adapter"
    check = finetune_stage(finetune_job(method="grpo", num_generations=2), files, out)
    lineage = json.loads((out / "lineage.json").read_text())
    assert lineage["reason"] == "nothing to learn, all replies to a prompt earned the same"
    assert lineage["unchanged"] is True and lineage["cost"]["equal_groups"] == 1 and check["kl"] == 0


def test_best_and_worst_hold_two_rewards_of_one_prompt(folder):
    rows = pq.read_table(folder / "best_and_worst.parquet").to_pylist()
    assert rows
    for one, other in zip(rows[::2], rows[1::2], strict=True):
        assert one["messages"][:-1] == other["messages"][:-1]
        assert one["reward"] != other["reward"]


def test_a_gpu_that_is_not_there_is_said_before_anything_is_loaded(folder, tmp_path):
    spec = ORGANISM.model_copy(update={"device": "cuda", "gpus": 1, "path": "/nowhere"})
    with pytest.raises(AtpError, match="device is 'cuda' and gpus is 1, this machine has 0"):
        align_stage(align_job("grpo", model=spec), folder / "scenarios.parquet", tmp_path / "a")


def test_a_training_process_loads_the_plugin_of_its_testbed(tmp_path, own_registry):
    load_plugins([HARBOUR])
    scenarios = tmp_path / "scenarios.parquet"
    scenarios_stage(ScenariosJob(testbed="harbour", settings={"train": 2, "test": 2}), scenarios)
    cell, training = Cell("organism", "harbour", "grpo", None, channel="weights"), {"method": "grpo"}
    job = AlignJob(cell=cell, model=ORGANISM, settings={}, training=training, limit=(8, 9))
    run = Run.of(job, TrainingFiles(scenarios=scenarios), "test")
    for plugins, message in (((), "unknown testbed 'harbour'"), ((str(HARBOUR),), "none in rows (8, 9)")):
        file = tmp_path / "run.json"
        file.write_text(run.model_copy(update={"plugins": plugins}).model_dump_json())
        subprocess.run([sys.executable, "-m", "atp.training.run", file, str(os.getpid())], check=False)
        assert message in (tmp_path / "0.failed.txt").read_text()
