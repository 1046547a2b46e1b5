"""What an extension of each kind must be: checked when a plug-in or an installed package is loaded."""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from atp.errors import AtpError
from atp.files.columns import check_columns
from atp.files.schemas import DETAILS, TURNS
from atp.testbed import COMMON_CONTROLS, OPTIONAL_CONTROLS, REQUIRED_CONTROLS, Scenario, Settings, Testbed, Words
from atp.tools import Tool

#: Names that a study's folder of results uses for other things.
RESERVED = ("figures", "logs", "benchmarks")
#: Fields of a testbed -> what their values must be.
TYPES: dict[str, tuple[type, ...]] = {
    "templates": (Path, type(None)),
    "published": (Path, type(None)),
    "sources": (Mapping,),
    "several_players": (bool,),
    "judge_question": (str, type(None)),
    "words": (Words,),
    "policies": (Mapping, str),
    "measures": (list, tuple, str),
    "order_parameter": (str,),
    "controls": (Mapping,),
    "published_note": (str,),
}
#: Functions of a testbed -> their arguments.
FUNCTIONS = {
    "play": ("scenario", "settings", "rng"),
    "instantiate": ("template", "split", "rng"),
    "players": ("scenario", "settings"),
    "alignment_reward": ("turn",),
    "figures": ("results",),
    "curriculum": ("path",),
}


def check_definition(kind: str, name: Any, value: Any) -> None:
    """Check an extension.

    Args:
        kind: "testbeds", "agents", …
        name: what the extension is called.

    Raises:
        AtpError: it is not what this kind must be.
    """
    if not isinstance(name, str) or not name:
        hint = "; a filter names itself by the default of its field `name`" if kind == "filters" else ""
        raise AtpError(f"{value!r:.80} has no name{hint}")
    if kind == "testbeds":
        check_testbed(value)
        name_inside = value.name
    elif kind == "tools":
        if not isinstance(value, Tool):
            raise AtpError(f"tool '{name}' must be an atp.tools.Tool, found {type(value).__name__}")
        if not callable(value.run) or not takes(value.run, 1 + value.uses_files):
            files = " and the files" if value.uses_files else ""
            raise AtpError(f"tool '{name}': run must be a function of one text{files}")
        name_inside = value.name
    elif kind == "agents":
        name_inside = name
        if not callable(getattr(value, "answer", None)):
            raise AtpError(f"agent '{name}' must have a method answer(requests)")
    elif kind == "filters":
        if not _is_subclass(value, import_module("atp.training.filters").Filter):
            raise AtpError(f"filter '{name}' must be a subclass of atp.training.filters.Filter, found {value!r:.80}")
        name_inside = value.model_fields["name"].default
    else:
        name_inside = name
        if not callable(value):
            raise AtpError(f"{singular(kind)} '{name}' must be a function, found {type(value).__name__}")
    if name != name_inside:
        raise AtpError(f"{singular(kind)} '{name}' is called '{name_inside}' by its own field `name`")


def check_testbed(value: Any) -> None:
    """Raise AtpError, which names the field, unless a value is a testbed whose fields are what they must be."""
    if not isinstance(value, Testbed):
        raise AtpError(f"must hold atp.testbed.Testbed objects, found {type(value).__name__}")
    try:
        _check_name(value.name)
        _check_fields(value)
    except AtpError as error:
        raise AtpError(f"testbed '{value.name}': {error}") from error


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise AtpError("name: allowed are lower-case letters, digits and '_', and it must begin with a letter")
    if name in RESERVED:
        raise AtpError(f"name: the names {', '.join(RESERVED)} are used by the workflow, choose another one")


def _check_fields(testbed: Testbed) -> None:
    for name, base in (("scenario", Scenario), ("settings", Settings)):
        if not _is_subclass(kind := getattr(testbed, name), base):
            raise AtpError(f"{name}: must be a subclass of atp.testbed.{base.__name__}, found {kind!r:.80}")
    sentences = testbed.steering if isinstance(testbed.steering, tuple) else ()
    if len({text for text in sentences if isinstance(text, str) and text.strip()}) != 2 or len(sentences) != 2:
        raise AtpError(f"steering: must be a tuple of two different sentences, found {testbed.steering!r:.80}")
    for name, kinds in TYPES.items():
        found = getattr(testbed, name)
        if not isinstance(found, kinds):
            allowed = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
            raise AtpError(f"{name}: must be {allowed}, found {found!r:.80}")
    for name, arguments in FUNCTIONS.items():
        _check_function(name, getattr(testbed, name), arguments)
    for measure in testbed.measures if not isinstance(testbed.measures, str) else ():
        if not callable(measure):
            raise AtpError(f"measures: {measure!r:.80} is neither a Measure nor a function")
    if testbed.published is not None and not testbed.published.is_file():
        raise AtpError(f"published: no such file: {testbed.published}")
    if any(column.name == "testbed" for column in fields(testbed.scenario)):
        raise AtpError("scenario: 'testbed' is a column of every scenario file, choose another name")
    known = (*COMMON_CONTROLS, *REQUIRED_CONTROLS, *OPTIONAL_CONTROLS)
    for name, control in testbed.controls.items():
        if control is not None and not isinstance(control, Mapping):
            raise AtpError(f"controls: '{name}' must be settings or None, found {control!r:.60}")
        if name not in known:
            raise AtpError(f"controls: unknown control '{name}', known are {', '.join(known)}")
    if (testbed.template is None) != (testbed.instantiate is None):
        raise AtpError("template and instantiate go together, one of them is missing")
    if testbed.template is not None and not (
        _is_subclass(testbed.template, BaseModel) and "name" in testbed.template.model_fields
    ):
        raise AtpError(
            f"template: must be a subclass of atp.scenarios.templates.Template, found {testbed.template!r:.80}"
        )
    _check_dataclass("scenario", testbed.scenario)
    if testbed.columns is not None:
        _check_dataclass("columns", testbed.columns)
        for each in fields(testbed.columns):
            if each.name in (*TURNS.names, DETAILS):
                raise AtpError(f"columns: '{each.name}' is a column of every testbed's turns, choose another name")


def _check_function(name: str, function: Any, arguments: tuple[str, ...]) -> None:
    if function is None or (isinstance(function, str) and ":" in function and name not in ("play", "players")):
        return
    if not callable(function):
        raise AtpError(f"{name}: must be a function, found {function!r:.80}")
    if not takes(function, len(arguments)):
        raise AtpError(f"{name}: must take the arguments ({', '.join(arguments)})")


def takes(function: Callable[..., Any], count: int) -> bool:
    """Return whether a function can be called with so many positional arguments."""
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:  # some functions written in C have no signature
        return True
    return True


def _check_dataclass(field: str, kind: type) -> None:
    if not is_dataclass(kind):
        raise AtpError(f"{field}: {getattr(kind, '__name__', kind)} must be a dataclass, decorate it with @dataclass")
    annotated = {
        name for name, annotation in inspect.get_annotations(kind).items() if "ClassVar" not in str(annotation)
    }
    missing = annotated - {each.name for each in fields(kind)}
    if missing:
        raise AtpError(
            f"{field}: {kind.__name__} must be decorated with @dataclass(frozen=True), '{min(missing)}' is no field yet"
        )
    try:
        check_columns(kind)
    except AtpError as error:
        raise AtpError(f"{field}: {error}") from error


def _is_subclass(value: Any, kind: type) -> bool:
    return isinstance(value, type) and issubclass(value, kind)


def singular(kind: str) -> str:
    """Return what one extension of a kind is called."""
    return "policy" if kind == "policies" else kind.removesuffix("s")
