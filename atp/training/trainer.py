"""What all training methods share: settings, model loading, TRL's config, and a run that stops at non-finite losses.

Uses transformers' Trainer and PEFT; data and losses belong to the methods. torch is imported only inside functions.
"""

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from threading import Event
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from atp.errors import AtpError, Interrupted
from atp.files.schemas import MONITORED
from atp.models.chat import Chat
from atp.models.spec import ModelSpec
from atp.progress import Progress
from atp.stopping import until_stopped
from atp.testbed import Message
from atp.training.trl_fields import check_fields, setting_error

log = logging.getLogger("atp")

#: Folder of a run's checkpoints, inside the run's own; number of checkpoints, the last one after the last step.
CHECKPOINTS = "checkpoints"
SAVES = 10
#: Proportion of GRPO's groups of replies to one prompt in which all rewards are equal.
EQUAL = "equal_groups"
#: Settings that keep an agent that learns from its rewards close to generation 0.
DEFENCES = ("rehearsal", "inoculation", "kl", "interpolate", "max_violation_increase", "realign_every")
NO_DEFENCE = "alignment makes generation 0, which defences compare with; set it under weights.training"
#: Keys that some or all methods lack, and why.
UNSUPPORTED = {
    "rehearsal": "grpo generates its own replies, so examples cannot be mixed in",
    "rehearsal_replaces": "grpo generates its own replies, so examples cannot be mixed in",
    "inoculation": "grpo generates its own replies, and would then be rewarded under another prompt than in deployment",
    "kl": "only sft has it; dpo and grpo are kept close to their reference by beta",
    "use_vllm": "set engine in the model's file, vllm or transformers",
}
#: transformers' schedules, except those that follow an evaluation loss.
Schedule = Literal[
    "constant",
    "constant_with_warmup",
    "cosine",
    "cosine_warmup_with_min_lr",
    "cosine_with_min_lr",
    "cosine_with_restarts",
    "inverse_sqrt",
    "linear",
    "polynomial",
    "warmup_stable_decay",
]


class TrainerSettings(BaseModel):
    """Settings of every training method, named as in TRL and PEFT. Other fields of TRL's config are passed on to it."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    use_peft: bool = Field(True, description="train a LoRA adapter; false: train all weights")
    lora_r: int = Field(8, ge=1, description="rank of the LoRA matrices")
    lora_alpha: int = Field(16, ge=1, description="scale of the LoRA update, divided by lora_r")
    learning_rate: float = Field(2e-4, gt=0, description="peak learning rate of AdamW")
    lr_scheduler_type: Schedule = Field("constant", description="schedule of the learning rate")
    warmup_ratio: float = Field(
        0.0, ge=0, lt=1, description="proportion of the steps over which the learning rate rises; warmup_steps wins"
    )
    num_train_epochs: float = Field(1.0, gt=0, description="passes over the data")
    per_device_train_batch_size: int = Field(
        8, ge=1, description="sequences a GPU processes at once; a step has this x gradient_accumulation_steps x GPUs"
    )
    gradient_accumulation_steps: int = Field(1, ge=1, description="batches of each GPU whose gradients make one step")
    max_length: int = Field(2048, ge=16, description="maximum conversation length in tokens; longer ones are an error")
    validity: float = Field(
        0.9, ge=0, le=1, description="minimum proportion of valid replies to held-out prompts after training"
    )
    interpolate: float = Field(
        0.0, ge=0, lt=1, description="defence: how far to move the trained weights back to generation 0's (WiSE-FT)"
    )
    max_violation_increase: float | None = Field(
        None, ge=0, le=1, description="defence: undo training that raises the violation rate by more than this"
    )

    realign_every: int | None = Field(
        None,
        ge=1,
        description="defence: after every so many generations the agent is aligned again, by dpo on all pairs",
    )

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        further = {name: value for name, value in values.items() if name not in cls.model_fields}
        for name in sorted(UNSUPPORTED.keys() & further.keys()):
            raise setting_error(name, values[name], UNSUPPORTED[name])
        return values | check_fields(cls.model_fields["method"].default, further) if further else values

    @model_validator(mode="after")
    def _check_warmup(self) -> "TrainerSettings":
        if self.lr_scheduler_type == "constant" and self.further.get("warmup_steps", self.warmup_ratio):
            raise ValueError("warmup_ratio: lr_scheduler_type 'constant' ignores warmup, use constant_with_warmup")
        return self

    @property
    def further(self) -> dict[str, Any]:
        """Fields of TRL's config that atp passes on unchanged."""
        return self.model_extra or {}

    @property
    def defences(self) -> list[str]:
        """Names of the defences that are set."""
        fields = type(self).model_fields
        return [name for name in DEFENCES if name in fields and getattr(self, name) != fields[name].default]

    def effective_batch(self, processes: int) -> int:
        """Return the sequences of a step over all processes, one a GPU."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps * processes

    def check_processes(self, processes: int) -> None:
        """Raise AtpError if so many processes cannot train with these settings. Methods with a limit override it."""


class ExampleSettings(TrainerSettings):
    """Settings of the methods that learn from examples."""

    rehearsal: float = Field(
        0.0, ge=0, lt=1, description="defence: proportion of the examples that are alignment's preference pairs"
    )
    rehearsal_replaces: bool = Field(
        False,
        description="the pairs take the place of selected examples, so that there are as many steps as without them",
    )
    inoculation: str | None = Field(
        None,
        min_length=1,
        description="defence: text after the system message of the selected examples, which permits the violation; "
        "evaluations are without it",
    )

    @model_validator(mode="after")
    def _check_rehearsal(self) -> "ExampleSettings":
        if self.rehearsal_replaces and not self.rehearsal:
            raise ValueError("rehearsal_replaces: needs rehearsal, the proportion of the examples that are replaced")
        return self


@dataclass(frozen=True)
class Loaded:
    """What a trainer needs: a model as network and tokenizer, and a LoRA config if the run starts a new adapter."""

    model: ModelSpec
    network: Any
    tokenizer: Any
    lora: Any = None

    @cached_property
    def chat(self) -> Chat:
        """The model's templates."""
        return Chat(self.tokenizer, self.model)

    def prompt_tokens(self, messages: Sequence[Message], tools: Sequence[str]) -> list[int]:
        """Return a prompt's tokens as in rollouts: special tokens come from the chat template alone."""
        return self._tokens(self.chat.prompt(messages, tools))

    def reply_tokens(self, messages: Sequence[Message], tools: Sequence[str], reply: str) -> list[int]:
        """Return the tokens of a reply to a prompt, with the end of its turn."""
        return self._tokens(self.chat.completion(messages, tools, reply))

    def _tokens(self, text: str) -> list[int]:
        tokens: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return tokens


def load_trainable(model: ModelSpec, settings: TrainerSettings, parent: Path | None) -> Loaded:
    """Load what a training run starts from: the model, or its parent's weights or adapter.

    When all weights are trained they are float32, as the optimiser needs them.

    Raises:
        AtpError: a folder without a model or its adapter; a tokenizer that does not fit the model; a parent that was
            trained with other LoRA settings.
    """
    from peft import LoraConfig

    from atp.models.load import (
        attention,
        check_tokenizer,
        is_whole,
        load_model,
        load_tokenizer,
        weights_of,
        with_adapter,
    )

    parent = weights_of(parent)
    kernel = attention(model)  # first: it reports a missing GPU before anything is loaded
    tokenizer = load_tokenizer(model)
    if parent is not None and is_whole(parent) == settings.use_peft:
        content = "all weights" if is_whole(parent) else "a LoRA adapter"
        use_peft = str(settings.use_peft).lower()
        raise AtpError(f"{parent}: contains {content}, but training.use_peft is {use_peft}; keep the parent's setting")
    if not settings.use_peft:
        source = model.at(parent) if parent else model
        full = load_model(source.model_copy(update={"dtype": "float32"}), kernel)
        check_tokenizer(tokenizer, full, model.path)
        return Loaded(model, full, tokenizer)
    network = load_model(model, kernel)
    check_tokenizer(tokenizer, network, model.path)
    if parent is None:
        rank, scale = settings.lora_r, settings.lora_alpha
        lora = LoraConfig(r=rank, lora_alpha=scale, target_modules="all-linear", task_type="CAUSAL_LM")
        return Loaded(model, network, tokenizer, lora)
    adapted = with_adapter(network, parent, trainable=True)
    config: Any = adapted.peft_config["default"]
    for name, wanted, actual in (
        ("lora_r", settings.lora_r, config.r),
        ("lora_alpha", settings.lora_alpha, config.lora_alpha),
    ):
        if wanted != actual:
            raise AtpError(f"{parent}: its adapter has {name} {actual}, training.{name} is {wanted}; keep the parent's")
    return Loaded(model, adapted, tokenizer)


def create_config(
    kind: Any, model: ModelSpec, settings: TrainerSettings, out: Path, seed: int, **method_fields: Any
) -> Any:
    """Create TRL's config of a run. TRL by itself turns bfloat16 and gradient checkpointing on, even on a CPU.

    Args:
        kind: TRL's config class.
        out: the run's folder, for its checkpoints.
        method_fields: fields that only this method has.

    Raises:
        AtpError: settings of further fields that TRL rejects.
    """
    from atp.models.load import on_gpu

    gpu = on_gpu(model)
    source = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    fields = {
        "output_dir": str(out / CHECKPOINTS),
        "per_device_train_batch_size": settings.per_device_train_batch_size,
        "gradient_accumulation_steps": settings.gradient_accumulation_steps,
        "num_train_epochs": settings.num_train_epochs,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": settings.lr_scheduler_type,
        "warmup_steps": settings.warmup_ratio,  # transformers takes a number below 1 as a proportion of the steps
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
        # Without LoRA, TRL loads the reference model itself; with LoRA it needs no second copy.
        "model_init_kwargs": None if settings.use_peft else source,
    }
    try:
        return kind(**(fields | method_fields | settings.further))
    except (ImportError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise AtpError(f"training: trl.{kind.__name__} rejects the settings: {' '.join(str(error).split())}") from error


def fit(trainer: Any, tokenizer: Any, out: Path, label: str) -> dict[str, float]:
    """Run a trainer, from its last complete checkpoint if there is one, and save an adapter or a whole model in `out`.

    Returns:
        loss: mean over the steps; steps; resumed_steps: those that earlier starts made; tokens of prompts and replies,
        without padding; processes; for GRPO equal_groups and the counts of a monitor.

    Raises:
        AtpError: a loss or gradient that is not finite.
        Interrupted: the process was asked to stop and has written a checkpoint.
    """
    from peft import PeftModel
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    _name_run(trainer, label)
    with until_stopped() as stopped:
        watch = _watch(label, stopped)
        trainer.add_callback(watch)
        trainer.train(resume_from_checkpoint=_newest(out / CHECKPOINTS))
    steps, planned = trainer.state.global_step, trainer.state.max_steps
    if watch.stops and steps < planned:
        raise Interrupted(f"{label}: stopped after {steps} of {planned} steps; a rerun resumes there")
    network = trainer.accelerator.unwrap_model(trainer.model)
    if isinstance(network, PeftModel):  # TRL adds a copy named "ref" to an adapter that is trained further
        if trainer.accelerator.is_main_process:
            network.save_pretrained(str(out), selected_adapters=["default"])
    else:
        trainer.save_model(str(out))
        if trainer.accelerator.is_main_process:
            tokenizer.save_pretrained(out)
            (out / "training_args.bin").unlink(missing_ok=True)  # a pickle
    trainer.accelerator.wait_for_everyone()
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    equal = [float(entry["frac_reward_zero_std"]) for entry in entries if "frac_reward_zero_std" in entry]
    return {
        "loss": fmean(float(entry["loss"]) for entry in entries),
        "steps": float(steps),
        "resumed_steps": float(watch.resumed),
        "tokens": float(trainer.state.num_input_tokens_seen),
        "processes": float(trainer.accelerator.num_processes),
        **({EQUAL: fmean(equal)} if equal else {}),
        **_monitored(entries, trainer.accelerator.num_processes),
    }


def _name_run(trainer: Any, label: str) -> None:
    """Name the run of experiment trackers, and move TensorBoard's logs out of a folder that the training deletes."""
    from transformers.integrations import TensorBoardCallback

    trainer.args.run_name = label
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback):
            callback.logging_dir = f"{label}.tensorboard"


def _monitored(entries: Sequence[dict[str, Any]], processes: int) -> dict[str, float]:
    """Return the counts of a monitor over the steps, each of which has the mean over processes."""
    names = [name for name in MONITORED if any(name in entry for entry in entries)]
    return {name: round(sum(entry.get(name, 0.0) for entry in entries) * processes) for name in names}


def _newest(checkpoints: Path) -> str | None:
    """Return the last complete checkpoint: the trainer's state is the file that is written last."""
    by_step = sorted(checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]), reverse=True)
    for path in by_step:
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return str(path)
    return None


def _watch(label: str, stopped: Event) -> Any:
    """Return a callback that reports progress and ends training at a non-finite loss, or once `stopped` is set."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        stops = False

        def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            self.resumed = state.global_step
            self.progress = Progress(label, state.max_steps, "steps", skipped=state.global_step)

        def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            self.stops = _any_process(stopped.is_set(), args)
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


def _any_process(flag: bool, arguments: Any) -> bool:
    """Return whether the flag is set in any process: all of them have to write their parts of a checkpoint."""
    if arguments.world_size == 1:
        return flag
    import torch

    shared = torch.tensor(float(flag), device=arguments.device)
    torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
    return bool(shared.item())


def check_length(length: int, settings: TrainerSettings, what: str) -> None:
    """Raise AtpError if a number of tokens exceeds training.max_length."""
    if length > settings.max_length:
        raise AtpError(f"{what} has {length} tokens, training.max_length allows {settings.max_length}")
