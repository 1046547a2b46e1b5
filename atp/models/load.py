"""Load a model's weights and tokenizer, and LoRA adapters on top of them."""

import logging
import os
import struct
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from jinja2 import TemplateError
from tokenizers.pre_tokenizers import Digits, Sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils import cached_file, is_flash_attn_2_available

from atp.errors import AtpError
from atp.files.tables import LINEAGE
from atp.models.spec import NO_TEMPLATE, ModelSpec, check_folder

log = logging.getLogger("atp")

#: Prompt that shows whether a chat template works, and whether an adapter changes outputs.
PROBE = "Which option do you choose?"


#: Errors of transformers about missing or broken files; struct.error: a GGUF file that was cut off.
UNREADABLE = (OSError, ValueError, KeyError, struct.error)


def weights_of(folder: Path | None) -> Path | None:
    """Return a trained agent's folder, or None if it has no weights because the training was skipped."""
    if folder is None or any((folder / file).exists() for file in ("config.json", "adapter_config.json")):
        return folder
    return None if (folder / LINEAGE).is_file() else folder


def is_whole(folder: Path) -> bool:
    """Return whether a trained agent's folder has all weights, not an adapter."""
    return (folder / "config.json").is_file()


def on_gpu(spec: ModelSpec) -> bool:
    """Return whether the model runs on a GPU here. Raises AtpError if it needs more GPUs than there are."""
    available = 0 if spec.device == "cpu" else torch.cuda.device_count()
    if spec.device == "cuda" and available < max(1, spec.gpus):
        raise AtpError(
            f"{spec.path}: device is 'cuda' and gpus is {spec.gpus}, this machine has {available}; use 'auto' or 'cpu'"
        )
    return available > 0


def attention(spec: ModelSpec) -> str:
    """Return the attention implementation for training: FlashAttention if it is installed, else PyTorch's.

    Rollouts always use PyTorch's, because FlashAttention does not support the engine's masks with holes.
    """
    return "flash_attention_2" if on_gpu(spec) and is_flash_attn_2_available() else "sdpa"


def load_tokenizer(spec: ModelSpec) -> Any:
    """Return the model's tokenizer. Raises AtpError if it is missing or has no working chat template."""
    _check_source(spec)
    try:
        tokenizer = AutoTokenizer.from_pretrained(spec.path, **_source(spec))
    except UNREADABLE as error:
        raise AtpError(f"{spec.path}: cannot read its tokenizer: {_first_line(error)}") from error
    if spec.gguf_file is not None:
        _set_splits(tokenizer, spec, spec.gguf_file)
    if not tokenizer.chat_template:
        raise AtpError(f"{spec.path}: {NO_TEMPLATE}")
    try:
        tokenizer.apply_chat_template([{"role": "user", "content": PROBE}], tokenize=False, **spec.chat_template)
    except (TemplateError, TypeError, ValueError) as error:
        raise AtpError(f"{spec.path}: its chat template fails: {_first_line(error)}") from error
    return tokenizer


def _set_splits(tokenizer: Any, spec: ModelSpec, file: str) -> None:
    """Make a GGUF file's tokenizer split text into words as the file says.

    transformers splits as GPT-2 does where it does not know the rule that a file names, without a warning.

    Raises:
        AtpError: a rule that neither transformers nor this function knows.
    """
    from gguf import Keys
    from transformers.integrations.gguf import read_gguf_metadata
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    metadata, _ = read_gguf_metadata(str(cached_file(spec.path, file, revision=spec.revision)))
    rule = metadata.get(Keys.Tokenizer.PRE)
    if metadata[Keys.Tokenizer.MODEL] != "gpt2" or rule in ("gpt-2", *GGUF_PRE_TOKENIZER_SPLITS):
        return
    if rule != "smollm":
        raise AtpError(
            f"{spec.path}: gguf_file {file}: transformers cannot split text by its rule {Keys.Tokenizer.PRE} '{rule}'; "
            "use a folder with safetensors and tokenizer.json"
        )
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = Sequence([Digits(individual_digits=True), backend.pre_tokenizer])


def load_model(spec: ModelSpec, attention: str = "sdpa") -> Any:
    """Return the model: float32 on a CPU, bfloat16 on a GPU, unless spec.dtype is another type.

    Raises:
        AtpError: no such model, or missing, corrupt or unfit weights.
    """
    _check_source(spec)
    gpu = on_gpu(spec)
    dtype = (torch.bfloat16 if gpu else torch.float32) if spec.dtype == "auto" else getattr(torch, spec.dtype)
    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "attn_implementation": attention}
    options |= {"output_loading_info": True, **_source(spec)}
    if spec.gguf_file is not None:  # packed weights can neither be trained nor saved
        options["quantization_config"] = GgufConfig(dequantize=True)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(spec.path, **options)
    except RuntimeError as error:
        raise AtpError(f"{spec.path}: its weights do not match its config.json: {_first_line(error)}") from error
    except UNREADABLE as error:
        raise AtpError(f"{spec.path}: cannot read the model: {_first_line(error)}") from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        raise AtpError(f"{spec.path}: cannot read its safetensors weights: {_first_line(error)}") from error
    model, loading = loaded
    if missing := sorted(loading["missing_keys"]):
        raise AtpError(f"{spec.path}: {len(missing)} weights are missing, the first is '{missing[0]}'")
    if spec.gpus and not gpu:
        log.warning("%s: gpus is %d, but this machine has none; running on the CPU", spec.path, spec.gpus)
    if not gpu:  # masked attention does not copy shared heads then; on a GPU the fast kernel would be lost
        os.environ.setdefault("TRANSFORMERS_SDPA_FORCE_GQA", "1")
    return model


def _source(spec: ModelSpec) -> dict[str, Any]:
    return {
        "revision": spec.revision,
        "trust_remote_code": spec.trust_remote_code,
        "local_files_only": Path(spec.path).is_dir(),
        **({"gguf_file": spec.gguf_file} if spec.gguf_file is not None else {}),
    }


def _check_source(spec: ModelSpec) -> None:
    """Raise AtpError for a folder without a model, and for a name that is neither cached nor on the hub."""
    check_folder(spec, Path())
    if Path(spec.path).is_dir() or isinstance(
        try_to_load_from_cache(spec.path, spec.gguf_file or "config.json", revision=spec.revision), str
    ):
        return
    try:
        HfApi().model_info(spec.path, revision=spec.revision, timeout=30)
    except Exception as error:
        raise AtpError(
            f"{spec.path}: not in the local cache, and not available from the Hugging Face hub: {_first_line(error)}; "
            "'path' in config/models can also be a folder"
        ) from error


def with_adapter(model: Any, folder: Path, trainable: bool = False) -> Any:
    """Return the model with a LoRA adapter. Raises AtpError if the folder has no adapter for this model."""
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / file).is_file():
            raise AtpError(f"{folder}: not an adapter folder: no {file}")
    from peft import PeftModel  # takes seconds, which a model without an adapter does not need

    try:
        return PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
    except Exception as error:
        raise AtpError(f"{folder}: not an adapter for this model: {_first_line(error)}") from error


def add_adapter(network: Any, folder: Path, name: str) -> None:
    """Load another adapter into a network, inactive and not trainable. Raises AtpError as `with_adapter` does."""
    try:
        network.load_adapter(str(folder), name)
    except Exception as error:
        raise AtpError(f"{folder}: not an adapter for this model: {_first_line(error)}") from error


def adapt(model: Any, folder: Path, tokenizer: Any) -> Any:
    """Return the model with an adapter, merged in float32, separate in bfloat16, where rounding would lose it.

    Raises:
        AtpError: an adapter that changes nothing, or none for this model.
    """
    probe = tokenizer(PROBE, return_tensors="pt").input_ids.to(model.device)
    with torch.inference_mode():
        before = model(probe).logits
    adapted = with_adapter(model, folder)
    updates = [weight for name, weight in adapted.named_parameters() if "lora_B" in name]
    with torch.inference_mode():
        same = torch.equal(adapted(probe).logits, before)
    if same or not any(weight.any() for weight in updates):
        raise AtpError(f"{folder}: this adapter changes nothing: its outputs are the base model's")
    return adapted.merge_and_unload() if model.dtype == torch.float32 else adapted


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
