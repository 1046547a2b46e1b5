"""Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290), by TRL.

The reference is the model before this run. With LoRA it needs no second copy of the weights.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from atp.training.trainer import ExampleSettings, Loaded, check_length, create_config


class DpoSettings(ExampleSettings):
    """Settings of DPO."""

    method: Literal["dpo"] = "dpo"
    beta: float = Field(0.1, gt=0, description="strength of the pull towards the reference")


def dpo_trainer(
    pairs: Sequence[dict[str, Any]],
    loaded: Loaded,
    out: Path,
    settings: DpoSettings,
    seed: int,
) -> Any:
    """Return a trainer on preference pairs; its checkpoints go into `out`.

    Args:
        pairs: rows with tools, and the message lists prompt, chosen and rejected; the last two have one reply each.

    Raises:
        AtpError: a pair over max_length.
    """
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    class TokenizedTrainer(DPOTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *others: Any) -> Any:
            return dataset  # TRL's own would tokenize texts, and add special tokens to them

    rows = []
    for pair in pairs:
        row = {"prompt_ids": loaded.prompt_tokens(pair["prompt"], pair["tools"])}
        for side in ("chosen", "rejected"):
            row[f"{side}_ids"] = reply = loaded.reply_tokens(pair["prompt"], pair["tools"], pair[side][0]["content"])
            length = len(row["prompt_ids"] + reply)
            check_length(length, settings, f"the pair of scenario {pair['scenario_id']}")
        rows.append(row)
    return TokenizedTrainer(
        model=loaded.network,
        args=create_config(
            DPOConfig,
            loaded.model,
            settings,
            out,
            seed,
            include_num_input_tokens_seen="non_padding",
            max_length=settings.max_length,
            beta=settings.beta,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=loaded.tokenizer,
        peft_config=loaded.lora,
    )
