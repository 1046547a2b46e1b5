"""Loading: adapters play as PEFT plays them, and a tokenizer, a model and an adapter that don't fit are refused."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from tiny import save_tiny
from transformers import AutoModelForCausalLM

from atp.agents.load import load_agent
from atp.errors import AtpError
from atp.models.spec import ModelSpec
from atp.training.sft import SftSettings
from atp.training.trainer import load_trainable

QUERY = ["q_proj"]
HEAD, EMBEDDING = ["lm_head"], ["embed_tokens"]
ADAPTERS: dict[str, peft.PeftConfig] = {
    "lora": LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"),
    "rslora": LoraConfig(target_modules=QUERY, use_rslora=True),
    "dora": LoraConfig(target_modules=QUERY, use_dora=True),
    "lora with biases": LoraConfig(target_modules=QUERY, lora_bias=True),
    "head": LoraConfig(target_modules=HEAD),
    "embedding": LoraConfig(target_modules=EMBEDDING),
    "head and embedding": LoraConfig(target_modules=HEAD + EMBEDDING),
    "embedding and tied head": LoraConfig(target_modules=EMBEDDING, ensure_weight_tying=True),
    "whole head": LoraConfig(target_modules=QUERY, modules_to_save=HEAD),
    "whole embedding": LoraConfig(target_modules=QUERY, modules_to_save=EMBEDDING),
    "tokens": LoraConfig(target_modules=QUERY, trainable_token_indices=[100, 257]),
    "tokens alone": peft.TrainableTokensConfig(token_indices=[100, 257]),
    "ia3": peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "loha": peft.LoHaConfig(target_modules=QUERY),
    "vera": peft.VeraConfig(target_modules=QUERY, r=4),
    "layer norms": peft.LNTuningConfig(target_modules=["norm"]),
}
WHOLE_NORM = LoraConfig(target_modules=QUERY, modules_to_save=["input_layernorm"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a model whose head is its embedding."""
    return save_tiny(tmp_path_factory.mktemp("model"))


def save_adapter(folder: Path, config: peft.PeftConfig, out: Path, fixed: str = "nothing") -> Path:
    """Save an adapter whose weights are changed at random, except those with `fixed` in their names."""
    torch.manual_seed(1)
    network = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(folder), config)
    for name, weight in network.named_parameters():
        if weight.requires_grad and fixed not in name:
            weight.data.add_(torch.randn_like(weight), alpha=0.3)
    network.save_pretrained(out)
    return out


def load(folder: Path, adapter: Path | None = None, dtype: Any = "float32") -> Any:
    return load_agent("tiny", ModelSpec(path=str(folder), dtype=dtype), adapter)


@torch.inference_mode()
def check_played(folder: Path, adapter: Path, dtype: Any = "float32") -> None:
    tokens = torch.tensor([[5, 257, 9, 100, 42, 17, 100, 8]])
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    before = base(input_ids=tokens).logits
    expected = peft.PeftModel.from_pretrained(base, str(adapter)).eval()(input_ids=tokens).logits
    assert (expected - before).abs().max() > 0.1
    assert (load(folder, adapter, dtype).model(input_ids=tokens).logits - expected).abs().max() < 1e-4


@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_adapter_plays_as_in_peft(folder, kind, tmp_path):
    check_played(folder, save_adapter(folder, ADAPTERS[kind], tmp_path / "adapter"))


def test_an_adapter_with_an_unchanged_lora_part_acts(folder, tmp_path):
    check_played(folder, save_adapter(folder, WHOLE_NORM, tmp_path / "adapter", fixed="lora_"), "bfloat16")


def test_an_adapter_of_tokens_that_prompts_rarely_have_acts(folder, tmp_path):
    tokens = peft.TrainableTokensConfig(token_indices=[100])
    untied = save_tiny(tmp_path / "model", stopping=0.1)
    check_played(untied, save_adapter(untied, tokens, tmp_path / "adapter"))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (peft.PromptTuningConfig("CAUSAL_LM", num_virtual_tokens=4), "not a LoRA adapter: peft_type PROMPT_TUNING"),
        (peft.PrefixTuningConfig("CAUSAL_LM", num_virtual_tokens=4), "not a LoRA adapter: peft_type PREFIX_TUNING"),
        (LoraConfig(target_modules=QUERY, alora_invocation_tokens=[3], task_type="CAUSAL_LM"), "not a plain LoRA"),
    ],
)
def test_an_adapter_that_acts_on_the_prompt_is_refused(folder, config, message, tmp_path):
    with pytest.raises(AtpError, match=message):
        load(folder, save_adapter(folder, config, tmp_path / "adapter"))


def drop_lora(weights: dict[str, Any]) -> dict[str, Any]:
    return {key: weight for key, weight in weights.items() if "layers.1.self_attn" not in key}


def drop_norm(weights: dict[str, Any]) -> dict[str, Any]:
    return {key: weight for key, weight in weights.items() if "0.input_layernorm" not in key}


def add_layer_7(weights: dict[str, Any]) -> dict[str, Any]:
    return weights | {key.replace("layers.1", "layers.7"): weight.clone() for key, weight in weights.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_lora, "not a whole adapter: no weights for 'base_model.model.model.layers.1.self_attn.q_proj.lora_A"),
        (drop_norm, "not a whole adapter: no weights for 'base_model.model.model.layers.0.input_layernorm.weight'"),
        (add_layer_7, "not an adapter for this model: no module for 'base_model.model.model.layers.7.input_layernorm"),
    ],
)
def test_an_adapter_that_fits_in_part_is_refused(folder, change, message, tmp_path):
    adapter = save_adapter(folder, WHOLE_NORM, tmp_path / "adapter")
    file = adapter / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)
    for loader in (load, load_to_train):
        with pytest.raises(AtpError, match=message) as error:
            loader(folder, adapter)
        assert str(error.value).startswith(f"{adapter}: ")


def test_only_lora_is_trained_further(folder, tmp_path):
    with pytest.raises(AtpError, match="not a LoRA adapter: peft_type IA3"):
        load_to_train(folder, save_adapter(folder, ADAPTERS["ia3"], tmp_path / "adapter"))


def load_to_train(folder: Path, parent: Path | None = None) -> Any:
    return load_trainable(ModelSpec(path=str(folder)), SftSettings(), parent)


def change_json(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def without_end(folder: Path, **generation: Any) -> Path:
    save_tiny(folder)
    change_json(folder / "tokenizer_config.json", eos_token=None)
    change_json(folder / "config.json", eos_token_id=None)
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


@pytest.mark.parametrize("loader", [load, load_to_train])
def test_a_tokenizer_that_does_not_fit_is_one_line(loader, tmp_path):
    tokenizer = load(save_tiny(tmp_path / "longer")).tokenizer
    tokenizer.add_tokens(["<first>", "<second>"])
    tokenizer.save_pretrained(tmp_path / "longer")
    with pytest.raises(AtpError, match=r"its embedding has 259 rows, but its tokenizer has token 259 \('<first>'\)"):
        loader(tmp_path / "longer")
    with pytest.raises(
        AtpError, match=r"no end-of-sequence token in tokenizer_config\.json or generation_config\.json"
    ):
        loader(without_end(tmp_path / "endless"))
    loaded = loader(without_end(tmp_path / "generation", eos_token_id=[257, 3]))
    assert loaded.tokenizer.eos_token_id == 257


def test_an_adapter_of_a_model_of_another_type_is_refused(tmp_path):
    """Qwen3 and Llama have weights of equal shapes here."""
    llama, qwen = save_tiny(tmp_path / "llama", "llama"), save_tiny(tmp_path / "qwen")
    adapter = save_adapter(llama, ADAPTERS["lora"], tmp_path / "adapter")
    with pytest.raises(AtpError, match=r"base model .*llama is of type 'llama', this one of type 'qwen3'"):
        load(qwen, adapter)
