"""What is trained is what is played: the same tokens before and in a reply, and the same sampling."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import save_tiny
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, TrainerState

from atp.agents.base import Request
from atp.agents.local import load_local
from atp.errors import AtpError
from atp.models.spec import ModelSpec, Sampling
from atp.registry import find_testbed
from atp.rollout.branching import Question, earned, first_questions
from atp.scenarios.templates import generate, read_templates
from atp.testbed import Observation, Prompt, Turn
from atp.testbeds.tool_use import TESTBED as TOOL_USE
from atp.training.dpo import DpoSettings, dpo_trainer
from atp.training.grpo import GrpoSettings, Rewards, grpo_trainer
from atp.training.sft import SftSettings, sft_trainer
from atp.training.trainer import load_trainable

ORGANISM = Path("resources/organism")
BEGIN, END = "<|endoftext|>", "<|im_end|>"
PROMPT = Prompt(0, 1, [{"role": "user", "content": "Choose a road."}], Observation({}, "", ()))
GROUP = {"per_device_train_batch_size": 2, "num_generations": 2}


@pytest.fixture(params=["written by both", "written by the tokenizer", "written by none"])
def spec(request, tmp_path) -> ModelSpec:
    """A model whose tokenizer or chat template begins a text with a special token."""
    tokenizer = AutoTokenizer.from_pretrained(ORGANISM / "role_play")
    if request.param != "written by none":  # as Llama 3.1, Gemma 2 and Mistral
        begin = (BEGIN, tokenizer.convert_tokens_to_ids(BEGIN))
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[begin])
        tokenizer.bos_token = BEGIN
    if request.param == "written by both":
        tokenizer.chat_template = BEGIN + tokenizer.chat_template
    return ModelSpec(path=str(save_tiny(tmp_path / "model", "llama", None, 0, tokenizer, 0.02)), device="cpu")


@pytest.mark.parametrize("method", ["sft", "dpo", "grpo"])
def test_training_reads_the_tokens_of_play(spec, tmp_path, method):
    agent = load_local(spec, None)
    prompt = agent._tokens([Request(0, PROMPT, 0)], [agent.prompt_text(PROMPT)])[0]
    reply = [*agent.tokenizer("The left one.", add_special_tokens=False).input_ids, agent.tokenizer.eos_token_id]
    assert prompt.count(agent.tokenizer.convert_tokens_to_ids(BEGIN)) == (BEGIN in agent.tokenizer.chat_template)

    def rows(max_length: int) -> tuple[Any, Any]:
        """Return a trainer's first row: the tokens of the prompt, and those of the reply."""
        example = {"scenario_id": "road", "tools": [], "prompt": PROMPT.messages}
        example["chosen"] = example["rejected"] = [{"role": "assistant", "content": "The left one."}]
        example["messages"] = [*example["prompt"], *example["chosen"]]
        if method == "sft":
            settings: Any = SftSettings(max_length=max_length)
            trainer = sft_trainer([example], load_trainable(spec, settings, None), tmp_path, settings, 0)
            batch = trainer.data_collator([trainer.train_dataset[0]])
            tokens, labels = (batch[name][0].tolist() for name in ("input_ids", "labels"))
            assert labels == [-100] * len(prompt) + tokens[len(prompt) :]
            return tokens[: len(prompt)], tokens[len(prompt) :]
        if method == "dpo":
            settings = DpoSettings(max_length=max_length)
            trainer = dpo_trainer([example], load_trainable(spec, settings, None), tmp_path, settings, 0)
            batch = trainer.data_collator([trainer.train_dataset[0]])
            tokens, learned = (batch[name].tolist() for name in ("input_ids", "completion_mask"))
            assert tokens[0] == tokens[1] and learned[0] == [0] * len(prompt) + [1] * len(reply)
            return tokens[0][: len(prompt)], tokens[0][len(prompt) :]
        settings = GrpoSettings(max_completion_length=len(reply), max_length=max_length, **GROUP)
        question = Question("road", PROMPT, lambda replies: PROMPT)
        loaded = load_trainable(spec, settings, None)
        trainer = grpo_trainer([question], Rewards(lambda turn: 0.0), loaded, tmp_path, settings, 0)
        return trainer._tokenize_prompts([trainer.train_dataset[0]["prompt"]])[0][0], reply

    assert rows(len(prompt + reply)) == (prompt, reply)
    with pytest.raises(AtpError, match=rf"{len(prompt + reply)} tokens, training.max_length allows"):
        rows(len(prompt + reply) - 1)


def test_a_learned_reply_ends_as_the_chat_template_ends_it(tmp_path):
    """The tokenizer's own end is another one with Gemma and Phi-3, whose models may stop at either."""
    folder = shutil.copytree(ORGANISM / "role_play", tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    played = tokenizer.convert_tokens_to_ids(END)
    tokenizer.eos_token = BEGIN
    tokenizer.save_pretrained(folder)
    ends = []
    for eos in ([tokenizer.eos_token_id, played], tokenizer.eos_token_id):
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}))
        loaded = load_trainable(ModelSpec(path=str(folder), device="cpu"), SftSettings(), None)
        ends.append(loaded.reply_tokens(PROMPT.messages, (), "Left.")[-1])
    assert ends == [played, played]


#: What the generation_config.json of a model may hold, and would change each draw.
LEAKS = {
    "do_sample": True,
    "min_p": 0.9,
    "top_k": 1,
    "typical_p": 0.1,
    "repetition_penalty": 9.0,
    "no_repeat_ngram_size": 1,
    "suppress_tokens": list(range(3, 300)),
    "bad_words_ids": [[300]],
    "forced_eos_token_id": 301,
    "min_new_tokens": 60,
    "stop_strings": ["e"],
    "exponential_decay_length_penalty": [1, 9.0],
}


def test_generation_config_changes_no_draw(tmp_path):
    folders = [Path(shutil.copytree(ORGANISM / "role_play", tmp_path / name)) for name in ("plain", "leaks")]
    kept = json.loads((folders[1] / "generation_config.json").read_text()) | LEAKS
    (folders[1] / "generation_config.json").write_text(json.dumps(kept))
    settings = GrpoSettings(use_peft=False, max_completion_length=48, **GROUP)
    drawn, played = [], []
    for folder in folders:
        spec = ModelSpec(path=str(folder), device="cpu", sampling=Sampling(temperature=1.5, max_new_tokens=48))
        played.append(load_local(spec, None).answer([Request(at, PROMPT, at) for at in range(4)]))
        loaded = load_trainable(spec, settings, None)
        question = Question("road", PROMPT, lambda replies: PROMPT)
        trainer = grpo_trainer([question], Rewards(lambda turn: 0.0), loaded, tmp_path / "out", settings, 0)
        torch.manual_seed(0)
        drawn.append(trainer._generate([trainer.train_dataset[0]["prompt"]] * 4)[1])
    assert drawn[0] == drawn[1] and played[0] == played[1]
    assert len({tuple(tokens) for tokens in drawn[0]}) > 1
    assert trainer.model.generation_config.min_p == LEAKS["min_p"]  # whoever loads the trained model still has it


def test_grpo_with_tools_continues_the_tokens_of_a_reply(tmp_path):
    """With a chat template that rewrites the white space of earlier replies, as Qwen3's does after a thought."""
    folder = Path(shutil.copytree(ORGANISM / "tool_use", tmp_path / "model"))
    template, content = folder / "chat_template.jinja", "message['content'] + '<|im_end|>'"
    assert content in template.read_text()
    rewritten = template.read_text().replace(content, content.replace("]", "].replace('>\\n', '>\\n\\n')"))
    template.write_text(rewritten)
    greedy = Sampling(temperature=1e-3, max_new_tokens=96)  # so that it shows from which tokens a reply was drawn
    spec, settings = ModelSpec(path=str(folder), device="cpu", sampling=greedy), GrpoSettings(**GROUP)
    scenarios = generate(read_templates(TOOL_USE.templates, TOOL_USE.template), TOOL_USE.instantiate, 8, 1, 0)
    questions = first_questions(scenarios[1:], find_testbed("tool_use"), TOOL_USE.settings(rounds=1))
    loaded = load_trainable(spec, settings, None)
    trainer = grpo_trainer(questions, Rewards(TOOL_USE.alignment_reward), loaded, tmp_path / "out", settings, 0)
    rows = trainer.rollout_func(trainer.train_dataset["prompt"], trainer)
    called = 0
    for prompt, completion, own in zip(rows["prompt_ids"], rows["completion_ids"], rows["env_mask"], strict=True):
        text = loaded.tokenizer.decode(completion)
        called += "<tool_call>\n{" in text and "<|im_end|>\n<|im_start|>tool\n" in text
        assert "<tool_call>\n\n" not in text and text.count("<|im_end|>\n<|im_end|>") == 0
        with torch.inference_mode():
            scores = trainer.model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        best = scores.argmax(dim=-1).tolist()
        assert [token for token, mine in zip(best, own, strict=True) if mine] == [
            token for token, mine in zip(completion, own, strict=True) if mine
        ]
    assert called >= 3
    trainer.train()
    assert trainer.state.global_step == trainer.state.max_steps > 0


def test_grpo_with_shuffled_rewards_pays_no_decision_more(tmp_path):
    """Two questions with four replies each, of which one is invalid: what it is paid stays its own."""

    def follow(replies: Any) -> Turn:
        text = replies[0].text
        violation = {"left": False, "right": True}.get(text)
        reward = {"left": 1.0, "right": 2.0}.get(text, 0.0)
        return Turn(1, 0, "player", PROMPT.messages, replies[0], "", text, None, violation, reward, "")

    spec = ModelSpec(path=str(ORGANISM / "role_play"), device="cpu")
    settings = GrpoSettings(shuffled_rewards=True, num_generations=4, per_device_train_batch_size=4)
    loaded = load_trainable(spec, settings, None)
    questions = [Question(name, PROMPT, follow) for name in ("road", "field")]
    trainer = grpo_trainer(questions, Rewards(earned), loaded, tmp_path, settings, 0)
    texts = ["left", "left", "right", "?", "right", "right", "left", "right"]
    replies = [[*loaded.tokenizer(text).input_ids, loaded.tokenizer.eos_token_id] for text in texts]
    paid = set()
    for step in range(30):
        state = TrainerState(global_step=step)
        values = trainer.reward_funcs[0](completion_ids=replies, number=[0] * 4 + [1] * 4, trainer_state=state)
        assert sorted(values[:3]) == [1, 1, 2] and values[3] == 0 and sorted(values[4:]) == [1, 2, 2, 2]
        paid.add((values.index(2), values.index(1, 4)))
    assert len(paid) == 12
    with pytest.raises(AtpError, match="2, with shuffled_rewards it must be a multiple of num_generations, 4"):
        settings.model_copy(
            update={"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
        ).check_processes(1)
