"""A model in a GGUF file against the same model in safetensors."""

import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from serving import GREEDY, in_process, request
from tiny import CHATML, save_tiny
from transformers import AutoModelForCausalLM, AutoTokenizer

from atp.agents.load import load_agent
from atp.errors import AtpError
from atp.models.load import load_model, load_tokenizer
from atp.models.spec import ModelSpec
from atp.training.trainer import TrainerSettings, load_trainable

#: Names of llama.cpp for the parameters of a layer.
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """Return the folder of a small Llama in safetensors whose tokenizer merges two line ends."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ĊĊ", "<|im_start|>", "<|im_end|>"]
    backend = Tokenizer(models.BPE(vocab={char: number for number, char in enumerate(alphabet)}, merges=[("Ċ", "Ċ")]))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|im_end|>", bos_token="<|im_start|>"
    )
    tokenizer.chat_template = CHATML
    return save_tiny(tmp_path_factory.mktemp("plain"), "llama", tokenizer=tokenizer)


def write_gguf(plain: Path, file: Path, **fields: str) -> Path:
    """Write a model of safetensors to a GGUF file as llama.cpp does, and return its folder."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(plain), AutoTokenizer.from_pretrained(plain)
    config, tokens = model.config, tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(fields.get("pre", "smollm"))
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in tokenizer.all_special_tokens else 1 for token in tokens])
    writer.add_token_merges(["Ċ Ċ"])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    if template := fields.get("template", tokenizer.chat_template):
        writer.add_chat_template(template)
    for name, weight in model.named_parameters():
        writer.add_tensor(gguf_name(name), gguf_weight(name, weight.detach().numpy(), config))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    return file.parent


def gguf_name(name: str) -> str:
    if layer := re.fullmatch(r"model\.layers\.(\d+)\.(.*)\.weight", name):
        return f"blk.{layer[1]}.{LAYER_NAMES[layer[2]]}.weight"
    return {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}[name]


def gguf_weight(name: str, weight: np.ndarray, config: Any) -> np.ndarray:
    """Return a weight in llama.cpp's order: it rotates neighbouring dimensions of queries and keys."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads is None:
        return weight
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


@pytest.fixture(scope="module")
def spec(plain, tmp_path_factory) -> ModelSpec:
    folder = write_gguf(plain, tmp_path_factory.mktemp("gguf") / "model.gguf")
    return ModelSpec(path=str(folder), gguf_file="model.gguf", sampling=GREEDY, batch=8)


def test_a_gguf_file_is_the_same_model_as_its_safetensors(plain, spec, tmp_path):
    requests = [request(number, f"Which?\n\n{number}. lift A\n\n  22. lift B") for number in range(3)]
    replies = [reply.tokens for reply in load_agent("gguf", spec).answer(requests)]
    assert replies == [reply.tokens for reply in in_process(plain).answer(requests)]
    tokenizer = load_tokenizer(spec)
    assert tokenizer.tokenize("a\n\n1") == ["a", "ĊĊ", "1"]
    saved = tmp_path / "saved"
    load_model(spec).save_pretrained(saved)
    tokenizer.save_pretrained(saved)
    assert [reply.tokens for reply in in_process(saved).answer(requests)] == replies


def test_all_weights_of_a_gguf_file_can_be_trained_and_go_on_from_their_folder(plain, spec):
    settings = TrainerSettings(use_peft=False)
    for parent in (None, plain):
        trainable = load_trainable(spec, settings, parent)
        assert all(
            parameter.dtype == torch.float32 and parameter.requires_grad for parameter in trainable.network.parameters()
        )
    requests = [request(0)]
    assert load_agent("gguf", spec, plain).answer(requests) == load_agent("gguf", spec).answer(requests)


@pytest.mark.parametrize(
    ("fields", "length", "message"),
    [
        ({"pre": "bloom"}, None, r"gguf_file model\.gguf: transformers cannot split text by .* 'bloom'; use a folder"),
        ({"template": ""}, None, "its tokenizer has no chat template"),
        ({}, 0, "cannot read its tokenizer"),
        ({}, 40, "cannot read its tokenizer"),
        ({}, 9000, "cannot read its tokenizer"),
        ({}, 90000, "cannot read its tokenizer"),
    ],
)
def test_an_unfit_gguf_file_is_refused_in_one_line(plain, tmp_path, fields, length, message):
    file = tmp_path / "model.gguf"
    write_gguf(plain, file, **fields)
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(AtpError, match=message) as error:
        load_agent("gguf", ModelSpec(path=str(tmp_path), gguf_file=file.name))
    assert "\n" not in str(error.value)
    with pytest.raises(AtpError, match=r"gguf_file: no file 'other\.gguf' in this folder"):
        load_agent("gguf", ModelSpec(path=str(tmp_path), gguf_file="other.gguf"))
