"""What the engine needs to know about a network's architecture, read from its configuration and its modules."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch

from atp.agents.kv import ATTENTION

#: Types of layers that the engine can play: only the mask differs.
LAYER_TYPES = {"full_attention", "sliding_attention", "chunked_attention", "global"}


def check_architecture(network: Any) -> None:
    """Check what a comparison of a few tokens cannot show.

    Layers with a recurrent state cannot take tokens back, and some sparse or local attention counts slots.

    Raises:
        ValueError: the engine cannot play the network.
    """
    config = network.config.get_text_config()
    types = getattr(config, "layer_types", None) or getattr(config, "attention_layers", None) or ()
    if unknown := sorted(set(types) - LAYER_TYPES):
        raise ValueError(f"its layers are of type '{unknown[0]}'")
    if "position_ids" not in signature(network.forward).parameters:
        raise ValueError("its forward pass takes no position_ids")


@contextmanager
def masked_attention(network: Any) -> Iterator[None]:
    """Play with an attention implementation that can apply the cache's masks; training may use FlashAttention."""
    usual = network.config._attn_implementation
    if usual in ATTENTION:
        yield
        return
    network.set_attn_implementation("sdpa" if network._supports_sdpa else "eager")
    try:
        yield
    finally:
        network.set_attn_implementation(usual)


def max_positions(network: Any) -> float:
    """Return the length up to which the engine can play a conversation: infinite unless the model restricts it.

    A model with a table of positions ends with the table. Where rotary frequencies change with the length (types
    "longrope" and "dynamic"), keys in the cache would be wrong beyond the length at which they change.
    """
    config = network.config.get_text_config()
    longest: float = getattr(config, "max_position_embeddings", None) or math.inf
    tables = [name for name, module in network.named_modules() if isinstance(module, torch.nn.Embedding)]
    names = [name.rpartition(".")[2] for name in [*tables, *(name for name, _ in network.named_buffers())]]
    limits = [longest] if any(name == "wpe" or "position" in name for name in names) else []
    ropes = getattr(config, "rope_parameters", None) or {}
    for rope in [ropes, *ropes.values()]:  # some models have one for each type of layer
        kind = rope.get("rope_type") or "" if isinstance(rope, dict) else ""
        if kind == "longrope":
            limits.append(rope["original_max_position_embeddings"])
        elif "dynamic" in kind:
            limits.append(longest)
    return min(limits, default=math.inf)


class OutputLayer:
    """A network's function from last hidden states to logits: its head, a scale and a soft cap."""

    def __init__(self, network: Any):
        config = network.config.get_text_config()
        self.head = network.get_output_embeddings()
        self.weight = self.head.weight
        self.scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
        self.soft_cap = getattr(config, "final_logit_softcapping", None)

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """Return the logits of states, [positions, vocabulary]."""
        logits: torch.Tensor = self.head(states) * self.scale
        return self.soft_cap * torch.tanh(logits / self.soft_cap) if self.soft_cap else logits
