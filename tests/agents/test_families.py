"""The engine compared with transformers' own forward pass without a cache, for each family of architectures."""

import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from tiny import save_tiny
from transformers import AutoConfig, AutoModelForCausalLM

from atp.agents.base import Request
from atp.agents.load import load_agent
from atp.errors import AtpError
from atp.models.spec import ModelSpec, Sampling
from atp.testbed import Observation, Prompt

VOCABULARY, WINDOW, NEW, ROUNDS, CONVERSATIONS = 259, 16, 16, 3, 5
SLIDING, FULL = "sliding_attention", "full_attention"
#: Sizes of all families; a family takes those that its configuration has.
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "intermediate_size_mlp": 64,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "sliding_window": WINDOW,
    "attention_chunk_size": WINDOW,
    "max_position_embeddings": 4096,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": list(range(3, VOCABULARY, 14)),  # many, so that replies have different lengths
}
LATENT = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
SHARED = {"num_hidden_layers": 6, "num_kv_shared_layers": 3, "layer_types": [SLIDING, SLIDING, FULL] * 2}
PER_LAYER = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCABULARY}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
}
#: Family -> its model type and what differs from SIZES.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    name: (name, {})
    for name in (
        "cohere gemma glm4 gpt2 gpt_oss llama mistral mixtral olmo2 opt phi3 qwen3 qwen3_moe smollm3 starcoder2"
    ).split()
} | {
    "cohere2": ("cohere2", {"layer_types": [SLIDING, FULL, SLIDING], "logit_scale": 0.5}),
    "deepseek_v3": ("deepseek_v3", {**LATENT, "head_dim": None}),
    "gemma2": ("gemma2", {"layer_types": [SLIDING, FULL, SLIDING], "final_logit_softcapping": 1.0}),
    "gemma3": ("gemma3_text", {"layer_types": [SLIDING, FULL, SLIDING]}),
    "gemma3 with images": ("gemma3", {"layer_types": [SLIDING, FULL, SLIDING]}),
    "gemma3n": ("gemma3n_text", {**SHARED, **PER_LAYER, "laurel_rank": 4, "activation_sparsity_pattern": [0.0] * 6}),
    "gemma4": ("gemma4_text", {**SHARED, **PER_LAYER}),
    "granite": ("granite", {"logits_scaling": 4.0, "attention_multiplier": 0.25}),
    "llama4": ("llama4_text", {"layer_types": ["chunked_attention", FULL, "chunked_attention"]}),
    "olmo3": ("olmo3", {"layer_types": [SLIDING, FULL, SLIDING]}),
    "qwen2 with a window": ("qwen2", {"use_sliding_window": True, "max_window_layers": 1}),
    "qwen2": ("qwen2", {"use_sliding_window": False}),
}
#: Families that the engine cannot play, and the reason.
REFUSED = {
    "bloom": "its forward pass takes no position_ids",
    "gpt_neo": "its layers are of type 'local'",
    "lfm2": "its layers are of type 'conv'",
    "mamba": "its layers are of type 'linear_attention'",
    "qwen3_next": "its layers are of type 'linear_attention'",
    "openai-gpt": "with a cache, its logits differ",
}
EXTRA = {
    "lfm2": {"layer_types": ["conv", FULL, "conv"]},
    "gpt_neo": {"num_hidden_layers": 2, "attention_types": [[["global", "local"], 1]]},
}


def save_family(folder: Path, kind: str, fields: dict[str, Any]) -> Path:
    """Save a model of random weights, large enough that a wrong mask changes its logits clearly, and a tokenizer."""
    save_tiny(folder)
    default = AutoConfig.for_model(kind)
    text = default.get_text_config()
    names = {name for name in SIZES if name in text.to_dict() or name in text.attribute_map}
    sizes = {name: SIZES[name] for name in sorted(names - fields.keys())} | fields
    sizes = {name: value for name, value in sizes.items() if value is not None}
    if text is default:
        config = AutoConfig.for_model(kind, **sizes)
    else:
        config = AutoConfig.for_model(kind, text_config=sizes, vision_config=VISION, mm_tokens_per_image=1)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(8)
    model.save_pretrained(folder)
    return folder


def change_json(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def load(folder: Path, new: int = NEW) -> Any:
    return load_agent("tiny", ModelSpec(path=str(folder), sampling=Sampling(max_new_tokens=new)))


def record_logits(player: Any) -> dict[float, torch.Tensor]:
    """Record the logits of each token that a player draws: random number of the token -> its logits."""
    logits_of: dict[float, torch.Tensor] = {}
    sample = player._sample

    def recorded(logits: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
        logits_of.update(zip(uniforms.tolist(), logits.clone(), strict=True))
        return sample(logits, uniforms)

    player._sample = recorded
    return logits_of


def ask(conversation: int, round: int, messages: list[dict[str, str]]) -> Request:
    prompt = Prompt(0, round, messages, Observation(answers={}, violating="", history=()))
    return Request(conversation, prompt, seed=1000 * conversation + round)


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_log_probabilities_are_those_of_the_model_without_a_cache(family, tmp_path):
    folder = save_family(tmp_path / "model", *FAMILIES[family])
    player = load(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    logits_of = record_logits(player)
    history: list[list[dict[str, str]]] = [[] for _ in range(CONVERSATIONS)]
    lengths, longest = set(), 0
    for round in range(1, ROUNDS + 1):
        for number, messages in enumerate(history):
            question = f"R{round}: " + "abc " * Random(f"{number}|{round}").randrange(1, 14)
            # The last prompt lacks the first round, so that most of the conversation is computed again.
            del messages[: 2 if round == ROUNDS else 0]
            messages.append({"role": "user", "content": question})
        requests = [ask(number, round, list(messages)) for number, messages in enumerate(history)]
        for request, reply in zip(requests, player.answer(requests), strict=True):
            history[request.conversation].append({"role": "assistant", "content": reply.text})
            uniforms = np.random.Generator(np.random.PCG64(request.seed)).random(NEW)[: len(reply.tokens)]
            logits = torch.stack([logits_of[uniform] for uniform in uniforms])
            prompt = player.tokenizer(player.prompt_text(request.prompt), add_special_tokens=False).input_ids
            expected = model(input_ids=torch.tensor([[*prompt, *reply.tokens]]), use_cache=False).logits
            expected = expected[0, len(prompt) - 1 : -1]
            assert (logits.log_softmax(-1) - expected.log_softmax(-1)).abs().max() < 2e-4
            lengths.add(len(reply.tokens))
            longest = max(longest, len(prompt))
    assert len(lengths) > 3 and longest > 4 * WINDOW
    texts = [("Which option?", "The first."), ("And now, after all of this?", "No."), ("Why?", "For no reason.")]
    pairs = [tuple(player.tokenizer([*pair], add_special_tokens=False).input_ids) for pair in texts]
    for states, (prompt, reply) in zip(player.hidden(pairs), pairs, strict=True):
        expected = model(input_ids=torch.tensor([prompt + reply]), use_cache=False).logits[0, len(prompt) - 1 : -1]
        assert len(states) == len(reply)
        assert (player.output_layer(states) - expected).abs().max() < 1e-3


@pytest.mark.parametrize("family", REFUSED)
def test_a_family_that_the_engine_cannot_play_is_refused_in_one_line(family, tmp_path):
    folder = save_family(tmp_path / "model", family, EXTRA.get(family, {}))
    with pytest.raises(AtpError, match="run a server for it and use kind: inspect") as error:
        load(folder)
    assert f"{folder}: the engine cannot play a model of type '{family}' ({REFUSED[family]}" in str(error.value)
    assert "\n" not in str(error.value)


LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("gpt2", {"max_position_embeddings": 64}),
        ("opt", {"max_position_embeddings": 64}),
        ("phi3", {"rope_parameters": LONGROPE, "original_max_position_embeddings": 64}),
        ("llama", {"rope_parameters": DYNAMIC, "max_position_embeddings": 64}),
    ],
)
def test_a_conversation_beyond_the_positions_of_a_model_is_one_line(kind, fields, tmp_path):
    player = load(save_family(tmp_path / "model", kind, fields), new=8)
    short, long = ([{"role": "user", "content": "a" * length}] for length in (4, 40))
    assert player.answer([ask(0, 1, short)])
    with pytest.raises(
        AtpError, match=r"a prompt of \d+ tokens and a reply of up to 8 exceed the model's 64 positions"
    ):
        player.answer([ask(1, 1, long)])


def test_a_placeholder_for_images_needs_no_embedding(tmp_path):
    """The tokenizer of Gemma 3 1B, which has no images, has one."""
    change_json(
        save_tiny(tmp_path / "model") / "tokenizer_config.json", extra_special_tokens={"image_token": "<image>"}
    )
    player = load(tmp_path / "model")
    assert len(player.tokenizer) == VOCABULARY + 1
    assert player.answer([ask(0, 1, [{"role": "user", "content": "What does this show? <image>"}])])


def test_another_attention_implementation_is_replaced_in_play_only(tmp_path):
    """Training may use FlashAttention, which cannot apply the engine's masks."""
    player = load(save_family(tmp_path / "model", "mistral", {}))
    requests = [ask(number, 1, [{"role": "user", "content": "abc " * (number + 1)}]) for number in range(3)]
    replies = player.answer(requests)
    player.start()
    player.model.set_attn_implementation("flex_attention")
    assert player.answer(requests) == replies
    assert player.model.config._attn_implementation == "flex_attention"
