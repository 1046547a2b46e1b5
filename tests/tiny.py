"""Random-weight models of a few layers with a byte-level tokenizer, saved as a hub-style folder."""

from pathlib import Path
from typing import Any

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_tiny(
    folder: Path,
    family: str = "qwen3",
    template: str | None = CHATML,
    seed: int = 0,
    tokenizer: Any = None,
    stopping: float | None = None,
) -> Path:
    """Save a model with untrained weights and a tokenizer, and return the folder.

    Args:
        family: "qwen3" or "llama".
        tokenizer: by default one whose tokens are bytes.
        stopping: approximate probability that a token ends a reply; None: a reply hardly ever ends by itself.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    wrapped = tokenizer or _bytes(template)
    torch.manual_seed(seed)
    size: dict[str, Any] = dict(
        vocab_size=len(wrapped),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=8192,
        tie_word_embeddings=stopping is None,
        eos_token_id=wrapped.eos_token_id,
        pad_token_id=wrapped.pad_token_id,
        bos_token_id=None,
    )
    model = Qwen3ForCausalLM(Qwen3Config(**size)) if family == "qwen3" else LlamaForCausalLM(LlamaConfig(**size))
    for parameter in model.parameters():  # sharper than the usual initialisation, so that replies depend on the prompt
        if parameter.dim() > 1:
            parameter.data.mul_(8)
    if stopping is not None:
        _set_stop_probability(model, wrapped.eos_token_id, stopping)
    model.save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return folder


def _bytes(template: str | None) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: number for number, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        padding_side="left",
    )
    wrapped.chat_template = template
    return wrapped


def _set_stop_probability(model: Any, end: int, probability: float) -> None:
    """Add a common vector to all hidden states, and make it the head's row for the end token, scaled to fit."""
    import torch

    common = torch.randn(model.config.hidden_size)
    model.get_input_embeddings().weight.data.add_(3 * common)
    head = model.get_output_embeddings().weight.data
    with torch.inference_mode():
        states = model.get_decoder()(torch.randint(model.config.vocab_size, (1, 256))).last_hidden_state[0]
        others = torch.logsumexp(states @ head.T, dim=-1).mean()
        head[end] = common * ((others + torch.tensor(probability).logit()) / (states @ common).mean())
