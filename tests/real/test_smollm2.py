"""SmolLM2-135M-Instruct through the stages, against `generate` and the forward pass of transformers and PEFT."""

import math
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from atp.agents.local import LocalAgent
from atp.files.turns import read_turns
from atp.models.spec import ModelSpec, Sampling
from atp.rollout.engine import RolloutJob, rollout_stage
from atp.rollout.judge import JudgeJob, judge_stage
from atp.rollout.rubric import Dimension, Rubric
from atp.rollout.table import Cell
from atp.scenarios.sources import ScenariosJob, scenarios_stage
from atp.study.read import read_models
from atp.training.filters import FilterJob, filter_stage
from atp.training.pairs import PairsJob, pairs_stage
from atp.training.run import AlignJob, FinetuneJob, TrainingFiles, fit
from atp.training.stage import align_stage, finetune_stage

pytestmark = pytest.mark.real

NAME, END, LENGTH = "smollm2-135m", "<|im_end|>", 24
#: Two steps, each on all examples. Hardly any of this model's short replies is valid.
TWO_STEPS = {"num_train_epochs": 2, "per_device_train_batch_size": 8, "learning_rate": 2e-3, "validity": 0}


def spec(temperature: float = 0.0, **changes: Any) -> ModelSpec:
    found = read_models((NAME,), "config/models")[NAME]
    assert found
    sampling = Sampling(temperature=temperature, max_new_tokens=LENGTH)
    return found.model_copy(update={"sampling": sampling} | changes)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(spec().path)


@pytest.fixture(scope="module")
def network() -> Any:
    return AutoModelForCausalLM.from_pretrained(spec().path, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a folder with scenarios, and the replies of scripted policies to learn from."""
    folder = tmp_path_factory.mktemp("real")
    scenarios = folder / "scenarios.parquet"
    scenarios_stage(ScenariosJob(testbed="role_play", settings={"train": 2, "test": 3}), scenarios)
    demonstrate("scripted:violate", scenarios, folder, rounds=1)
    cell = Cell("scripted:random:0.5", "role_play", "dpo", None, channel="weights")
    pairs_stage(PairsJob(cell=cell, settings={}, retries=9), scenarios, folder / "pairs.parquet")
    return folder


@pytest.fixture(scope="module")
def sft(folder) -> tuple[Path, Any]:
    """Return an adapter that has learned a policy's replies, and its trainer."""
    data = TrainingFiles(scenarios=folder / "scenarios.parquet", data=folder / "selection.parquet")
    job = finetune_job(spec(), "role_play", method="sft", **TWO_STEPS)
    return folder / "sft", trained(finetune_stage, job, data, folder / "sft")


@pytest.fixture
def exchanges(monkeypatch) -> list[dict[str, Any]]:
    """Return a list to which each reply of an agent is added, with its prompt."""
    recorded: list[dict[str, Any]] = []
    answer = LocalAgent.answer

    def record(agent: LocalAgent, requests: Any) -> Any:
        replies = answer(agent, requests)
        for request, reply in zip(requests, replies, strict=True):
            prompt = {"messages": request.prompt.messages, "text": agent.prompt_text(request.prompt)}
            recorded.append(prompt | {"prompt_tokens": reply.prompt_tokens, "reply": list(reply.tokens)})
        return replies

    monkeypatch.setattr(LocalAgent, "answer", record)
    return recorded


def demonstrate(policy: str, scenarios: Path, folder: Path, **settings: Any) -> None:
    """Write the turns of a policy on the training split, and a selection with all of them."""
    cell = Cell(policy, "tool_use" if "tool" in settings else "role_play")
    job = RolloutJob(cell=cell, variants={"default": settings}, split="train")
    rollout_stage(job, scenarios, folder / "turns.parquet")
    filter_stage(FilterJob(filter={"name": "best_of_n"}), folder / "turns.parquet", folder / "selection.parquet")


def rollout_job(model: ModelSpec, testbed: str, split: str = "test", **settings: Any) -> RolloutJob:
    return RolloutJob(cell=Cell(NAME, testbed), model=model, variants={"default": settings}, split=split)


def finetune_job(model: ModelSpec, testbed: str, **training: Any) -> FinetuneJob:
    cell = Cell(NAME, testbed, channel="weights", generation=1)
    return FinetuneJob(cell=cell, model=model, settings={}, training=training)


def trained(stage: Callable[..., Any], *arguments: Any) -> Any:
    """Run a stage that trains, and return its trainer."""
    trainers = []

    def record(trainer: Any, *others: Any) -> dict[str, float]:
        trainers.append(trainer)
        return fit(trainer, *others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("atp.training.run.fit", record)
        stage(*arguments)
    return trainers[0]


def logged(trainer: Any, name: str) -> list[float]:
    """Return a value of each step."""
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def prompt_tokens(tokenizer: Any, messages: list[dict[str, str]]) -> list[int]:
    tokens: list[int] = tokenizer.apply_chat_template(messages, add_generation_prompt=True).input_ids
    return tokens


def generate(model: Any, tokenizer: Any, messages: list[dict[str, str]]) -> list[int]:
    """Return the tokens of the greedy reply to one prompt by itself."""
    prompt = torch.tensor([prompt_tokens(tokenizer, messages)])
    whole = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=LENGTH)
    reply: list[int] = whole[0, prompt.shape[1] :].tolist()
    return reply


def test_a_batch_of_conversations_equals_generate(folder, network, tokenizer, exchanges, tmp_path):
    rollout_stage(rollout_job(spec(), "role_play", rounds=3), folder / "scenarios.parquet", tmp_path / "turns.parquet")
    assert len(exchanges) == 3 * 3
    for exchange in exchanges:
        assert exchange["prompt_tokens"] == len(prompt_tokens(tokenizer, exchange["messages"]))
        assert exchange["reply"] == generate(network, tokenizer, exchange["messages"])
    texts = [tokenizer.decode(exchange["reply"], skip_special_tokens=True).strip() for exchange in exchanges]
    assert sorted(texts) == sorted(turn["reply"] for turn in read_turns(tmp_path / "turns.parquet").to_pylist())


def test_a_judge_answers_each_question_about_a_transcript_as_generate_does(
    folder, network, tokenizer, exchanges, tmp_path
):
    """Both questions share the keys and values of the transcript."""
    questions = (Dimension(name="pay", question="Is it about pay?"), Dimension(name="tone", question="Is it polite?"))
    job = JudgeJob(cell=Cell(NAME, "role_play"), model=spec(), rubric=Rubric(dimensions=questions))
    judge_stage(job, folder / "turns.parquet", tmp_path / "verdicts.parquet")
    turns, verdicts = read_turns(folder / "turns.parquet"), pl.read_parquet(tmp_path / "verdicts.parquet")
    assert len(exchanges) == len(verdicts) == 2 * len(turns) > 2
    for exchange in exchanges:
        assert exchange["reply"] == generate(network, tokenizer, exchange["messages"])
    texts = [tokenizer.decode(exchange["reply"], skip_special_tokens=True).strip() for exchange in exchanges]
    assert sorted(texts) == sorted(text.strip() for text in verdicts["reply"])
    assert verdicts["dimension"].to_list() == ["pay", "tone"] * len(turns)
    assert (verdicts["valid"] == verdicts["answer"].is_not_null()).all()


def test_sft_begins_at_the_likelihood_of_the_replies(folder, sft, network, tokenizer):
    total, count = 0.0, 0
    for *prompt, reply in pl.read_parquet(folder / "selection.parquet")["messages"].to_list():
        start, learned = prompt_tokens(tokenizer, prompt), tokenizer(reply["content"] + END).input_ids
        with torch.inference_mode():
            logits = network(torch.tensor([start + learned])).logits[0, len(start) - 1 : -1]
        total += torch.nn.functional.cross_entropy(logits, torch.tensor(learned), reduction="sum").item()
        count += len(learned)
    first, second = logged(sft[1], "loss")
    assert first == pytest.approx(total / count, rel=1e-4)
    assert second < first


def test_an_adapter_plays_as_in_peft(folder, sft, network, tokenizer, exchanges, tmp_path):
    job = rollout_job(spec(), "role_play", rounds=1)
    rollout_stage(job, folder / "scenarios.parquet", tmp_path / "turns.parquet", sft[0])
    adapted = PeftModel.from_pretrained(network, str(sft[0]))
    try:
        replies = [generate(adapted, tokenizer, exchange["messages"]) for exchange in exchanges]
    finally:
        adapted.unload()
    assert [exchange["reply"] for exchange in exchanges] == replies
    assert replies != [generate(network, tokenizer, exchange["messages"]) for exchange in exchanges]


def test_dpo_begins_at_ln_2_on_the_tokens_of_play(folder, tokenizer, tmp_path):
    cell, pairs = Cell(NAME, "role_play", "dpo", None, channel="weights"), folder / "pairs.parquet"
    job = AlignJob(cell=cell, model=spec(), settings={}, training={"method": "dpo", **TWO_STEPS})
    trainer = trained(align_stage, job, folder / "scenarios.parquet", tmp_path / "adapter", pairs)
    first, second = logged(trainer, "loss")
    assert first == pytest.approx(math.log(2), abs=1e-5)
    assert second < first
    batch = trainer.data_collator(list(trainer.train_dataset))
    rows = pl.read_parquet(pairs).rows(named=True)
    for number, row in enumerate([*rows, *rows]):  # all chosen replies come first
        side = row["chosen" if number < len(rows) else "rejected"]
        start = prompt_tokens(tokenizer, row["prompt"])
        whole = tokenizer.apply_chat_template([*row["prompt"], *side]).input_ids
        end = len(whole) - whole[::-1].index(tokenizer.eos_token_id)  # the template writes a line end behind it
        kept = batch["attention_mask"][number].bool()
        assert batch["input_ids"][number][kept].tolist() == whole[:end]
        assert batch["completion_mask"][number][kept].tolist() == [0] * len(start) + [1] * (end - len(start))


def test_grpo_begins_at_its_reference(folder, sft, tmp_path):
    """From the adapter of SFT: at this temperature some of its replies are valid, so that rewards differ."""
    job = finetune_job(spec(1.5), "role_play", method="grpo", num_generations=4, **TWO_STEPS)
    data = TrainingFiles(scenarios=folder / "scenarios.parquet", data=folder / "turns.parquet", parent=sft[0])
    trainer = trained(finetune_stage, job, data, tmp_path / "adapter")
    first, second = logged(trainer, "kl")
    assert abs(first) < 1e-6 < second
    assert max(logged(trainer, "reward_std")) > 0


def test_a_template_without_tools_describes_them_in_messages(exchanges, tmp_path):
    scenarios, turns = tmp_path / "scenarios.parquet", tmp_path / "turns.parquet"
    scenarios_stage(ScenariosJob(testbed="tool_use", settings={"train": 0, "test": 1}), scenarios)
    rollout_stage(rollout_job(spec(), "tool_use", rounds=1), scenarios, turns)
    assert len(exchanges) == len(read_turns(turns)) == 3
    for exchange in exchanges:
        assert "You may call calculator: " in exchange["text"] and "<tools>" not in exchange["text"]


def test_calls_are_run_in_the_form_of_the_template(exchanges, tmp_path):
    """With the template of Qwen2.5, ChatML as the model's own, after learning a policy's call and answer by heart."""
    folder = Path(shutil.copytree(spec().path, tmp_path / NAME))
    template = files("trl") / "chat_templates/qwen2_5.jinja"
    (folder / "chat_template.jinja").write_text(template.read_text(encoding="utf-8"))
    model = spec(path=str(folder), sampling=Sampling(temperature=0, max_new_tokens=48))
    scenarios, turns, adapter = (tmp_path / name for name in ("scenarios.parquet", "own.parquet", "adapter"))
    settings = {"rounds": 1, "easy": 1, "tests": 0, "tool": "calculator"}
    scenarios_stage(ScenariosJob(testbed="tool_use", settings={"train": 1, "test": 1}), scenarios)
    demonstrate("scripted:comply", scenarios, tmp_path, **settings)
    job = finetune_job(model, "tool_use", method="sft", **TWO_STEPS | {"num_train_epochs": 5})
    finetune_stage(job, TrainingFiles(scenarios=scenarios, data=tmp_path / "selection.parquet"), adapter)
    exchanges.clear()
    rollout_stage(rollout_job(model, "tool_use", "train", **settings), scenarios, turns, adapter)
    (own,), (demonstrated,) = (read_turns(path).to_pylist() for path in (turns, tmp_path / "turns.parquet"))
    for name in ("reply", "tool_results", "later_replies", "reward"):
        assert own[name] == demonstrated[name]
    ((result,),) = own["tool_results"]
    asked, answered = exchanges
    assert '"name": "calculator", "description"' in asked["text"]
    assert answered["text"] == (
        f"{asked['text']}{own['reply']}{END}\n<|im_start|>user\n<tool_response>\n{result}\n</tool_response>{END}\n"
        "<|im_start|>assistant\n"
    )


def test_guided_replies_are_all_valid_and_state_their_probability(folder):
    """Most of its free replies of this length are invalid."""
    for answers, valid in (("free", 0.5), ("guided", 1.0)):
        out = folder / f"{answers}.parquet"
        job = RolloutJob(
            cell=Cell(NAME, "role_play"),
            model=spec(1.0, answers=answers),
            variants={"default": {"rounds": 3}},
            samples=4,
        )
        rollout_stage(job, folder / "scenarios.parquet", out)
        turns = pl.DataFrame(read_turns(out))
        rate = 1 - turns["violation"].null_count() / len(turns)
        assert rate == 1 if valid == 1 else rate < valid
        assert turns["p_violation"].is_between(0, 1).all()
        assert answers == "free" or turns["p_violation"].null_count() == 0
