"""Agents of the user's own: an adapter trained by plain PEFT, a checkpoint, conversations; and what is refused."""

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import yaml
from studies import ROOT, SMALL
from tiny import save_tiny

from atp.errors import AtpError
from atp.files.provenance import digest
from atp.files.tables import read_provenance
from atp.files.turns import read_turns
from atp.rollout.engine import RolloutJob, rollout_stage
from atp.rollout.table import Cell
from atp.scenarios.sources import ScenariosJob, scenarios_stage
from atp.study.jobs import study_jobs
from atp.study.read import read_models, read_project

ORGANISM = ROOT / "resources/organism/role_play"
SECTION: dict[str, Any] = {
    "scenarios": {"train": 8, "test": 8},
    "settings": {"rounds": 2},
    "context": {},
    "weights": {
        "generations": 1,
        "scenarios": 8,
        "samples": 4,
        "filter": {"name": "best_of_n"},
        "training": {"method": "sft", "learning_rate": 5.0e-4, "validity": 0.5},
    },
}


def compliance(folder: Path) -> list[dict[str, Any]]:
    """Return conversations in which the organism obeys role-play's rule."""
    scenarios, turns = folder / "scenarios.parquet", folder / "turns.parquet"
    scenarios_stage(ScenariosJob(testbed="role_play", settings={"train": 16, "test": 1, "seed": 3}), scenarios)
    spec = read_models(("organism",), ROOT / "config/models")["organism"]
    assert spec
    cell, once = Cell("organism", "role_play"), {"deployment": {"rounds": 1}}
    job = RolloutJob(cell=cell, model=spec.of("role_play"), variants=once, split="train", samples=4)
    rollout_stage(job, scenarios, turns)
    rows = [row for row in read_turns(turns).to_pylist() if row["violation"] is False]
    return [{"messages": [*row["messages"], {"role": "assistant", "content": row["reply"]}]} for row in rows]


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    """Return a folder with an adapter and a checkpoint, both trained without atp, and the conversations behind them."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("own")
    chats = compliance(folder)
    (folder / "chats.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    tokenizer = AutoTokenizer.from_pretrained(ORGANISM)
    model = AutoModelForCausalLM.from_pretrained(ORGANISM)
    torch.manual_seed(0)
    lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = get_peft_model(model, lora)
    optimizer = torch.optim.AdamW([each for each in adapted.parameters() if each.requires_grad], lr=1e-3)
    for _ in range(2):
        for chat in chats:
            prompt = tokenizer.apply_chat_template(chat["messages"][:-1], add_generation_prompt=True)["input_ids"]
            tokens = tokenizer.apply_chat_template(chat["messages"])["input_ids"]
            labels = [-100] * len(prompt) + tokens[len(prompt) :]
            adapted(input_ids=torch.tensor([tokens]), labels=torch.tensor([labels])).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    adapted.save_pretrained(folder / "mine")
    adapted.merge_and_unload().save_pretrained(folder / "theirs")
    tokenizer.save_pretrained(folder / "theirs")
    return folder


def study(own: Path, section: dict[str, Any] = SECTION, **alignments: Any) -> dict[str, Any]:
    listed = ["none", *({name: settings} for name, settings in alignments.items())]
    return {"name": "own", "models": ["organism"], "alignments": listed, "testbeds": {"role_play": section}}


def test_own_agents_play_and_learn_in_both_channels(own, tmp_path):
    """Generation 0 is the adapter, the checkpoint, or trained on the conversations; everything else works on it."""
    config = tmp_path / "own.yaml"
    alignments = {
        "mine": {"adapter": str(own / "mine")},
        "theirs": {"model": str(own / "theirs")},
        "tuned": {
            "sft": {"data": str(own / "chats.jsonl"), "num_train_epochs": 3, "learning_rate": 5e-4, "validity": 0.5}
        },
    }
    config.write_text(yaml.safe_dump(study(own, **alignments)))
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "-s", ROOT / "Snakefile", "--configfile", config]
    result = subprocess.run(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert result.returncode == 0, result.stdout[-3000:]
    results = tmp_path / "results/own"
    played = read_provenance(results / "organism/role_play/given:mine/seed0/baseline/context/turns.parquet")
    assert played["inputs"]["mine"] == digest(own / "mine")
    learned = read_provenance(results / "organism/role_play/given:mine/seed0/baseline/generation1/adapter")
    assert learned["inputs"]["mine"] == digest(own / "mine") and learned["check"]["kl"] > 0
    assert read_provenance(results / "organism/role_play/tuned/seed0/adapter")["inputs"]["chats.jsonl"]
    measures = pl.read_parquet(results / "measures.parquet")
    rates = {
        (alignment, channel): value
        for alignment, channel, value in measures.filter(
            pl.col("generation") == 0, pl.col("round") == 1, measure="violation_rate", split="test"
        )
        .select("alignment", "channel", "value")
        .iter_rows()
    }
    names = ("given:mine", "given:theirs", "tuned")
    assert rates.keys() == {(name, channel) for name in ("none", *names) for channel in ("context", "weights")}
    # The checkpoint is the adapter merged, so both play the same.
    for channel in ("context", "weights"):
        assert rates["given:mine", channel] == rates["given:theirs", channel]
        assert rates["given:mine", channel] != rates["none", channel]
    assert {*measures.filter(measure="alignment_gap")["alignment"]} == {*names}
    assert "given:mine" in (results / "report.html").read_text()


def test_the_jobs_of_own_agents(own):
    """A given agent is an input and nothing trains it before deployment; its generations continue its adapter."""
    data = str(own / "chats.jsonl")
    config = study(
        own, mine={"adapter": str(own / "mine")}, theirs={"model": str(own / "theirs")}, tuned={"sft": {"data": data}}
    )
    steps = study_jobs(read_project(config, ROOT))
    cell = "organism/role_play/{}/seed0/baseline/generation1/adapter"
    mine, theirs, tuned = (steps[cell.format(name)] for name in ("given:mine", "given:theirs", "tuned"))
    assert {Path(file).parent for file in mine.files["parent"]} == {own / "mine"}
    assert mine.files["parent"] == mine.files["reference"] and mine.jobs[0].training.lora_r == 8
    assert theirs.model.path == str(own / "theirs") and not theirs.artifacts["parent"]
    (align,) = (step for step in steps.values() if step.rule == "align")
    assert align.outputs == ("organism/role_play/tuned/seed0/adapter",) and align.files["data"] == [data]
    assert tuned.artifacts["parent"] == list(align.outputs) and align.work == math.ceil(
        len((own / "chats.jsonl").read_text().splitlines()) / 8
    )


def of_another_model(folder: Path) -> str:
    """Return an adapter of a smaller model whose folder is gone, so that only the shapes tell."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(save_tiny(folder / "small"))
    lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    get_peft_model(model, lora).save_pretrained(folder / "foreign")
    shutil.rmtree(folder / "small")
    return str(folder / "foreign")


def changed(folder: Path, own: Path, name: str, **config: Any) -> str:
    """Return a copy of the adapter whose config has other values."""
    shutil.copytree(own / "mine", folder / name)
    path = folder / name / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return str(folder / name)


def test_what_is_refused_is_one_line_before_anything_runs(own, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(ORGANISM, other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    *_, first, second = vocabulary
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    prose = tmp_path / "prose.txt"
    prose.write_text("Obey the rule.\n")
    texts = {
        "no_reply": {"messages": [{"role": "user", "content": "a"}]},
        "flat": {"prompt": "a", "completion": "b"},
        "no_text": {"messages": [{"role": "user"}, {"role": "assistant", "content": "b"}]},
    }
    for name, value in texts.items():
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(value))
    (tmp_path / "empty.jsonl").write_text("")
    coordination = str(ROOT / "resources/organism/coordination")
    deeper = {**SECTION, "weights": {**SECTION["weights"], "training": {"method": "sft", "lora_r": 16}}}
    mine = str(own / "mine")

    def sft(file: str) -> dict[str, Any]:
        return {"sft": {"data": str(tmp_path / file)}}

    cases: list[tuple[dict[str, Any], str]] = [
        (study(own, mine={"adapter": "/no/such"}), "alignments: mine: /no/such: no such folder, and not a name on"),
        (
            study(own, mine={"adapter": str(own / "theirs")}),
            "it has all weights, so write `model:`",
        ),
        (study(own, mine={"model": mine}), "is an adapter, so write `adapter:`"),
        (study(own, mine={"model": "/no/such"}), "/no/such: no such folder"),
        (
            study(own, mine={"adapter": changed(tmp_path, own, "based", base_model_name_or_path=coordination)}),
            f"based: was trained on {coordination}, not on .*: their weights differ",
        ),
        (
            study(own, deeper, mine={"adapter": mine}),
            "its lora_r is 8, .*lora_r of condition 'baseline' is 16",
        ),
        (
            study(own, mine={"adapter": of_another_model(tmp_path)}),
            r"no adapter of .*role_play: '.*weight' is .* there, and the adapter's lora_B is \[64, 8\]",
        ),
        (study(own, theirs={"model": str(other)}), "its tokenizer is not that of .* has number"),
        (study(own, tuned=sft("nowhere.jsonl")), "nowhere.jsonl: must be JSON lines.*No such file"),
        (study(own, tuned=sft("prose.txt")), "prose.txt: must be JSON lines, or Parquet"),
        (study(own, tuned=sft("empty.jsonl")), "empty.jsonl: has no conversations"),
        (study(own, tuned=sft("flat.jsonl")), "flat.jsonl: row 1: is not a conversation"),
        (study(own, tuned=sft("no_text.jsonl")), "no_text.jsonl: row 1: is not a conversation"),
        (study(own, tuned=sft("no_reply.jsonl")), "no_reply.jsonl: scenario 'row 1': messages have the roles user"),
        (
            study(own, tuned={"sft": {"data": str(own / "chats.jsonl"), "kl": 0.1}}),
            "alignments.1.tuned.sft: kl: alignment makes generation 0",
        ),
        (study(own, tuned={"sft": {}}), "alignments.1.tuned.sft.data: Field required"),
        (study(own, mine={}), "alignments.1.mine: found none, must have exactly one of adapter, model, sft"),
        (study(own, mine={"adaptor": mine}), "alignments.1.mine.adaptor: unknown key, allowed are adapter, model, sft"),
        (study(own, dpo={"adapter": mine}), "alignments.1: found 'dpo', the name of an alignment of your own"),
        (study(own, Mine={"adapter": mine}), "alignments.1: found 'Mine', the name of"),
        (
            study(own, {**SECTION, "weights": None}, mine={"adapter": mine}) | {"models": ["scripted:random"]},
            "alignments: 'scripted:random' cannot be trained",
        ),
        (
            study(own, mine={"adapter": mine}) | {"testbeds": dict.fromkeys(("role_play", "coordination"), SECTION)},
            "mine: 'organism' is a model organism, which is another network on each testbed",
        ),
    ]
    accepted = []
    for config, message in cases:
        try:
            read_project(config, ROOT)
            accepted.append(message)
        except AtpError as error:
            assert re.search(message, str(error)) and "\n" not in str(error), (message, str(error))
    assert not accepted


def test_an_adapter_on_the_hub(own, tmp_path, monkeypatch):
    """It is read from the hub's cache; one that is not there, with the hub out of reach, is one line."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    commit, cached = "a" * 40, tmp_path / "models--me--mine"
    shutil.copytree(own / "mine", cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text(commit)
    steps = study_jobs(read_project(study(own, mine={"adapter": "me/mine"}), ROOT))
    played = steps["organism/role_play/given:mine/seed0/baseline/context/turns.parquet"]
    assert {Path(file).parent for file in played.files["adapter"]} == {cached / "snapshots" / commit}
    with pytest.raises(
        AtpError, match="me/other: no such folder, and not available from the Hugging Face hub: "
    ) as error:
        read_project(study(own, mine={"adapter": "me/other"}), ROOT)
    assert "\n" not in str(error.value)


def test_the_list_of_names_is_as_ever():
    project = read_project({"name": "study"} | yaml.safe_load(SMALL), ROOT)
    assert project.study.alignments == ("none", "dpo") and not project.study.own_alignments
