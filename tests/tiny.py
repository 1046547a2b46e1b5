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
    """A model of `family` ("qwen3" or "llama") with untrained weights, and a tokenizer: bytes, unless one is given.

    stopping is about the chance that a token ends a reply; left out, a reply hardly ever ends by itself.
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
    for parameter in model.parameters():  # sharper than the usual initialisation, so that replies differ by prompt
        if parameter.dim() > 1:
            parameter.data.mul_(8)
    if stopping is not None:
        _let_it_stop(model, wrapped.eos_token_id, stopping)
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


def _let_it_stop(model: Any, end: int, chance: float) -> None:
    """Give all hidden states a part in common, and the head's row for the end that part, scaled to about the chance."""
    import torch

    common = torch.randn(model.config.hidden_size)
    model.get_input_embeddings().weight.data.add_(3 * common)
    head = model.get_output_embeddings().weight.data
    with torch.inference_mode():
        states = model.get_decoder()(torch.randint(model.config.vocab_size, (1, 256))).last_hidden_state[0]
        others = torch.logsumexp(states @ head.T, dim=-1).mean()
        head[end] = common * ((others + torch.tensor(chance).logit()) / (states @ common).mean())
