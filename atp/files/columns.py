"""Annotations of dataclasses -> Arrow columns, and values to and from them.

int, float, bool, str, Literal, list, dict, an optional of these and dataclasses are supported. A dict is stored as a
list of (key, value) structs: Arrow's own map type is refused by `datasets`.
"""

import types
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pyarrow as pa

from atp.errors import AtpError

SCALARS = {int: pa.int64(), float: pa.float64(), bool: pa.bool_(), str: pa.string()}
ALLOWED = "int, float, bool, str, list, dict, an optional of these, or a dataclass"


@cache
def struct_of(kind: type) -> pa.StructType:
    """Return the Arrow struct of a dataclass. Raises AtpError for a field with another annotation, or no field."""
    if not hints(kind):
        raise AtpError(f"{kind.__name__} has no fields, it needs at least one")
    return pa.struct([_field(name, annotation) for name, annotation in hints(kind).items()])


def check_columns(kind: type) -> None:
    """Raise AtpError unless every field of a dataclass has a supported annotation."""
    if not is_dataclass(kind):
        raise AtpError(f"must be a dataclass, found {kind!r:.80}")
    try:
        struct_of(kind)
    except RecursionError as error:
        raise AtpError(f"{kind.__name__} contains itself, which no column can") from error


@cache
def hints(kind: type) -> dict[str, Any]:
    """Return the annotations of a dataclass's fields, strings among them evaluated."""
    try:
        known = get_type_hints(kind)
    except Exception as error:
        raise AtpError(f"{kind.__name__}: annotations cannot be read: {error}") from error
    return {field.name: known[field.name] for field in fields(kind)}


def to_arrow(values: Sequence[Any], kind: type) -> pa.StructArray:
    """Return dataclass objects as an array of structs."""
    columns = []
    for name, annotation in hints(kind).items():
        column = [getattr(value, name) for value in values]
        if _inner(annotation)[0] not in SCALARS:
            column = [_encode(value, annotation) for value in column]
        columns.append(pa.array(column, arrow_type(annotation)))
    return pa.StructArray.from_arrays(columns, fields=list(struct_of(kind)))


def from_row(row: Mapping[str, Any], kind: type) -> Any:
    """Return the dataclass object of a row. Raises AtpError as the type's own checks do."""
    return kind(**{name: _decode(row[name], annotation) for name, annotation in hints(kind).items()})


def arrow_type(annotation: Any) -> pa.DataType:
    """Return the Arrow type of an annotation. Raises AtpError for one that is not supported."""
    return _field("", annotation).type


def _field(name: str, annotation: Any) -> pa.Field:
    inner, optional = _inner(annotation)
    origin, arguments = get_origin(inner), get_args(inner)
    if inner in SCALARS:
        return pa.field(name, SCALARS[inner], nullable=optional)
    if origin is Literal and all(isinstance(each, str) for each in arguments):
        return pa.field(name, pa.string(), nullable=optional)
    if origin is list and len(arguments) == 1:
        return pa.field(name, pa.list_(_field("element", arguments[0])), nullable=optional)
    if origin is dict and len(arguments) == 2:
        pair = pa.struct([_field("key", arguments[0]), _field("value", arguments[1])])
        return pa.field(name, pa.list_(pa.field("element", pair, nullable=False)), nullable=optional)
    if isinstance(inner, type) and is_dataclass(inner):
        return pa.field(name, struct_of(inner), nullable=optional)
    shown = getattr(annotation, "__name__", str(annotation)) if origin is None else str(annotation)
    raise AtpError(f"field '{name}' has annotation {shown}, allowed are {ALLOWED}")


@cache
def _inner(annotation: Any) -> tuple[Any, bool]:
    """The annotation without None, and whether None was allowed."""
    if get_origin(annotation) in (Union, types.UnionType):
        others = [each for each in get_args(annotation) if each is not type(None)]
        if len(others) == 1:
            return others[0], True
    return annotation, False


def _encode(value: Any, annotation: Any) -> Any:
    inner, _ = _inner(annotation)
    origin, arguments = get_origin(inner), get_args(inner)
    if value is None or inner in SCALARS:
        return value
    if origin is list:
        return [_encode(each, arguments[0]) for each in value]
    if origin is dict:
        return [
            {"key": _encode(key, arguments[0]), "value": _encode(each, arguments[1])} for key, each in value.items()
        ]
    if is_dataclass(inner):
        return {name: _encode(getattr(value, name), hint) for name, hint in hints(inner).items()}  # type: ignore[arg-type]
    return value


def _decode(value: Any, annotation: Any) -> Any:
    inner, _ = _inner(annotation)
    origin, arguments = get_origin(inner), get_args(inner)
    if value is None or inner in SCALARS:
        return value
    if origin is list:
        return [_decode(each, arguments[0]) for each in value]
    if origin is dict:
        return {_decode(pair["key"], arguments[0]): _decode(pair["value"], arguments[1]) for pair in value}
    if is_dataclass(inner):
        return from_row(value, inner)  # type: ignore[arg-type]
    return value
