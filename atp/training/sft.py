"""Supervised fine-tuning on selected replies, by TRL.

Only the last assistant turn of each conversation is learned: it is a reply that the filter kept.

With `kl` the loss is nll + kl * KL, both means over the T tokens of the replies, with q the agent as of generation 0:

    KL = 1/T sum_t sum_v p(v | t) log(p(v | t) / q(v | t))

the penalty of Ziegler and others 2019 (arXiv 1909.08593), summed over the vocabulary where theirs takes a sample.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from atp.agents import ModelSpec
from atp.agents.template import rendered
from atp.errors import AtpError
from atp.training.trainer import ExampleSettings, Loaded, arguments, check_length

#: What generation 0's adapter is called beside the one that is trained.
REFERENCE = "reference"


class SftSettings(ExampleSettings):
    """Settings of supervised fine-tuning."""

    method: Literal["sft"] = "sft"
    kl: float = Field(0.0, ge=0, description="defence: weight of the divergence from generation 0, in nats a token")

    @model_validator(mode="after")
    def _reference_needs_no_copy(self) -> "SftSettings":
        if self.kl and self.tune == "full":
            raise ValueError("kl: needs tune 'lora', whose reference is the same weights without the trained adapter")
        return self


def sft_trainer(
    examples: Sequence[dict[str, Any]],
    loaded: Loaded,
    out: Path,
    model: ModelSpec,
    settings: SftSettings,
    seed: int,
    reference: Path | None = None,
) -> Any:
    """A trainer on conversations, rows of a selection; its checkpoints go into `out`.

    Args:
        reference: generation 0's adapter, from which `kl` measures; None is the model itself.

    Raises:
        AtpError: a conversation over max_length; a reference that is no adapter, or a training that begins without one.
    """
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from atp.agents.local import add_adapter, weights_of

    tokenizer = loaded.tokenizer
    rows = []
    for example in examples:
        *prompt, answer = example["messages"]
        text = rendered(tokenizer, model, prompt, example["tools"])
        reply = answer["content"] + tokenizer.eos_token
        check_length(tokenizer, text + reply, settings, f"the conversation of scenario {example['scenario_id']}")
        rows.append({"prompt": text, "completion": reply})
    config = SFTConfig(
        **arguments(model, settings, out, seed),
        include_num_input_tokens_seen="non_padding",
        max_length=settings.max_length,
        completion_only_loss=True,
    )
    trainer: Any = SFTTrainer
    if settings.kl:
        reference = weights_of(reference)
        if reference:
            if loaded.lora is not None:
                raise AtpError(f"{reference}: training.kl measures from this adapter, so training must begin with one")
            add_adapter(loaded.network, reference, REFERENCE)
        trainer = _anchored(settings.kl, REFERENCE if reference else None)
    return trainer(
        model=loaded.network,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=loaded.lora,
    )


def _anchored(weight: float, reference: str | None) -> Any:
    """SFTTrainer with a penalty on the divergence from an adapter of its network; None is the network without any."""
    import torch
    from trl import SFTTrainer
    from trl.trainer.utils import use_adapter

    class Anchored(SFTTrainer):  # type: ignore[misc]
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            labels = inputs["labels"][:, 1:]
            places = (labels != -100).any(dim=0).nonzero()[:, 0]  # logits of prompts alone are never made
            labels = labels[:, places]
            learned = labels != -100
            texts = {name: inputs[name] for name in ("input_ids", "attention_mask")}
            texts |= {"use_cache": False, "logits_to_keep": places}
            network = self.accelerator.unwrap_model(model)
            with torch.no_grad(), use_adapter(network, reference):
                old = network(**texts).logits[learned].float().log_softmax(dim=-1)
            new = model(**texts).logits[learned].float().log_softmax(dim=-1)
            unlikely = -new.gather(1, labels[learned][:, None]).sum()
            apart = (new.exp() * (new - old)).sum()
            tokens = learned.sum() if num_items_in_batch is None else num_items_in_batch
            loss = (unlikely + weight * apart) / tokens
            # As in SFTTrainer: num_items_in_batch counts the tokens of all processes, whose gradients are averaged.
            return loss if num_items_in_batch is None else loss * self.accelerator.num_processes

    return Anchored
