"""What every way of fine-tuning shares: settings, loading, the trainer's arguments, a run that must stay finite.

Knows transformers' Trainer and PEFT; knows neither data nor losses. torch is imported only inside functions.
"""

import json
import logging
import math
import os
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from threading import Event
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from atp.agents import ModelSpec
from atp.errors import AtpError, Interrupted
from atp.progress import Progress
from atp.stopping import until_stopped

log = logging.getLogger("atp")

#: Folder of a run's checkpoints, in that of what it trains; how many a run makes, the last one after its last step.
CHECKPOINTS = "checkpoints"
SAVES = 10
#: Of GRPO's groups of replies to one prompt, the share in which all were paid the same.
EQUAL = "equal_groups"
#: Settings that hold an agent that learns from its rewards to generation 0.
DEFENCES = ("replay", "kl", "shrink", "most_rise")
NO_DEFENCE = "alignment makes generation 0, which this would hold it to; set it where agents learn from their rewards"
#: Those that not every method has, and why.
LACKED = {
    "replay": "grpo draws its own replies, there is nothing to mix examples into",
    "kl": "only sft has it; what holds dpo and grpo to their reference is beta",
}


class TrainerSettings(BaseModel):
    """Settings of every training method."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    tune: Literal["lora", "full"] = Field("lora", description="what is trained: a LoRA adapter, or all weights")
    rank: int = Field(8, ge=1, description="rank of the LoRA matrices")
    alpha: int = Field(16, ge=1, description="scale of the LoRA update, divided by rank")
    learning_rate: float = Field(2e-4, gt=0, description="learning rate of AdamW, at its highest")
    schedule: Literal["constant", "cosine"] = Field("constant", description="how the learning rate goes on")
    warmup: float = Field(0.0, ge=0, lt=1, description="share of the steps over which the learning rate rises")
    epochs: float = Field(1.0, gt=0, description="passes over the data")
    batch: int = Field(8, ge=1, description="sequences a step, over all GPUs")
    device_batch: int | None = Field(
        None, ge=1, description="most sequences that a GPU holds at once, the others of a step in turn; left out: all"
    )
    max_length: int = Field(2048, ge=16, description="longest conversation, in tokens; longer ones are refused")
    validity: float = Field(
        0.9,
        ge=0,
        le=1,
        description="least share of valid replies to held-out prompts afterwards; below it, the stage fails",
    )
    shrink: float = Field(
        0.0, ge=0, lt=1, description="defence: how far the trained weights are moved back to generation 0's"
    )
    most_rise: float | None = Field(
        None,
        ge=0,
        le=1,
        description="defence: most that the share of violations may exceed generation 0's, or training is undone",
    )

    @model_validator(mode="before")
    @classmethod
    def _has_what_is_set(cls, values: Any) -> Any:
        for name, why in LACKED.items():
            if name not in cls.model_fields and isinstance(values, dict) and name in values:
                raise ValueError(f"{name}: {why}")
        return values

    @property
    def defences(self) -> list[str]:
        """Names of the defences that are set."""
        fields = type(self).model_fields
        return [name for name in DEFENCES if name in fields and getattr(self, name) != fields[name].default]

    def held(self, gpus: int) -> int:
        """Sequences that each of several GPUs holds at once. Raises AtpError if a step cannot be shared out evenly."""
        share = max(1, self.batch // gpus)
        held = min(self.device_batch or share, share)
        if self.batch % (held * gpus):
            raise AtpError(
                f"training.batch: {self.batch}, must be a multiple of {held * gpus}: {gpus} GPUs that hold {held} "
                "sequences each"
            )
        return held


class ExampleSettings(TrainerSettings):
    """Settings of the methods that learn from examples."""

    replay: float = Field(
        0.0, ge=0, lt=1, description="defence: share of the examples that are alignment's preference pairs"
    )


@dataclass(frozen=True)
class Loaded:
    """What a trainer takes: a network, its tokenizer, and the LoRA config where a new adapter is to be made."""

    network: Any
    tokenizer: Any
    lora: Any


def load_trainable(model: ModelSpec, settings: TrainerSettings, parent: Path | None) -> Loaded:
    """What a training begins with: the model, or its parent's weights or adapter.

    Weights that are trained themselves are held in float32, as the optimiser needs them.

    Raises:
        AtpError: a folder that holds no model, or no adapter of it; a parent that was trained another way.
    """
    from peft import LoraConfig

    from atp.agents.local import attention, is_whole, load_model, load_tokenizer, weights_of, with_adapter

    parent = weights_of(parent)
    kernel = attention(model)  # first: it complains of an absent GPU before anything is loaded
    tokenizer = load_tokenizer(model)
    if parent is not None and is_whole(parent) != (settings.tune == "full"):
        held = "all weights" if is_whole(parent) else "a LoRA adapter"
        raise AtpError(f"{parent}: holds {held}, training.tune is '{settings.tune}': go on as it was begun")
    if settings.tune == "full":
        whole = {"path": str(parent)} if parent else {}
        full = load_model(model.model_copy(update={**whole, "dtype": "float32"}), kernel)
        return Loaded(full, tokenizer, None)
    network = load_model(model, kernel)
    if parent is None:
        lora = LoraConfig(
            r=settings.rank, lora_alpha=settings.alpha, target_modules="all-linear", task_type="CAUSAL_LM"
        )
        return Loaded(network, tokenizer, lora)
    adapted = with_adapter(network, parent, trainable=True)
    found: Any = adapted.peft_config["default"]
    for name, wanted, held in (("rank", settings.rank, found.r), ("alpha", settings.alpha, found.lora_alpha)):
        if wanted != held:
            raise AtpError(f"{parent}: its adapter has {name} {held}, training.{name} is {wanted}: they must be equal")
    return Loaded(adapted, tokenizer, None)


def arguments(model: ModelSpec, settings: TrainerSettings, out: Path, seed: int) -> dict[str, Any]:
    """Arguments that all trainers take. TRL turns bfloat16 and gradient checkpointing on by itself, on CPU too.

    Raises:
        AtpError: a step that cannot be shared out evenly.
    """
    from atp.agents.local import on_gpu

    gpu = on_gpu(model)
    source = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    held = settings.held(processes)
    return {
        "output_dir": str(out / CHECKPOINTS),
        "per_device_train_batch_size": held,
        "gradient_accumulation_steps": settings.batch // (held * processes),
        "num_train_epochs": settings.epochs,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": settings.schedule,
        "warmup_steps": settings.warmup,
        "bf16": gpu,
        "use_cpu": not gpu,
        "gradient_checkpointing": gpu,
        "save_strategy": "steps",
        "save_steps": 1 / SAVES,
        "save_total_limit": 1,
        "report_to": "none",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "seed": seed,
        "data_seed": seed,
        "disable_tqdm": True,
        # TRL loads the reference of a model that is trained whole by itself; with LoRA it needs none of its own.
        "model_init_kwargs": source if settings.tune == "full" else None,
    }


def fit(trainer: Any, tokenizer: Any, out: Path, label: str) -> dict[str, float]:
    """Run a trainer, from its last whole checkpoint if there is one, and save in `out` an adapter or a whole model.

    Returns:
        loss: the mean over the steps; steps, and how many of them earlier starts had made; tokens: of prompts and
        replies, with padding left out; processes; and of GRPO equal_groups.

    Raises:
        AtpError: a loss or gradient that is not finite.
        Interrupted: it was asked to stop, and has written a checkpoint.
    """
    from peft import PeftModel
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    with until_stopped() as stopped:
        watch = _watch(label, stopped)
        trainer.add_callback(watch)
        trainer.train(resume_from_checkpoint=_newest(out / CHECKPOINTS))
    steps, wanted = trainer.state.global_step, trainer.state.max_steps
    if watch.stops and steps < wanted:
        raise Interrupted(f"{label}: stopped after {steps} of {wanted} steps; a rerun goes on there")
    network = trainer.accelerator.unwrap_model(trainer.model)
    if isinstance(network, PeftModel):  # TRL puts a copy named "ref" beside an adapter that goes on
        if trainer.accelerator.is_main_process:
            network.save_pretrained(str(out), selected_adapters=["default"])
    else:
        trainer.save_model(str(out))
        if trainer.accelerator.is_main_process:
            tokenizer.save_pretrained(out)
            (out / "training_args.bin").unlink(missing_ok=True)  # a pickle
    trainer.accelerator.wait_for_everyone()
    logged = [each for each in trainer.state.log_history if "loss" in each]
    equal = [float(each["frac_reward_zero_std"]) for each in logged if "frac_reward_zero_std" in each]
    return {
        "loss": fmean(float(each["loss"]) for each in logged),
        "steps": float(steps),
        "resumed_steps": float(watch.resumed),
        "tokens": float(trainer.state.num_input_tokens_seen),
        "processes": float(trainer.accelerator.num_processes),
        **({EQUAL: fmean(equal)} if equal else {}),
    }


def _newest(checkpoints: Path) -> str | None:
    """The last checkpoint that is whole: the trainer's state is the last file that is written."""
    by_step = sorted(checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]), reverse=True)
    for path in by_step:
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return str(path)
    return None


def _watch(label: str, stopped: Event) -> Any:
    """A callback that says how far the training is, and ends it where it has left what is finite, or is `stopped`."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        stops = False

        def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            self.resumed = state.global_step
            self.progress = Progress(label, state.max_steps, "steps", skipped=state.global_step)

        def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            self.stops = _any(stopped.is_set(), args)
            if self.stops:
                control.should_save = control.should_training_stop = True

        def on_log(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            logs = others["logs"]
            log.debug("%s: %s", label, logs)
            for name in ("loss", "grad_norm"):
                if not math.isfinite(float(logs.get(name, 0.0))):
                    raise AtpError(
                        f"training: {name} is {logs[name]} at step {state.global_step}; lower training.learning_rate"
                    )
            if "loss" in logs:
                self.progress.note = f"loss {float(logs['loss']):.4f}"
                if state.is_world_process_zero:
                    self.progress.advance(1, last=state.global_step == state.max_steps)

    return Watch()


def _any(said: bool, arguments: Any) -> bool:
    """Whether one of the processes that train together says so: all have to write their parts of a checkpoint."""
    if arguments.world_size == 1:
        return said
    import torch

    flag = torch.tensor(float(said), device=arguments.device)
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
    return bool(flag.item())


def check_length(tokenizer: Any, text: str, settings: TrainerSettings, what: str, more: int = 0) -> None:
    """Raises AtpError if a text, with `more` tokens after it, is longer than the settings allow."""
    length = len(tokenizer(text, add_special_tokens=False).input_ids) + more
    if length > settings.max_length:
        raise AtpError(f"{what} has {length} tokens, training.max_length allows {settings.max_length}")
