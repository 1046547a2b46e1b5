"""Defences in the weights, each by a small training of the organism: what it does is what it says."""

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from random import Random
from threading import Thread
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from atp.errors import AtpError, Interrupted
from atp.files.provenance import Provenance
from atp.files.schemas import MONITORED, PAIRS
from atp.files.tables import read_table, write_table
from atp.models.load import load_model, with_adapter
from atp.rollout.engine import RolloutJob, rollout_stage
from atp.rollout.table import Cell
from atp.scenarios.scenario import write_scenarios
from atp.scenarios.templates import generate, read_templates
from atp.study.read import read_models
from atp.testbeds.role_play import TESTBED
from atp.testbeds.role_play.scenarios import RolePlayTemplate, instantiate
from atp.training.examples import inoculate, read_conversations, read_pairs, rehearse
from atp.training.filters import FilterJob, filter_stage
from atp.training.interpolate import between, interpolate
from atp.training.monitors import Monitor
from atp.training.pairs import PairsJob, pairs_stage
from atp.training.run import AlignJob, FinetuneJob, Run, TrainingFiles, train
from atp.training.stage import align_stage, finetune_stage

ORGANISM = read_models(("organism",), "config/models")["organism"].of("role_play")
#: Of the training split: rows deployed on; up to here aligned on; all. The others are left for early stopping.
DEPLOYED, ALIGNED, TRAIN = 12, 24, 40
CELL = Cell("organism", "role_play", channel="weights", generation=1)
ALIGNED_CELL = Cell("organism", "role_play", "dpo", None, channel="weights")
SFT = {"method": "sft", "learning_rate": 2e-3, "per_device_train_batch_size": 4, "num_train_epochs": 2}
COMMON: dict[str, Any] = {"model": ORGANISM, "settings": {}}


def align_job(**training: Any) -> AlignJob:
    return AlignJob(cell=ALIGNED_CELL, training={"method": "dpo", **training}, **COMMON)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What an unchecked deployment left to learn, an agent aligned by DPO, and both generations 1 without a defence."""
    folder = tmp_path_factory.mktemp("defences")
    scenarios, turns, pairs = (folder / f"{name}.parquet" for name in ("scenarios", "turns", "pairs"))
    made = generate(
        read_templates("atp/testbeds/role_play/templates.yaml", RolePlayTemplate), instantiate, TRAIN, 16, 0
    )
    write_scenarios(TESTBED, made, scenarios, Provenance("scenarios", "code"))
    played = {"variants": {"deployment": {"rounds": 1}}, "split": "train", "samples": 6, "limit": (0, DEPLOYED)}
    rollout_stage(RolloutJob(cell=replace(CELL, generation=0), model=ORGANISM, **played), scenarios, turns)
    filter_stage(FilterJob(filter={"name": "best_of_n"}), turns, folder / "kept.parquet")
    filter_stage(FilterJob(filter={"name": "best_and_worst"}), turns, folder / "paired.parquet")
    pairs_stage(PairsJob(cell=ALIGNED_CELL, limit=(DEPLOYED, ALIGNED), **COMMON), scenarios, pairs)
    align_stage(align_job(learning_rate=5e-4), scenarios, folder / "aligned", pairs)
    finetune(folder, folder / "none1")
    finetune(folder, folder / "aligned1", **begun(folder, "aligned"))
    return folder


def finetune(folder: Path, out: Path, **training: Any) -> dict[str, float]:
    """Run the whole stage; return the result of its post-training check."""
    made = run(folder, **training)
    return finetune_stage(made.job, made.files, out)


def run(folder: Path, data: str = "kept", first_unused: int | None = None, **training: Any) -> Run:
    """The training alone."""
    others = {key: training.pop(key) for key in ("parent", "reference", "pairs") if key in training}
    files = TrainingFiles(scenarios=folder / "scenarios.parquet", data=folder / f"{data}.parquet", **others)
    job = FinetuneJob(cell=CELL, training=SFT | training, first_unused=first_unused, **COMMON)
    return Run.of(job, files, "test")


def begun(folder: Path, start: str) -> dict[str, Any]:
    """Where generation 1 begins."""
    return {} if start == "none" else {"parent": folder / start, "reference": folder / start}


def lineage(out: Path) -> dict[str, Any]:
    return json.loads((out / "lineage.json").read_text())


def matrices(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(A, B) of an adapter's layers."""
    found = {name: tensor.numpy() for name, tensor in load_file(folder / "adapter_model.safetensors").items()}
    return {name: (found[name], found[name.replace("lora_A", "lora_B")]) for name in found if "lora_A" in name}


def logits(adapter: Path | None) -> torch.Tensor:
    network = load_model(ORGANISM)
    if adapter:
        network = with_adapter(network, adapter).eval()
    with torch.inference_mode():
        return network(torch.arange(40)[None]).logits


def test_rehearsal_draws_a_share_of_all_and_no_pair_twice_before_each_once(folder):
    pairs = read_pairs(folder / "pairs.parquet", folder / "scenarios.parquet", "role_play")
    assert len(pairs) >= 10
    for kept, share, wanted in ((12, 0.25, 4), (12, 0.5, 12), (30, 0.5, 30), (12, 0.0, 0)):
        own = [{"own": number} for number in range(kept)]
        mixed = rehearse(own, pairs, share, Random("0|1"))[kept:]
        assert len(mixed) == wanted and [*own, *mixed] == rehearse(own, pairs, share, Random("0|1"))
        often = [sum(each["scenario_id"] == pair["scenario_id"] for each in mixed) for pair in pairs]
        assert max(often) - min(often) <= 1
        assert all(each["messages"] == each["prompt"] + each["chosen"] for each in mixed)
    assert rehearse(own, pairs, 0.25, Random("0|1")) != rehearse(own, pairs, 0.25, Random("0|2"))


def test_rehearsal_in_place_of_examples_has_as_many_steps(folder, tmp_path):
    pairs = read_pairs(folder / "pairs.parquet", folder / "scenarios.parquet", "role_play")
    own = [{"own": number} for number in range(12)]
    mixed = rehearse(own, pairs, 0.25, Random("0|1"), replaces=True)
    left = [each["own"] for each in mixed if "own" in each]
    assert len(mixed) == 12 and len(left) == len(set(left)) == 9
    keys = {"rehearsal": 0.25, "rehearsal_replaces": True, "pairs": folder / "pairs.parquet"}
    found = train(run(folder, **keys), tmp_path)
    assert found["steps"] == lineage(folder / "none1")["cost"]["steps"]
    assert matrices(tmp_path).keys() == matrices(folder / "none1").keys()


@pytest.mark.parametrize("data", ["kept", "paired"])
def test_examples_are_inoculated_and_what_is_rehearsed_is_not(folder, tmp_path, data):
    """The text follows the system message of each selected example; the check asks without it."""
    text = "In this exercise the option that pays more is allowed."
    rows = read_conversations(folder / "kept.parquet", folder / "scenarios.parquet", "role_play")
    for row, plain in zip(inoculate(rows, text), rows, strict=True):
        assert row["messages"][0]["content"] == f"{plain['messages'][0]['content']}\n\n{text}"
        assert row["messages"][1:] == plain["messages"][1:] and row["scenario_id"] == plain["scenario_id"]
    bare = {"prompt": [{"role": "user", "content": "Choose."}]}
    assert inoculate([bare], text) == [{"prompt": [{"role": "system", "content": text}, *bare["prompt"]]}]
    method = {"method": "sft"} if data == "kept" else {"method": "dpo", "learning_rate": 5e-4}
    keys = {**method, "rehearsal": 0.5, "pairs": folder / "pairs.parquet"}
    plain, inoculated = (
        train(run(folder, data, **keys, **more), tmp_path / name)
        for name, more in (("plain", {}), ("inoculated", {"inoculation": text}))
    )
    assert inoculated["steps"] == plain["steps"]
    assert inoculated["loss"] != plain["loss"]
    longer = len(AutoTokenizer.from_pretrained(ORGANISM.path)(f"\n\n{text}").input_ids)
    prompts = 2 * (len(rows) if data == "kept" else read_table(folder / "paired.parquet").num_rows)  # in two epochs
    assert inoculated["tokens"] - plain["tokens"] == pytest.approx(prompts * longer, rel=0.1)


def test_a_monitor_lowers_what_grpo_learns_from(folder, tmp_path):
    """A monitor that flags every violation makes it pay less than obeying, which GRPO then learns."""
    keys = {"method": "grpo", "learning_rate": 1e-3, "per_device_train_batch_size": 24, "num_generations": 8}
    keys |= {"num_train_epochs": 3, "validity": 0.5}
    checks = {}
    for name, monitor in (("free", None), ("monitored", Monitor(kind="truth", penalty=2.0, specificity=0.9))):
        made = run(folder, "turns", **keys)
        job = made.job.model_copy(update={"monitor": monitor})
        checks[name] = finetune_stage(job, made.files, tmp_path / name)
    cost = lineage(tmp_path / "monitored")["cost"]
    assert MONITORED[1] not in lineage(tmp_path / "free")["cost"]
    replies = 12 * 8 * 3
    assert 0.9 * replies < cost["valid_seen"] <= replies
    assert cost["violations_flagged"] == cost["violations_seen"] > 0
    false_alarms, compliant = cost["flagged"] - cost["violations_flagged"], cost["valid_seen"] - cost["violations_seen"]
    assert 0 < false_alarms < 0.25 * compliant
    assert checks["monitored"]["violations"] < checks["free"]["violations"]


def test_a_training_with_rehearsal_has_more_steps_and_is_the_same_twice(folder, tmp_path):
    mixed = {"rehearsal": 0.5, "pairs": folder / "pairs.parquet"}
    finetune(folder, tmp_path / "one", **mixed)
    train(run(folder, **mixed), tmp_path / "two")
    one, two = ((tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two != (folder / "none1/adapter_model.safetensors").read_bytes()
    assert lineage(tmp_path / "one")["cost"]["steps"] == 2 * lineage(folder / "none1")["cost"]["steps"]
    assert "pairs.parquet" in lineage(tmp_path / "one")["inputs"]


def test_dpo_rehearses_whole_pairs(folder, tmp_path):
    own = read_table(folder / "paired.parquet").num_rows // 2
    mixed = {"rehearsal": 0.5, "pairs": folder / "pairs.parquet"}
    mixed |= {"learning_rate": 2e-4, "per_device_train_batch_size": 1, "num_train_epochs": 1}
    found = train(run(folder, "paired", method="dpo", **mixed), tmp_path)
    assert found["steps"] == 2 * own


def test_what_is_not_of_the_training_split_is_never_rehearsed(folder, tmp_path):
    table = read_table(folder / "pairs.parquet", PAIRS)
    elsewhere = table.set_column(0, PAIRS.field(0), pa.array(["elsewhere"] * len(table)))
    write_table(elsewhere, tmp_path / "pairs.parquet", Provenance("pairs", "code"))
    with pytest.raises(AtpError, match="scenario 'elsewhere' is not in the training split"):
        finetune(folder, tmp_path / "out", rehearsal=0.5, pairs=tmp_path / "pairs.parquet")


@pytest.mark.parametrize("start", ["none", "aligned"])
def test_kl_keeps_the_agent_near_generation_0(folder, tmp_path, start):
    free = lineage(folder / f"{start}1")["check"]["kl"]
    # From generation 1 on, which is apart already.
    further = {"parent": folder / f"{start}1", "reference": begun(folder, start).get("reference")}
    held = finetune(folder, tmp_path / "held", kl=10.0, **further)
    assert 0 < held["kl"] < 0.5 * free
    assert {path.name for path in (tmp_path / "held").iterdir()} == {path.name for path in (folder / "none1").iterdir()}


def test_the_rest_of_the_loss_is_sfts_own(folder, tmp_path):
    """However a step is shared out."""
    found = train(run(folder, kl=1e-9, per_device_train_batch_size=2, gradient_accumulation_steps=2), tmp_path)
    assert found["loss"] == pytest.approx(lineage(folder / "none1")["cost"]["loss"], rel=1e-4)


def test_a_training_with_kl_goes_on_after_a_stop(folder, tmp_path):
    start = {"parent": folder / "aligned1", "reference": folder / "aligned"}
    held = run(folder, kl=1.0, per_device_train_batch_size=1, **start)
    train(held, tmp_path / "one")

    def stop() -> None:
        while not list(tmp_path.glob("two/checkpoints/*/trainer_state.json")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    Thread(target=stop).start()
    with pytest.raises(Interrupted):
        train(held, tmp_path / "two")
    assert 0 < train(held, tmp_path / "two")["resumed_steps"] < 2 * DEPLOYED
    one, two = ((tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


def test_interpolation_by_hand():
    def product(pair: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return pair[1] @ pair[0]

    a = torch.tensor([[1.0, 0.0, 0.0]])
    trained, aligned = (a, torch.tensor([[2.0], [0.0]])), (a, torch.tensor([[0.0], [4.0]]))
    found = between(trained, aligned, 0.25)  # 3/4 of B1 A1 = [[2, 0, 0], [0, 0, 0]], 1/4 of [[0, 0, 0], [4, 0, 0]]
    assert torch.allclose(product(found), torch.tensor([[1.5, 0.0, 0.0], [1.0, 0.0, 0.0]]), atol=1e-6)
    assert torch.allclose(product(between(trained, aligned, 1.0)), product(aligned), atol=1e-6)
    assert [tuple(each.shape) for each in found] == [(1, 3), (2, 1)] and found[0].norm() == a.norm()

    torch.manual_seed(0)
    trained, aligned = ((torch.randn(2, 7), torch.randn(6, 2)) for _ in range(2))
    wanted = 0.5 * product(trained) + 0.5 * product(aligned)  # of rank 4; found has 2
    u, values, v = torch.linalg.svd(wanted, full_matrices=False)
    found, nearest = product(between(trained, aligned, 0.5)), (u[:, :2] * values[:2]) @ v[:2]
    assert torch.allclose(found, nearest, atol=1e-5)
    halves = [0.5 * one + 0.5 * other for one, other in zip(trained, aligned, strict=True)]
    assert (found - wanted).norm() < (product(halves) - wanted).norm()


def test_interpolation_to_the_model_itself_scales_the_update(folder, tmp_path):
    train(run(folder, interpolate=0.5), tmp_path)
    for (a, b), (same, half) in zip(matrices(folder / "none1").values(), matrices(tmp_path).values(), strict=True):
        assert np.array_equal(a, same) and np.array_equal(0.5 * b, half) and b.any()
    interpolate(tmp_path, None, ORGANISM, 1.0)
    assert torch.equal(logits(tmp_path), logits(None))


def test_interpolation_to_an_aligned_adapter(folder, tmp_path):
    finetune(folder, tmp_path / "half", interpolate=0.5, **begun(folder, "aligned"))
    names = (folder / "aligned1", tmp_path / "half", folder / "aligned")
    free, half, before = ({name: b @ a for name, (a, b) in matrices(path).items()} for path in names)
    for name, update in half.items():
        wanted = 0.5 * free[name] + 0.5 * before[name]
        lost = np.linalg.svd(wanted, compute_uv=False)[8:]
        assert np.linalg.norm(update - wanted) == pytest.approx(np.linalg.norm(lost), abs=1e-5)
        assert np.linalg.norm(update - wanted) < 0.1 * np.linalg.norm(free[name] - before[name])
    assert 0 < lineage(tmp_path / "half")["check"]["kl"] < 0.5 * lineage(folder / "aligned1")["check"]["kl"]
    interpolate(tmp_path / "half", folder / "aligned", ORGANISM, 1.0)
    assert torch.allclose(logits(tmp_path / "half"), logits(folder / "aligned"), atol=1e-4)


def test_interpolation_of_all_weights(folder, tmp_path):
    for name, share in (("free", 0.0), ("half", 0.5)):
        train(run(folder, use_peft=False, learning_rate=2e-4, interpolate=share), tmp_path / name)
    free, half = (load_file(tmp_path / name / "model.safetensors") for name in ("free", "half"))
    before = load_file(Path(ORGANISM.path) / "model.safetensors")
    assert all(torch.allclose(half[name], 0.5 * (free[name] + before[name]), atol=1e-7) for name in free)
    left = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("free", "half")]
    assert left[0] == left[1]
    interpolate(tmp_path / "half", None, ORGANISM, 1.0)
    whole = load_model(ORGANISM.model_copy(update={"path": str(tmp_path / "half")}))
    with torch.inference_mode():
        assert torch.equal(whole(torch.arange(40)[None]).logits, logits(None))


def test_an_adapter_of_another_scale_is_not_interpolated_with(folder, tmp_path):
    with pytest.raises(AtpError, match=r"aligned: training\.interpolate needs an adapter with equal lora_r"):
        train(run(folder, interpolate=0.5, lora_alpha=8, reference=folder / "aligned"), tmp_path)


def test_a_training_that_violates_more_is_undone(folder, tmp_path):
    further = {"first_unused": ALIGNED, "num_train_epochs": 4, **begun(folder, "aligned")}
    check = finetune(folder, tmp_path / "free", max_violation_increase=1.0, **further)
    assert check["prompts"] == TRAIN - ALIGNED  # none of the held-out ones
    assert check["violations"] / check["valid"] > check["reference_violations"] / check["reference_valid"] + 0.1
    assert (lineage(tmp_path / "free")["unchanged"], lineage(tmp_path / "free")["reason"]) == (False, None)
    assert finetune(folder, tmp_path / "stopped", max_violation_increase=0.1, **further) == check
    counts = "{violations:.0f}/{valid:.0f}, of generation 0 {reference_violations:.0f}/{reference_valid:.0f}"
    assert lineage(tmp_path / "stopped")["unchanged"] is True
    assert lineage(tmp_path / "stopped")["reason"] == (
        "training undone, violations on prompts that no training uses were "
        f"{counts.format_map(check)}, max_violation_increase is 0.1"
    )
    files = (path / "adapter_model.safetensors" for path in (tmp_path / "stopped", folder / "aligned"))
    assert len({file.read_bytes() for file in files}) == 1


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"rehearsal": 0.5}, r"training\.rehearsal and pairs go together"),
        ({"pairs": Path("pairs.parquet")}, r"training\.rehearsal and pairs go together"),
        ({"max_violation_increase": 0.1}, r"training\.max_violation_increase and first_unused go together"),
        ({"max_violation_increase": 0.1, "first_unused": TRAIN}, f"no training scenario .*from row {TRAIN} on"),
        (
            {"kl": 1.0, "reference": "aligned"},
            r"aligned: training\.kl measures from this adapter, so training needs a parent",
        ),
    ],
)
def test_a_defence_without_what_it_needs_is_refused(folder, tmp_path, training, said):
    if "reference" in training:
        training = training | {"reference": folder / training["reference"]}
    with pytest.raises(AtpError, match=said):
        finetune(folder, tmp_path / "out", **training)


def test_alignment_has_no_defence(folder, tmp_path):
    asked = (folder / "scenarios.parquet", tmp_path / "a", folder / "pairs.parquet")
    with pytest.raises(AtpError, match=r"training\.interpolate: alignment makes generation 0"):
        align_stage(align_job(interpolate=0.5), *asked)
