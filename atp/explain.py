"""Describe a validation error in one line: the key, what is allowed, the value."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

#: Keys of earlier versions and what they are called now. Several are still valid keys of other settings.
RENAMED = {
    "arms": "conditions",
    "arm": "condition",
    "yardsticks": "reference_policies",
    "memory_of": "history_from",
    "environment": "name",
    "tune": "use_peft",
    "rank": "lora_r",
    "alpha": "lora_alpha",
    "warmup": "warmup_ratio",
    "schedule": "lr_scheduler_type",
    "epochs": "num_train_epochs",
    "batch": "per_device_train_batch_size",
    "device_batch": "per_device_train_batch_size",
    "generations": "num_generations",
    "max_completion": "max_completion_length",
    "loss": "loss_type",
    "replay": "rehearsal",
    "shrink": "interpolate",
    "most_rise": "max_violation_increase",
}
#: New names that no schema lists: a condition's keys are validated as testbed settings, which lack this one.
UNLISTED = ("history_from",)


def explain(error: ValidationError, kind: type[BaseModel]) -> str:
    """Describe the first error of a validation.

    Args:
        error: the error.
        kind: the model that was validated, whose schema lists the allowed keys.

    Returns:
        One line: the key with its parents, what is allowed, and the value where it helps.
    """
    errors = error.errors()
    # An unknown key may be a missing one with a typing error.
    first = next((item for item in errors if item["type"] == "extra_forbidden"), errors[0])
    path, places = [], [kind.model_json_schema()]
    schema = places[0]
    for part in first["loc"]:
        options = [leaf for place in places for leaf in _leaves(place, schema)]
        tagged = [option["discriminator"]["mapping"][part] for option in options if part in _tags(option)]
        if tagged:
            places = [{"$ref": reference} for reference in tagged]
        else:
            path.append(part)
            places = [deeper for option in options for deeper in _below(option, part)]
    key = ".".join(map(str, path))
    if first["type"] == "extra_forbidden":
        return f"{key}: unknown key, {_allowed(path[-1], options, schema, first.get('ctx', {}).get('others'))}"
    if first["type"] == "union_tag_not_found":
        missing = first["ctx"]["discriminator"].strip("'")
        tags = sorted({tag for place in places for option in _leaves(place, schema) for tag in _tags(option)})
        return f"{key}.{missing}: missing, allowed are {', '.join(tags)}"
    message = first["msg"].removeprefix("Value error, ").replace("tuple", "list").replace("Tuple", "List")
    value = "" if first["type"] in ("value_error", "missing") else f", found {str(first['input'])[:80]!r}"
    return f"{key}: {message}{value}" if key else f"{message}{value}"


def _allowed(key: Any, options: list[dict[str, Any]], schema: dict[str, Any], others: str | None) -> str:
    """Return what may stand in place of an unknown key: its new name, or the known keys and `others`."""
    leaves = [leaf for option in options for leaf in _leaves(option, schema)]
    known = sorted({name for leaf in leaves for name in leaf.get("properties", {})})
    new = RENAMED.get(key)
    if new and (new in known or new in UNLISTED):
        return f"it is called {new} now"
    return f"allowed are {', '.join(known)}{f', and {others}' if others else ''}"


def _tags(option: dict[str, Any]) -> dict[str, str]:
    """Return tag -> reference of a discriminated union; pydantic puts the tag between the keys of a location."""
    tags: dict[str, str] = option.get("discriminator", {}).get("mapping", {})
    return tags


def _below(option: dict[str, Any], part: Any) -> Iterator[dict[str, Any]]:
    """Yield the schemas of the value at a key or an index."""
    if part in option.get("properties", {}):
        yield option["properties"][part]
    elif isinstance(option.get("additionalProperties"), dict):
        yield option["additionalProperties"]
    elif "items" in option:
        yield option["items"]


def _leaves(node: dict[str, Any], schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a schema node with references resolved and unions expanded, except discriminated ones."""
    if "$ref" in node:
        yield from _leaves(schema["$defs"][node["$ref"].rpartition("/")[2]], schema)
    elif ("anyOf" in node or "oneOf" in node) and "discriminator" not in node:
        for option in node.get("anyOf", []) + node.get("oneOf", []):
            yield from _leaves(option, schema)
    else:
        yield node
