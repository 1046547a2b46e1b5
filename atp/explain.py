"""What is wrong with given values, as one line: the key, what was found, what is allowed."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError


def explain(error: ValidationError, kind: type[BaseModel]) -> str:
    """The first fault of a validation as one line: the key, what is allowed, what was found."""
    first = error.errors()[0]
    loc, places = [], [kind.model_json_schema()]
    schema = places[0]
    for part in first["loc"]:
        options = [leaf for place in places for leaf in _leaves(place, schema)]
        tagged = [option["discriminator"]["mapping"][part] for option in options if part in _tags(option)]
        if tagged:
            places = [{"$ref": ref} for ref in tagged]
        else:
            loc.append(part)
            places = [deeper for option in options for deeper in _below(option, part)]
    key = ".".join(map(str, loc))
    if first["type"] == "extra_forbidden":
        return f"{key}: unknown key, allowed are {', '.join(_keys(options, schema))}"
    if first["type"] == "union_tag_not_found":
        missing = first["ctx"]["discriminator"].strip("'")
        allowed = sorted({tag for place in places for option in _leaves(place, schema) for tag in _tags(option)})
        return f"{key}.{missing}: missing, allowed are {', '.join(allowed)}"
    message = first["msg"].removeprefix("Value error, ").replace("tuple", "list").replace("Tuple", "List")
    found = "" if first["type"] in ("value_error", "missing") else f", found {str(first['input'])[:80]!r}"
    return f"{key}: {message}{found}" if key else f"{message}{found}"


def _tags(option: dict[str, Any]) -> dict[str, str]:
    """Tag -> reference of a union that a key tells apart; pydantic puts the tag between the keys of a location."""
    found: dict[str, str] = option.get("discriminator", {}).get("mapping", {})
    return found


def _below(option: dict[str, Any], part: Any) -> Iterator[dict[str, Any]]:
    """What a schema says of a key's or an index's value."""
    if part in option.get("properties", {}):
        yield option["properties"][part]
    elif isinstance(option.get("additionalProperties"), dict):
        yield option["additionalProperties"]
    elif "items" in option:
        yield option["items"]


def _keys(options: list[dict[str, Any]], schema: dict[str, Any]) -> list[str]:
    leaves = [leaf for option in options for leaf in _leaves(option, schema)]
    return sorted({key for leaf in leaves for key in leaf.get("properties", {})})


def _leaves(node: dict[str, Any], schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A schema node with references followed and unions opened, but for those that a key tells apart."""
    if "$ref" in node:
        yield from _leaves(schema["$defs"][node["$ref"].rpartition("/")[2]], schema)
    elif ("anyOf" in node or "oneOf" in node) and "discriminator" not in node:
        for option in node.get("anyOf", []) + node.get("oneOf", []):
            yield from _leaves(option, schema)
    else:
        yield node
