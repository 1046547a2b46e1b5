"""Direct preference optimisation (Rafailov and others 2023), by TRL.

The reference is the model as it was before this run; with LoRA no second copy of its weights is held.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from atp.agents import ModelSpec
from atp.agents.template import rendered
from atp.training.trainer import ExampleSettings, Loaded, arguments, check_length


class DpoSettings(ExampleSettings):
    """Settings of DPO."""

    method: Literal["dpo"] = "dpo"
    beta: float = Field(0.1, gt=0, description="how much leaving the reference costs")


def dpo_trainer(
    pairs: Sequence[dict[str, Any]],
    loaded: Loaded,
    out: Path,
    model: ModelSpec,
    settings: DpoSettings,
    seed: int,
) -> Any:
    """A trainer on preference pairs; its checkpoints go into `out`.

    Args:
        pairs: rows with tools, prompt, chosen and rejected, each a list of messages; the last two hold one reply.

    Raises:
        AtpError: a pair over max_length.
    """
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    tokenizer = loaded.tokenizer
    rows = []
    for pair in pairs:
        row = {"prompt": rendered(tokenizer, model, pair["prompt"], pair["tools"])}
        for side in ("chosen", "rejected"):
            row[side] = pair[side][0]["content"] + tokenizer.eos_token
            check_length(tokenizer, row["prompt"] + row[side], settings, f"the pair of scenario {pair['scenario_id']}")
        rows.append(row)
    return DPOTrainer(
        model=loaded.network,
        args=DPOConfig(
            **arguments(model, settings, out, seed),
            include_num_input_tokens_seen="non_padding",
            max_length=settings.max_length,
            beta=settings.beta,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=loaded.lora,
    )
