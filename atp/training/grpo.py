"""Group relative policy optimisation (Shao and others 2024), by TRL. Knows prompts and rewards, not games."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from atp.agents import ModelSpec
from atp.agents.template import rendered
from atp.errors import AtpError
from atp.testbeds.base import Message
from atp.training.trainer import Loaded, TrainerSettings, arguments, check_length


class GrpoSettings(TrainerSettings):
    """Settings of GRPO."""

    method: Literal["grpo"] = "grpo"
    # TRL's default is 0, no pull towards the reference; the paper trained with 0.04.
    beta: float = Field(0.04, ge=0, description="weight of the divergence from the reference")
    generations: int = Field(8, ge=2, description="replies drawn to each prompt")
    max_completion: int | None = Field(
        None, ge=1, description="longest reply drawn, in tokens; left out: the model's max_new_tokens"
    )
    vllm: bool = Field(True, description="draw replies with vLLM, on a GPU and where it is installed")
    # TRL's default is dapo; "grpo" is the published loss, each reply's tokens averaged first.
    loss: Literal["grpo", "dapo", "dr_grpo", "bnpo"] = Field("grpo", description="how tokens' losses are summed")

    @model_validator(mode="after")
    def _whole_groups(self) -> "GrpoSettings":
        if self.batch % self.generations:
            raise ValueError(f"batch is {self.batch}, must be a multiple of generations ({self.generations})")
        return self


def grpo_trainer(
    prompts: Sequence[list[Message]],
    reward: Callable[[int, str], float],
    loaded: Loaded,
    out: Path,
    model: ModelSpec,
    settings: GrpoSettings,
    seed: int,
) -> Any:
    """A trainer on prompts; its checkpoints go into `out`.

    Args:
        reward: of (number of the prompt, reply).

    Raises:
        AtpError: a model that is sampled at temperature 0; a prompt that leaves no room for the longest reply within
            max_length.
    """
    import importlib.util

    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from atp.agents.local import on_gpu

    tokenizer = loaded.tokenizer
    if model.sampling.temperature == 0:
        raise AtpError("GRPO learns from replies that differ: sampling.temperature of the model is 0, must be above it")
    texts = [rendered(tokenizer, model, prompt) for prompt in prompts]
    longest = settings.max_completion or model.sampling.max_new_tokens
    for number, text in enumerate(texts):
        check_length(tokenizer, text, settings, f"prompt {number} with a reply of {longest} tokens", longest)

    def earned(completions: list[str], number: list[int], **others: Any) -> list[float | None]:
        return [reward(one, text) for one, text in zip(number, completions, strict=True)]

    config = GRPOConfig(
        **arguments(model, settings, out, seed),
        beta=settings.beta,
        loss_type=settings.loss,
        num_generations=settings.generations,
        max_completion_length=longest,
        temperature=model.sampling.temperature,
        top_p=model.sampling.top_p,
        top_k=model.sampling.top_k,
        use_vllm=settings.vllm and on_gpu(model) and importlib.util.find_spec("vllm") is not None,
        vllm_mode="colocate",
        vllm_max_model_length=settings.max_length,  # else room for the model's longest context is set aside
    )
    return GRPOTrainer(
        model=loaded.network,
        reward_funcs=earned,
        args=config,
        train_dataset=Dataset.from_dict(
            {"prompt": [_begun(tokenizer, text) for text in texts], "number": list(range(len(texts)))}
        ),
        processing_class=tokenizer,
        peft_config=loaded.lora,
    )


def _begun(tokenizer: Any, text: str) -> str:
    """A rendered prompt as TRL takes it: TRL splits it with special tokens added, so the template's own beginning is
    left out where the tokenizer begins every text with the same.
    """
    first: str | None = tokenizer.bos_token
    if first and text.startswith(first) and tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]:
        return text.removeprefix(first)
    return text
