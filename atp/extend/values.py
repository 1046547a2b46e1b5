"""Compare values with annotations: what a testbed's author declared and what the code then makes."""

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def mismatch(value: Any, annotation: Any) -> str | None:
    """Return how a value differs from an annotation, to follow a field's name in a message; None if it fits.

    An int fits float, and a bool fits bool alone. Annotations that are not supported fit everything.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        wrong = [mismatch(value, each) for each in arguments]
        return None if None in wrong else _described(value, annotation)
    if annotation in (None, type(None)):
        return None if value is None else _described(value, None)
    if origin is Literal:
        return None if value in arguments else _described(value, annotation)
    if annotation in (int, float, bool, str):
        return None if _fits_scalar(value, annotation) else _described(value, annotation)
    if origin in (list, tuple):
        return _mismatch_of_sequence(value, annotation, origin, arguments)
    if origin is dict or annotation is Mapping:
        return _mismatch_of_mapping(value, annotation, arguments)
    if isinstance(annotation, type) and is_dataclass(annotation):
        return _mismatch_of_dataclass(value, annotation)
    return None


def _mismatch_of_sequence(value: Any, annotation: Any, origin: Any, arguments: tuple[Any, ...]) -> str | None:
    if not isinstance(value, origin):
        return _described(value, annotation)
    return next((f"[{at}]{wrong}" for at, each in enumerate(value) if (wrong := mismatch(each, arguments[0]))), None)


def _mismatch_of_mapping(value: Any, annotation: Any, arguments: tuple[Any, ...]) -> str | None:
    if not isinstance(value, Mapping):
        return _described(value, annotation)
    for key, each in value.items():
        if wrong := mismatch(key, arguments[0]):
            return f": key{wrong}"
        if wrong := mismatch(each, arguments[1]):
            return f"[{key!r}]{wrong}"
    return None


def _mismatch_of_dataclass(value: Any, annotation: type) -> str | None:
    if not isinstance(value, annotation):
        return _described(value, annotation)
    hints = get_type_hints(annotation)
    for each in fields(annotation):
        if wrong := mismatch(getattr(value, each.name), hints[each.name]):
            return f".{each.name}{wrong}"
    return None


def _fits_scalar(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is kind or (kind in (int, str) and isinstance(value, kind) and not isinstance(value, bool))


def _described(value: Any, annotation: Any) -> str:
    kind = type(value)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    shown = getattr(annotation, "__name__", str(annotation)) if get_origin(annotation) is None else str(annotation)
    return f" is {value!r:.60} ({name}), must be {shown}"
