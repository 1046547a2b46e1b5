"""What every way of fine-tuning a LoRA adapter shares: settings, loading, the trainer's arguments, a whole adapter.

Knows transformers' Trainer and PEFT; knows neither data nor losses. torch is imported only inside functions.
"""

import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from atp.agents import ModelSpec
from atp.artifacts import write_text
from atp.errors import AtpError
from atp.provenance import Stage


class LoraSettings(BaseModel):
    """Settings of every training method."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(8, ge=1, description="rank of the LoRA matrices")
    alpha: int = Field(16, ge=1, description="scale of the LoRA update, divided by rank")
    learning_rate: float = Field(2e-4, gt=0, description="learning rate of AdamW, at its highest")
    schedule: Literal["constant", "cosine"] = Field("constant", description="how the learning rate goes on")
    warmup: float = Field(0.0, ge=0, lt=1, description="share of the steps over which the learning rate rises")
    epochs: float = Field(1.0, gt=0, description="passes over the data")
    batch: int = Field(8, ge=1, description="sequences a step")
    max_length: int = Field(2048, ge=16, description="longest conversation, in tokens; longer ones are refused")


def load_trainable(model: ModelSpec, settings: LoraSettings, parent: Path | None) -> tuple[Any, Any, Any]:
    """(network, tokenizer, LoRA config for a new adapter, or None where the network has the parent's).

    Raises:
        AtpError: a folder that holds no model, or no adapter of it.
    """
    from peft import LoraConfig, PeftModel

    from atp.agents.local import load_model, load_tokenizer

    tokenizer, network = load_tokenizer(model), load_model(model)
    if parent is not None:
        return PeftModel.from_pretrained(network, str(parent), is_trainable=True), tokenizer, None
    lora = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    return network, tokenizer, lora


def arguments(settings: LoraSettings, out: Path, seed: int) -> dict[str, Any]:
    """Arguments that all trainers take. TRL turns bfloat16 and gradient checkpointing on by itself, on CPU too."""
    import torch

    gpu = torch.cuda.is_available()
    return {
        "output_dir": str(out / "trainer"),
        "per_device_train_batch_size": settings.batch,
        "num_train_epochs": settings.epochs,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": settings.schedule,
        "warmup_steps": settings.warmup,
        "bf16": gpu,
        "use_cpu": not gpu,
        "gradient_checkpointing": gpu,
        "save_strategy": "no",
        "report_to": "none",
        "logging_steps": 1,
        "seed": seed,
        "data_seed": seed,
        "disable_tqdm": True,
    }


def fit(trainer: Any, out: Path) -> dict[str, float]:
    """Run a trainer and save its adapter in `out`; returns the mean loss, steps and tokens seen.

    Raises:
        AtpError: a loss or gradient that is not finite.
    """
    result = trainer.train()
    for logged in trainer.state.log_history:
        for name in ("loss", "grad_norm"):
            if not math.isfinite(float(logged.get(name, 0.0))):
                raise AtpError(
                    f"training: {name} is {logged[name]} at step {logged.get('step')}; lower training.learning_rate"
                )
    trainer.model.save_pretrained(out)
    shutil.rmtree(out / "trainer", ignore_errors=True)
    seen = float(trainer.state.num_input_tokens_seen or 0)
    return {"loss": float(result.training_loss), "steps": float(result.global_step), "tokens": seen}


def make_adapter(out: Path, stage: Stage, work: Callable[[Path], dict[str, float]], **counts: float) -> None:
    """Let `work` fill a folder, add lineage.json with what it measured, and move it to `out`: whole or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        temporary = Path(folder) / "adapter"
        measured = work(temporary)
        write_text(stage.provenance(**measured, **counts).to_json(), temporary / "lineage.json")
        if out.exists():
            shutil.rmtree(out)
        temporary.rename(out)


def rendered(tokenizer: Any, model: ModelSpec, prompt: Sequence[dict[str, str]]) -> str:
    """A prompt as the agent sees it, so that training and play render alike."""
    text: str = tokenizer.apply_chat_template(
        list(prompt), tokenize=False, add_generation_prompt=True, **model.chat_template
    )
    return text


def check_length(tokenizer: Any, text: str, settings: LoraSettings, what: str) -> None:
    """Raises AtpError if a text has more tokens than the settings allow."""
    length = len(tokenizer(text, add_special_tokens=False).input_ids)
    if length > settings.max_length:
        raise AtpError(f"{what} has {length} tokens, training.max_length allows {settings.max_length}")
