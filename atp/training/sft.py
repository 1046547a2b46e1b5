"""Supervised fine-tuning on selected replies, by TRL.

Only the last assistant turn of each conversation is learned: it is a reply that the filter kept.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from atp.agents import ModelSpec
from atp.agents.template import rendered
from atp.training.trainer import Loaded, TrainerSettings, arguments, check_length


class SftSettings(TrainerSettings):
    """Settings of supervised fine-tuning."""

    method: Literal["sft"] = "sft"


def sft_trainer(
    examples: Sequence[dict[str, Any]],
    loaded: Loaded,
    out: Path,
    model: ModelSpec,
    settings: SftSettings,
    seed: int,
) -> Any:
    """A trainer on conversations, rows of a selection; its checkpoints go into `out`.

    Raises:
        AtpError: a conversation over max_length.
    """
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

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
    return SFTTrainer(
        model=loaded.network,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=loaded.lora,
    )
