"""Fields of TRL's config classes, which a study may set under TRL's own names.

Importing TRL takes 20 s, so the fields are read from the syntax trees of its source files.
"""

import ast
import importlib.util
import math
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

#: Method -> TRL's config class.
CONFIGS = {"sft": "SFTConfig", "dpo": "DPOConfig", "grpo": "GRPOConfig"}
#: Package and path of the source files of a config class and its base classes, the subclass first.
SOURCES = (
    ("trl", "trainer/{method}_config.py"),
    ("trl", "trainer/base_config.py"),
    ("transformers", "training_args.py"),
)
#: Experiment trackers that `report_to` may name.
TRACKERS = ("wandb", "mlflow", "trackio", "tensorboard")
#: Patterns of fields that atp sets: checkpoints, seeds, logs, hardware, data columns, and the model file's sampling.
SET_BY_ATP = (
    "output_dir *seed use_cpu local_rank fsdp* deepspeed ds3_* parallelism_config model_init_kwargs trust_remote_code "
    "save_* enable_jit_checkpoint resume_from_checkpoint restore_callback* ignore_data_skip push_to_hub* hub_* "
    "run_name log* num_completions_to_print disable_tqdm include_* do_* *eval* load_best* "
    "metric_for* greater_* prediction_loss_only dataset_text_field dataset_kwargs remove_unused_columns label_names "
    "length_column_name completion_only_loss assistant_only_loss chat_template* eos_token pad_token temperature top_p "
    "top_k min_p repetition_penalty generation_kwargs"
).split()


@cache
def config_fields(method: str) -> dict[str, str]:
    """Return the fields of a method's TRL config, base classes included: name -> annotation."""
    classes, fields = {CONFIGS[method], "_BaseConfig", "TrainingArguments"}, dict[str, str]()
    for package, path in SOURCES:
        spec = importlib.util.find_spec(package)
        for folder in (spec and spec.submodule_search_locations) or ():
            tree = ast.parse((Path(folder) / path.format(method=method)).read_text(encoding="utf-8"))
            for node in (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name in classes):
                for field in node.body:
                    if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                        fields.setdefault(field.target.id, ast.unparse(field.annotation))
    return fields


def check_fields(method: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Check settings that are passed on to TRL's config.

    Args:
        method: sft, dpo or grpo.
        values: field -> value, as read from YAML.

    Returns:
        The settings. A number that YAML reads as text, such as 1e-8, is a number.

    Raises:
        ValidationError: at the key of a field that TRL lacks or atp sets, or of a value that JSON cannot hold.
    """
    checked = {}
    for name, value in values.items():
        annotation = config_fields(method).get(name)
        if annotation is None:
            others = f"the fields of trl.{CONFIGS[method]}"
            raise setting_error(name, value, "unknown key", "extra_forbidden", others=others)
        if any(fnmatchcase(name, pattern) for pattern in SET_BY_ATP):
            raise setting_error(name, value, "is set by atp, leave it out")
        if name == "report_to":
            _check_trackers(value)
        checked[name] = _number(name, value, set(re.findall(r"\w+", annotation)))
        if not _is_plain(checked[name]):
            message = "must be a finite number, text, true, false, null, or lists and mappings of these"
            raise setting_error(name, value, message, "plain")
    return checked


def _check_trackers(value: Any) -> None:
    """Raise ValidationError for a tracker that is unknown or not installed."""
    for tracker in value if isinstance(value, list) else [value]:
        if tracker not in TRACKERS:
            raise setting_error("report_to", value, f"must be one or several of {', '.join(TRACKERS)}")
        if importlib.util.find_spec(tracker) is None:
            raise setting_error("report_to", value, f"{tracker} is not installed; install it: pip install {tracker}")


def setting_error(name: str, value: Any, message: str, kind: str = "value_error", **context: Any) -> ValidationError:
    """Return an error at a setting's key, which a validator of the whole model could not name otherwise.

    Args:
        name, value: the setting.
        message: what is wrong.
        kind: pydantic's type of the error, which `explain` goes by.
        context: further facts for `explain`.
    """
    error = PydanticCustomError(kind, message, context)
    return ValidationError.from_exception_data("training", [{"type": error, "loc": (name,), "input": value}])


def _number(name: str, value: Any, types: set[str]) -> Any:
    """Return a value, as a number if it is text where TRL takes numbers and no text."""
    if not isinstance(value, str) or "str" in types or not types & {"int", "float"}:
        return value
    try:
        return float(value) if "float" in types else int(value)
    except ValueError:
        raise setting_error(name, value, "must be a number", "number") from None


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
