"""Load a model's weights and tokenizer, and adapters on top of them."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from safetensors import safe_open
from tokenizers.pre_tokenizers import Digits, Sequence
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig
from transformers.utils import cached_file, is_flash_attn_2_available

from atp.errors import AtpError
from atp.files.tables import LINEAGE
from atp.models.spec import NO_TEMPLATE, ModelSpec, check_folder

log = logging.getLogger("atp")

#: Prompt that shows whether a chat template works, and what an adapter changes.
PROBE = "Which option do you choose?"
#: What an exception that transformers raises for a model's files means.
PROBLEMS = {
    "RuntimeError": "its weights do not match its config.json",
    "SafetensorError": "cannot read its safetensors weights",
}
#: Largest rounding error of the same logits computed in two ways, as `deviation` measures it.
MAX_DEVIATION = {torch.float32: 1e-3, torch.bfloat16: 0.2}


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


def attention(spec: ModelSpec) -> str | None:
    """Return the attention implementation for training: FlashAttention if it is installed, else the model's default.

    Rollouts always use the default, because FlashAttention does not support the engine's masks with holes.
    """
    return "flash_attention_2" if on_gpu(spec) and is_flash_attn_2_available() else None


def load_tokenizer(spec: ModelSpec) -> Any:
    """Return the model's tokenizer. Raises AtpError if it is missing or has no working chat template."""
    _check_source(spec)
    try:
        tokenizer = AutoTokenizer.from_pretrained(spec.path, **_source(spec))
    except Exception as error:  # of any kind: of missing packages, of damaged files
        raise AtpError(f"{spec.path}: cannot read its tokenizer: {first_line(error)}") from error
    if spec.gguf_file is not None:
        _set_splits(tokenizer, spec, spec.gguf_file)
    if not tokenizer.chat_template:
        raise AtpError(f"{spec.path}: {NO_TEMPLATE}")
    try:
        tokenizer.apply_chat_template([{"role": "user", "content": PROBE}], tokenize=False, **spec.chat_template)
    except Exception as error:  # whatever a template raises
        raise AtpError(f"{spec.path}: its chat template fails: {first_line(error)}") from error
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


def check_tokenizer(tokenizer: Any, model: Any, path: str) -> None:
    """Check that a model has an embedding for each token that a prompt can have, and a token that ends a reply.

    A tokenizer without an end-of-sequence token gets the one of generation_config.json.

    Raises:
        AtpError: tokens without an embedding, or no end-of-sequence token.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    named_tokens = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token}
    # Special tokens are inert in contents (see `Chat`), so only the chat template could write them.
    unused = {
        number
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.special and token.content not in named_tokens and token.content not in str(tokenizer.chat_template)
    }
    outside = {number: token for token, number in tokenizer.get_vocab().items() if number >= rows}
    if number := min(outside.keys() - unused, default=None):
        raise AtpError(
            f"{path}: its embedding has {rows} rows, but its tokenizer has token {number} ('{outside[number]}'); "
            "resize the model's embedding (resize_token_embeddings) and train the new rows, or remove the token"
        )
    if tokenizer.eos_token_id is None:
        ends = model.generation_config.eos_token_id
        if ends is None:
            raise AtpError(
                f"{path}: no end-of-sequence token in tokenizer_config.json or generation_config.json, so no reply "
                "would end; set eos_token in tokenizer_config.json"
            )
        tokenizer.eos_token_id = ends[0] if isinstance(ends, list) else ends


def load_model(spec: ModelSpec, attention: str | None = None) -> Any:
    """Return the model: float32 on a CPU, bfloat16 on a GPU, unless spec.dtype is another type.

    Args:
        attention: name of the attention implementation; None: PyTorch's, or the model's own where that lacks something.

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
    except Exception as error:  # of any kind: of missing packages, of damaged files
        problem = PROBLEMS.get(type(error).__name__, "cannot read the model")
        raise AtpError(f"{spec.path}: {problem}: {first_line(error)}") from error
    model, loading = loaded
    if missing := sorted(loading["missing_keys"]):
        raise AtpError(f"{spec.path}: {len(missing)} weights are missing, the first is '{missing[0]}'")
    if spec.gpus and not gpu:
        log.warning("%s: gpus is %d, but this machine has none; running on the CPU", spec.path, spec.gpus)
    return model


def load_skeleton(spec: ModelSpec) -> Any:
    """Return the model without values of its weights, with its own generation config.

    Raises:
        AtpError: no such model, a config that transformers does not know, or weights in a folder that do not match it.
    """
    _check_source(spec)
    source = {name: value for name, value in _source(spec).items() if name != "gguf_file"}
    try:
        config = AutoConfig.from_pretrained(spec.path, **source)
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=spec.trust_remote_code)
    except Exception as error:  # of any kind: of missing packages, of damaged files
        raise AtpError(f"{spec.path}: cannot read the model: {first_line(error)}") from error
    _check_shapes(spec, model)
    with suppress(OSError):  # without a file it follows from the config
        model.generation_config = GenerationConfig.from_pretrained(spec.path, **source)
    return model


def _check_shapes(spec: ModelSpec, model: Any) -> None:
    """Raise AtpError if weights in a folder have other shapes than the config's; vLLM would load a part of them."""
    if hasattr(model.config, "quantization_config"):  # packed weights have shapes of their own
        return
    parameters = dict(model.named_parameters())
    for file in Path(spec.path).glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            for name in weights.keys() & parameters.keys():
                shape, expected = weights.get_slice(name).get_shape(), list(parameters[name].shape)
                if shape != expected:
                    raise AtpError(
                        f"{spec.path}: {PROBLEMS['RuntimeError']}: '{name}' is {shape} in {file.name}, {expected} by it"
                    )


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
            f"{spec.path}: not in the local cache, and not available from the Hugging Face hub: {first_line(error)}; "
            "'path' in config/models can also be a folder"
        ) from error


def with_adapter(model: Any, folder: Path, trainable: bool = False) -> Any:
    """Return the model with an adapter; only a LoRA adapter can be trainable.

    Raises:
        AtpError: a folder without an adapter for this model, or an adapter that adds tokens to the prompt.
    """
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / file).is_file():
            raise AtpError(f"{folder}: not an adapter folder: no {file}")
    from peft import PeftConfig, get_peft_model  # takes seconds, which a model without an adapter does not need

    with _adapter_errors(folder):
        config: Any = PeftConfig.from_pretrained(str(folder))
        check_base(folder, str(config.base_model_name_or_path), model.config.model_type)
        if config.is_prompt_learning or (trainable and config.peft_type != "LORA"):
            raise AtpError(f"{folder}: not a LoRA adapter: peft_type {config.peft_type.value}")
        if getattr(config, "alora_invocation_tokens", None):
            raise AtpError(f"{folder}: not a plain LoRA adapter: alora_invocation_tokens; it acts on part of a prompt")
        config.inference_mode = not trainable
        adapted = get_peft_model(model, config)
    add_adapter(adapted, folder, "default", trainable)
    return adapted


def check_base(folder: Path, base: str, model_type: str) -> None:
    """Raise AtpError if an adapter names a base model of another type, which may have weights of equal shapes."""
    try:
        trained = json.loads((Path(base) / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # a name on the hub, or a folder that has been moved
    if trained != model_type:
        raise AtpError(
            f"{folder}: its base model {base} is of type '{trained}', this one of type '{model_type}'; "
            "use the adapter with its own model"
        )


def add_adapter(network: Any, folder: Path, name: str, trainable: bool = False) -> None:
    """Load an adapter's weights into a network. Raises AtpError if one doesn't fit, or if one is missing."""
    from peft import get_peft_model_state_dict

    with _adapter_errors(folder), safe_open(folder / "adapter_model.safetensors", "pt") as file:
        try:
            result = network.load_adapter(str(folder), name, is_trainable=trainable)
            saved = get_peft_model_state_dict(network, adapter_name=name, save_embedding_layers=False)
            missing = sorted(saved.keys() - set(file.keys())) if result.missing_keys else []
        except KeyError as error:  # a module that the adapter replaces as a whole
            missing = [error.args[0]]
    if missing:
        raise AtpError(f"{folder}: not a whole adapter: no weights for '{missing[0]}'")
    if result.unexpected_keys:
        raise AtpError(f"{folder}: not an adapter for this model: no module for '{result.unexpected_keys[0]}'")


def adapt(model: Any, folder: Path, tokenizer: Any) -> Any:
    """Return the model with an adapter. LoRA is merged in float32, but not in bfloat16, where rounding would lose it.

    Raises:
        AtpError: an adapter that changes nothing, or none for this model.
    """
    probe = tokenizer(PROBE, return_tensors="pt").input_ids.to(model.device)
    adapted = with_adapter(model, folder).eval()
    with torch.inference_mode():
        logits = adapted(probe).logits
        if _changes_nothing(adapted, probe, logits):
            raise AtpError(f"{folder}: this adapter changes nothing: its outputs are the base model's")
    config = adapted.peft_config["default"]
    if model.dtype != torch.float32 or config.peft_type != "LORA" or config.lora_bias:
        return adapted
    _untie(adapted)
    with _adapter_errors(folder):
        merged = adapted.merge_and_unload()
    with torch.inference_mode():
        if not deviation(merged(probe).logits, logits) < MAX_DEVIATION[torch.float32]:
            raise AtpError(f"{folder}: this adapter cannot be merged: the model's outputs change")
    return merged


def deviation(logits: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the root mean square of the difference, in standard deviations of the expected logits."""
    return ((logits - expected).float().square().mean().sqrt() / expected.float().std()).item()


def _changes_nothing(adapted: Any, probe: torch.Tensor, logits: torch.Tensor) -> bool:
    """Return whether the model's logits are the same without its adapter, and so are the embeddings of all tokens."""
    embedding = adapted.get_input_embeddings()
    tokens = torch.arange(embedding.weight.shape[0], device=probe.device)
    with adapted.disable_adapter():
        same = torch.equal(adapted(probe).logits, logits)
        embedded = embedding(tokens) if same else None
    return embedded is not None and torch.equal(embedding(tokens), embedded)


def _untie(adapted: Any) -> None:
    """Give the output layer its own weights if it or the embedding has an adapter: merged, one would change both."""
    network = adapted.get_base_model()
    embedding, head = network.get_input_embeddings(), network.get_output_embeddings()
    if isinstance(embedding, torch.nn.Embedding) and isinstance(head, torch.nn.Linear):
        return
    shared = set[int]()
    for module in adapted.modules():
        weight = module._parameters.get("weight")
        if weight is not None and id(weight) in shared:
            module.weight = torch.nn.Parameter(weight.detach().clone(), requires_grad=False)
        shared.add(id(weight))
    network.config.tie_word_embeddings = False


@contextmanager
def _adapter_errors(folder: Path) -> Iterator[None]:
    """Turn PEFT's exceptions into an AtpError."""
    try:
        yield
    except AtpError:
        raise
    except Exception as error:
        raise AtpError(f"{folder}: not an adapter for this model: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """Return the first line of an exception's message, or its type."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
