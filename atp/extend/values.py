"""Compare values with annotations: what a testbed's author declared and what the code then makes."""

import types
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any, Literal, Union, get_args, get_origin

from atp.files.columns import hints


def mismatch(value: Any, annotation: Any) -> str | None:
    """Return how a value differs from an annotation, to follow a field's name in a message; None if it fits.

    An int fits float, and a bool fits bool alone. Annotations that are not supported fit everything.
    """
    kind = get_origin(annotation) or annotation
    if kind in (Union, types.UnionType):
        fits = any(mismatch(value, each) is None for each in get_args(annotation))
    elif kind is Literal:
        fits = value in get_args(annotation)
    elif kind in (int, float, str):
        fits = isinstance(value, int | float if kind is float else kind) and not isinstance(value, bool)
    elif kind in (bool, types.NoneType, list, tuple, dict, Mapping) or is_dataclass(kind):
        fits = isinstance(value, kind)
    else:
        return None
    if not fits:
        name = type(value).__qualname__
        module = "" if type(value).__module__ == "builtins" else f"{type(value).__module__}."
        shown = getattr(annotation, "__name__", str(annotation)) if get_origin(annotation) is None else str(annotation)
        return f" is {value!r:.60} ({module}{name}), must be {shown}"
    parts = _parts(value, kind, get_args(annotation))
    return next((f"{place}{wrong}" for place, part, wanted in parts if (wrong := mismatch(part, wanted))), None)


def _parts(value: Any, kind: Any, arguments: tuple[Any, ...]) -> Iterator[tuple[str, Any, Any]]:
    """Yield the place, the value and the annotation of each part of a value."""
    if kind in (list, tuple):
        yield from ((f"[{at}]", each, arguments[0]) for at, each in enumerate(value))
    elif kind in (dict, Mapping):
        for key, each in value.items():
            yield ": key", key, arguments[0]
            yield f"[{key!r}]", each, arguments[1]
    elif isinstance(kind, type) and is_dataclass(kind):
        yield from ((f".{name}", getattr(value, name), wanted) for name, wanted in hints(kind).items())
