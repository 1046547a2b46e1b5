"""Group relative policy optimisation of a LoRA adapter (Shao and others 2024), by TRL.

Knows prompts and a reward, not games.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from atp.agents import ModelSpec
from atp.testbeds.base import Message
from atp.training.lora import LoraSettings, arguments, fit, load_trainable, rendered


class GrpoSettings(LoraSettings):
    """Settings of GRPO with LoRA."""

    method: Literal["grpo"] = "grpo"
    # TRL's default is 0, no pull towards the reference; the paper trained with 0.04.
    beta: float = Field(0.04, ge=0, description="weight of the divergence from the reference")
    generations: int = Field(8, ge=2, description="replies drawn to each prompt")
    # TRL's default is dapo; "grpo" is the published loss, each reply's tokens averaged first.
    loss: Literal["grpo", "dapo", "dr_grpo", "bnpo"] = Field("grpo", description="how tokens' losses are summed")

    @model_validator(mode="after")
    def _whole_groups(self) -> "GrpoSettings":
        if self.batch % self.generations:
            raise ValueError(f"batch is {self.batch}, must be a multiple of generations ({self.generations})")
        return self


def train_grpo(
    prompts: Sequence[list[Message]],
    reward: Callable[[int, str], float],
    out: Path,
    model: ModelSpec,
    settings: GrpoSettings,
    seed: int,
    parent: Path | None,
) -> dict[str, float]:
    """Train on prompts and save the adapter.

    Args:
        reward: of (number of the prompt, reply).

    Raises:
        AtpError: a loss or gradient that is not finite.
    """
    import importlib.util

    import torch
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    network, tokenizer, lora = load_trainable(model, settings, parent)
    rows = [{"prompt": rendered(tokenizer, model, prompt), "number": n} for n, prompt in enumerate(prompts)]

    def earned(completions: list[str], number: list[int], **others: Any) -> list[float | None]:
        return [reward(one, text) for one, text in zip(number, completions, strict=True)]

    config = GRPOConfig(
        **arguments(settings, out, seed),
        beta=settings.beta,
        loss_type=settings.loss,
        num_generations=settings.generations,
        max_completion_length=model.sampling.max_new_tokens,
        temperature=model.sampling.temperature,
        top_p=model.sampling.top_p,
        top_k=model.sampling.top_k,
        use_vllm=torch.cuda.is_available() and importlib.util.find_spec("vllm") is not None,
        vllm_mode="colocate",
    )
    trainer = GRPOTrainer(
        model=network,
        reward_funcs=earned,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=lora,
    )
    return fit(trainer, out)
