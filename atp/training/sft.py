"""Supervised fine-tuning on selected replies, by TRL.

The loss covers only the last assistant turn of each conversation: the reply that the filter selected.

With `kl` the loss is nll + kl * KL, both means over the T tokens of the replies, with q the agent at generation 0:

    KL = 1/T sum_t sum_v p(v | t) log(p(v | t) / q(v | t))

This is the penalty of Ziegler et al. 2019 (arXiv 1909.08593), summed over the vocabulary instead of sampled.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from atp.errors import AtpError
from atp.training.trainer import ExampleSettings, Loaded, check_length, create_config

#: Name of generation 0's adapter next to the trained one.
REFERENCE = "reference"
#: Label of a token that is not learned.
IGNORED = -100
#: Fields of TRL's config that have no effect with `kl`, or break it, because it replaces TRL's loss.
LOSS_FIELDS = "label_smoothing_factor loss_type packing padding_free router_aux_loss_coef use_liger_kernel".split()


class SftSettings(ExampleSettings):
    """Settings of supervised fine-tuning."""

    method: Literal["sft"] = "sft"
    kl: float = Field(0.0, ge=0, description="defence: weight of the divergence from generation 0, nats a token")

    @model_validator(mode="after")
    def _check_kl(self) -> "SftSettings":
        if self.kl and not self.use_peft:
            raise ValueError("kl: needs use_peft: true, so that the reference is the same weights without the adapter")
        replaced = [name for name in LOSS_FIELDS if name in self.further]
        if self.kl and replaced:
            raise ValueError(f"{replaced[0]}: cannot be combined with kl, which replaces TRL's loss")
        return self


def sft_trainer(
    examples: Sequence[dict[str, Any]],
    loaded: Loaded,
    out: Path,
    settings: SftSettings,
    seed: int,
    reference: Path | None = None,
) -> Any:
    """Return a trainer on conversations; its checkpoints go into `out`.

    Args:
        examples: rows of a selection.
        reference: generation 0's adapter, from which `kl` is measured; None for the model itself.

    Raises:
        AtpError: a conversation over max_length; a reference that is not an adapter, or a run that starts without one.
    """
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from atp.models.load import add_adapter, weights_of

    rows = []
    for example in examples:
        *messages, answer = example["messages"]
        prompt = loaded.prompt_tokens(messages, example["tools"])
        reply = loaded.reply_tokens(messages, example["tools"], answer["content"])
        check_length(len(prompt + reply), settings, f"the conversation of scenario {example['scenario_id']}")
        rows.append({"input_ids": prompt + reply, "labels": [IGNORED] * len(prompt) + reply})
    config = create_config(
        SFTConfig,
        loaded.model,
        settings,
        out,
        seed,
        include_num_input_tokens_seen="non_padding",
        max_length=settings.max_length,
    )
    trainer: Any = SFTTrainer
    if settings.kl:
        reference = weights_of(reference)
        if reference:
            if loaded.lora is not None:
                raise AtpError(f"{reference}: training.kl measures from this adapter, so training needs a parent")
            add_adapter(loaded.network, reference, REFERENCE)
        trainer = _penalised_trainer(settings.kl, REFERENCE if reference else None)
    return trainer(
        model=loaded.network,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=loaded.tokenizer,
        peft_config=loaded.lora,
    )


def _penalised_trainer(weight: float, reference: str | None) -> Any:
    """Return a subclass of SFTTrainer that penalises the KL divergence from a reference.

    Args:
        weight: the penalty's, `kl`.
        reference: name of an adapter of the trained network; None for the network without adapters.
    """
    import torch
    from trl import SFTTrainer
    from trl.trainer.utils import use_adapter

    class PenalisedTrainer(SFTTrainer):  # type: ignore[misc]
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            labels = inputs["labels"][:, 1:]
            positions = (labels != IGNORED).any(dim=0).nonzero()[:, 0]  # skips logits within prompts
            labels = labels[:, positions]
            learned = labels != IGNORED
            batch = {name: inputs[name] for name in ("input_ids", "attention_mask")}
            batch |= {"use_cache": False, "logits_to_keep": positions}
            network = self.accelerator.unwrap_model(model)
            with torch.no_grad(), use_adapter(network, reference):
                old = network(**batch).logits[learned].float().log_softmax(dim=-1)
            new = model(**batch).logits[learned].float().log_softmax(dim=-1)
            nll = -new.gather(1, labels[learned][:, None]).sum()
            divergence = (new.exp() * (new - old)).sum()
            tokens = learned.sum() if num_items_in_batch is None else num_items_in_batch
            loss = (nll + weight * divergence) / tokens
            # As in SFTTrainer: num_items_in_batch counts the tokens of all processes, whose gradients are averaged.
            return loss if num_items_in_batch is None else loss * self.accelerator.num_processes

    return PenalisedTrainer
