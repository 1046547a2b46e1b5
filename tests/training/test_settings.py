"""Settings of training methods: TRL's and PEFT's names, further fields of TRL's config, old and unknown names."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from atp.errors import AtpError
from atp.explain import RENAMED, explain
from atp.models.spec import ModelSpec
from atp.training import DpoSettings, GrpoSettings, SftSettings, TrainingSettings
from atp.training.channel import WeightsChannel
from atp.training.grpo import vllm_fields
from atp.training.trainer import TrainerSettings, create_config
from atp.training.trl_fields import CONFIGS, config_fields

MODEL = ModelSpec(path="resources/organism/role_play", device="cpu")
#: Renamed keys of other settings than the training's.
ELSEWHERE = ("arms", "arm", "yardsticks", "memory_of", "environment")


def config(settings: TrainerSettings, folder: Path, **method_fields: Any) -> Any:
    import trl

    kind = getattr(trl, CONFIGS[settings.method])  # type: ignore[attr-defined]
    return create_config(kind, MODEL, settings, folder, 3, **method_fields)


def refused(kind: Any, **values: Any) -> str:
    with pytest.raises(ValidationError) as error:
        kind.model_validate(values)
    return explain(error.value, kind)


@pytest.mark.parametrize("old", [name for name in RENAMED if name not in ELSEWHERE])
def test_an_old_key_is_refused_with_its_new_name(old):
    kind = SftSettings if old in ("replay", "shrink", "most_rise") else GrpoSettings
    assert RENAMED[old] in kind.model_fields
    assert refused(kind, **{old: 1}) == f"{old}: unknown key, it is called {RENAMED[old]} now"


def test_a_name_that_is_known_elsewhere_is_not_called_renamed():
    training = {"method": "sft"}
    channel = {"filter": {"name": "best_of_n"}, "training": training}
    assert WeightsChannel.model_validate(channel | {"generations": 2}).generations == 2
    assert refused(WeightsChannel, **channel, batch=8).startswith("batch: unknown key, allowed are conditions, deploy")
    wrong = refused(WeightsChannel, **channel | {"training": training | {"rank": 8}})
    assert wrong == "training.rank: unknown key, it is called lora_r now"


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (
            SftSettings,
            {"rnak": 8},
            "rnak: unknown key, allowed are gradient_accumulation_steps, inoculation, interpolate, kl, ",
        ),
        (SftSettings, {"epsilon": 0.2}, ", warmup_ratio, and the fields of trl.SFTConfig"),
        (SftSettings, {"seed": 1}, "seed: is set by atp, leave it out"),
        (DpoSettings, {"save_steps": 10}, "save_steps: is set by atp"),
        (GrpoSettings, {"temperature": 0.5}, "temperature: is set by atp"),
        (SftSettings, {"adam_epsilon": "small"}, "adam_epsilon: must be a number, found 'small'"),
        (SftSettings, {"weight_decay": float("nan")}, "weight_decay: must be a finite number, "),
        (SftSettings, {"optim_args": Path("x")}, "optim_args: must be a finite number, text, "),
        (GrpoSettings, {"rehearsal": 0.5}, "rehearsal: grpo generates its own replies"),
        (DpoSettings, {"kl": 0.5}, "kl: only sft has it"),
        (SftSettings, {"kl": 0.5, "packing": True}, "packing: cannot be combined with kl"),
        (SftSettings, {"kl": 0.5, "use_peft": False}, "kl: needs use_peft: true"),
        (SftSettings, {"warmup_ratio": 0.1}, "warmup_ratio: lr_scheduler_type 'constant' ignores warmup"),
        (SftSettings, {"lr_scheduler_type": "reduce_lr_on_plateau"}, "lr_scheduler_type: "),
    ],
)
def test_what_cannot_be_set_is_refused_by_name(kind, values, message):
    assert message in refused(kind, **values)


def test_further_fields_are_recorded_and_change_with_conditions():
    values = {"method": "sft", "weight_decay": 0.1, "adam_epsilon": "1e-6", "lr_scheduler_kwargs": {"num_cycles": 1}}
    channel = WeightsChannel.model_validate({"filter": {"name": "best_of_n"}, "training": values})
    dumped = channel.training.model_dump()
    assert (dumped["weight_decay"], dumped["adam_epsilon"]) == (0.1, 1e-6)
    changed = channel.changed_by({"training": {"weight_decay": 0.2}}).training
    assert changed.further == {"weight_decay": 0.2, "adam_epsilon": 1e-6, "lr_scheduler_kwargs": {"num_cycles": 1}}
    adapter: TypeAdapter[Any] = TypeAdapter(TrainingSettings)
    assert adapter.validate_json(adapter.dump_json(changed)) == adapter.validate_python(changed.model_dump()) == changed


def test_groups_of_replies_are_whole():
    half = GrpoSettings(per_device_train_batch_size=4, num_generations=8)
    half.check_processes(2)
    GrpoSettings(per_device_train_batch_size=4, steps_per_generation=2, num_generations=8).check_processes(1)
    with pytest.raises(AtpError, match=r"4 replies at once .* x 1 GPUs\) must be a multiple of num_generations, 8"):
        half.check_processes(1)


@pytest.mark.parametrize("method", CONFIGS)
def test_fields_are_those_of_trl(method):
    import dataclasses

    import trl

    fields = {field.name for field in dataclasses.fields(getattr(trl, CONFIGS[method])) if field.init}
    assert set(config_fields(method)) == fields


def test_settings_reach_trls_config(tmp_path):
    settings = SftSettings(
        learning_rate=1e-4,
        lr_scheduler_type="cosine",
        warmup_ratio=0.25,
        gradient_accumulation_steps=2,
        weight_decay=0.1,
        adam_epsilon="1e-6",
    )
    made = config(settings, tmp_path)
    assert (made.per_device_train_batch_size, made.gradient_accumulation_steps, made.num_train_epochs) == (8, 2, 1.0)
    assert (made.learning_rate, made.weight_decay, made.adam_epsilon, made.seed) == (1e-4, 0.1, 1e-6, 3)
    assert made.get_warmup_steps(40) == 10
    assert config(settings.model_copy(update={"warmup_steps": 7}), tmp_path).get_warmup_steps(40) == 7
    assert config(DpoSettings(loss_type="hinge", label_smoothing=0.1), tmp_path).loss_type == ["hinge"]


def test_vllm_that_samples_for_grpo_reaches_trls_config(tmp_path):
    settings = GrpoSettings(max_length=512, vllm_gpu_memory_utilization=0.5)
    made = config(settings, tmp_path, **vllm_fields(settings, {7, 2}))
    assert (made.use_vllm, made.vllm_mode, made.vllm_enable_sleep_mode) == (True, "colocate", True)
    assert (made.vllm_max_model_length, made.vllm_gpu_memory_utilization) == (512, 0.5)
    assert made.generation_kwargs == {"stop_token_ids": [2, 7]}
    assert not config(settings, tmp_path).use_vllm
    message = "use_vllm: set engine in the model's file, vllm or transformers"
    assert refused(GrpoSettings, use_vllm=True).startswith(message)


def test_what_trl_rejects_is_one_line(tmp_path):
    with pytest.raises(AtpError, match=r"^training: trl\.SFTConfig rejects the settings: .*adamw_fast") as error:
        config(SftSettings(optim="adamw_fast"), tmp_path)
    assert "\n" not in str(error.value)
