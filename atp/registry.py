"""Everything that a study may name: testbeds, agents, filters, measures, policies, tools and figures.

Each kind comes from three places: built in, an installed package's entry points (group `atp.KIND`), or a plug-in, a
Python file that defines lists named TESTBEDS, AGENTS, FILTERS, MEASURES, POLICIES, TOOLS or FIGURES. A built-in testbed
is a folder of `atp/testbeds`, so that nothing lists testbeds; its own tools are the list TOOLS of its `tools.py`.
"""

import ast
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from atp.definitions import check_definition, singular
from atp.errors import AtpError, PluginError
from atp.testbed import Testbed
from atp.tools import TOOLS, Tool

#: Kinds of extensions. Built-in ones other than testbeds are named here and imported when they are asked for.
BUILT_IN = {
    "testbeds": "",
    "agents": "",
    "filters": "atp.training.filters:FILTERS",
    "measures": "",
    "policies": "atp.agents.policies:POLICIES",
    "tools": "atp.tools.tool:BUILT_IN",
    "figures": "",
}
#: Fields of `Testbed` that only some stages import, as far as they name modules.
STAGE_FIELDS = {
    "rollout": ("policies",),
    "transplant": ("policies",),
    "memory_rollout": ("policies",),
    "pairs": ("policies",),
    "judge": ("policies",),
    "measure": ("measures",),
    "report": ("figures", "theory"),
    "organism": ("curriculum",),
}
TESTBEDS_FOLDER = Path(__file__).parent / "testbeds"
PACKAGE = __name__.partition(".")[0]
#: What the names of plug-ins' modules begin with.
PLUGIN = "atp_plugin_"
#: Longest text of an error in a plug-in that is repeated in a message, in characters.
MAX_ERROR_CHARS = 400


@dataclass(frozen=True)
class Entry:
    """A registered object.

    Args:
        origin: where its code is: a module's name, or a plug-in's file.
        place: how messages name this: the file as the user wrote it, with the line of the definition.
    """

    value: Any
    origin: str
    place: str = ""

    @property
    def file(self) -> Path | None:
        """The plug-in's file."""
        return Path(self.origin) if self.origin.endswith(".py") else None

    @property
    def built_in(self) -> bool:
        """Whether the package itself defines it."""
        return self.origin.partition(".")[0] == PACKAGE


_plugins: dict[Path, dict[str, dict[str, Entry]]] = {}


def entries(kind: str) -> dict[str, Entry]:
    """Return all entries of a kind by name: built in, then installed, then of plug-ins."""
    known = dict(_installed(kind))
    for plugin in _plugins.values():
        known |= plugin[kind]
    if kind == "testbeds":
        for name, entry in known.items():
            TOOLS.update(_tools_of(name) if entry.built_in else {})
    return known


def find(kind: str, name: str) -> Entry:
    """Return one entry.

    Raises:
        AtpError: no entry of this name; the message lists the known ones.
    """
    if kind == "testbeds" and not _plugins and (TESTBEDS_FOLDER / name / "__init__.py").is_file():
        entry = _built_in_testbed(name)  # without importing all others
        TOOLS.update(_tools_of(name))
        return entry
    known = entries(kind)
    if name not in known:
        hint = f"; one of a file needs --plugin FILE.py, in a study `plugins: [FILE.py]`{_loaded()}"
        raise AtpError(f"unknown {singular(kind)} '{name}', known are {', '.join(known) or 'none'}{hint}")
    return known[name]


def _loaded() -> str:
    """Return which plug-ins are loaded, for messages."""
    names = ", ".join(_shown_paths().values())
    return f" (loaded: {names})" if names else ""


def find_testbed(name: str) -> Testbed:
    """Return a testbed by name. Raises AtpError for an unknown one."""
    value: Testbed = find("testbeds", name).value
    return value


def load_plugins(files: Iterable[Path | str], names: Mapping[Path, str] | None = None) -> None:
    """Import plug-ins and register what they define. A file that is loaded already is left as it is.

    Args:
        names: what a file is called in error messages; by default its path.

    Raises:
        AtpError: no such file, an error in it (with its line), a definition of the wrong type, or a name that exists.
    """
    for file in map(Path, files):
        path = file.resolve()
        if path not in _plugins:
            _plugins[path] = _read_plugin(path, (names or {}).get(file, str(file)))
    TOOLS.update({name: entry.value for name, entry in entries("tools").items()})


def defined_by(file: Path | str) -> dict[str, list[str]]:
    """Return the names that a loaded plug-in defines, by their kind."""
    return {kind: list(named) for kind, named in _plugins[Path(file).resolve()].items() if named}


def resolve(reference: Any) -> Any:
    """Return the object that a "MODULE:NAME" string names; anything else as it is."""
    if not isinstance(reference, str):
        return reference
    module, _, name = reference.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise AtpError(f"'{reference}' names no object that can be imported (MODULE:NAME): {error}") from error


def sources(testbed: str, stage: str) -> list[str]:
    """Return the modules, or the plug-in's file, whose code decides what a stage makes of a testbed."""
    entry = find("testbeds", testbed)
    named = [getattr(entry.value, field) for field in STAGE_FIELDS.get(stage, ())]
    if stage == "scenarios":
        named += entry.value.sources.values()
    return [entry.origin, *(name.partition(":")[0] for name in named if isinstance(name, str) and name)]


def origins(kind: str) -> list[str]:
    """Return where the code of all extensions of a kind is that are not built in."""
    return list(dict.fromkeys(entry.origin for entry in entries(kind).values() if not entry.built_in))


@contextmanager
def blame(kind: str, name: str) -> Iterator[None]:
    """Turn an error in the block into one line that names the extension whose code, or whose results, caused it.

    Errors in what the package itself defines stay as they are.

    Raises:
        PluginError: the code in the block failed.
    """
    try:
        yield
    except AtpError:
        raise
    except (Exception, SystemExit) as error:
        entry = entries(kind).get(name)
        if entry is None or entry.built_in:
            raise
        line = f"{entry.place}: {singular(kind)} '{name}': {describe(error)}{_advice(kind, entry)}"
        raise PluginError(plugin_error(error) or line) from error


def _advice(kind: str, entry: Entry) -> str:
    """Return how to find the cause of an error that was not raised in an extension's own code."""
    if kind != "testbeds":
        return ""
    return f"; `atp check {_shown(entry.origin) or entry.value.name}` names the rule that it breaks"


def plugin_error(error: BaseException) -> str | None:
    """Return one line that names the place in an extension's code where an error was raised; None for other errors."""
    if isinstance(error, SyntaxError) and (file := _shown(error.filename or "")):
        return f"{file}:{error.lineno}: {type(error).__name__}: {error.msg}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if file := _shown(frame.filename):
            message = str(error) if isinstance(error, AtpError) else f"{describe(error)}, in {frame.name}"
            return f"{file}:{frame.lineno}: {message}"
    return None


def place_of(filename: str, line: int) -> str:
    """Return how messages name a line of code: its file as the user wrote it, and its number."""
    return f"{_shown(filename) or filename}:{line}"


def describe(error: BaseException) -> str:
    """Return an error's type and text in one line."""
    text = str(error).partition("\n\nResolved plan")[0]  # polars appends the whole query
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        text = f"{error.title}: {'.'.join(map(str, first['loc']))}: {first['msg']}"
    line = " ".join(text.split()) or "no message"
    return f"{type(error).__name__}: {line if len(line) <= MAX_ERROR_CHARS else f'{line[:MAX_ERROR_CHARS]} …'}"


def _shown(filename: str) -> str | None:
    """Return how messages name a file of a plug-in or of an installed extension; None for any other file."""
    path = Path(filename)
    if named := _shown_paths().get(path):
        return named
    return filename if _installed_roots() & {path, *path.parents} else None


def _shown_paths() -> dict[Path, str]:
    """Return the files of plug-ins that are loaded, or being loaded, and how the user names them."""
    return {
        Path(str(module.__file__)): str(module.__dict__["__atp_named__"])
        for name, module in list(sys.modules.items())
        if name.startswith(PLUGIN)
    }


@cache
def _installed_roots() -> frozenset[Path]:
    """Return the folders, or single files, of installed packages that have entry points."""
    heads = {point.module.partition(".")[0] for kind in BUILT_IN for point in _points(kind)}
    specs = [spec for head in heads if (spec := importlib.util.find_spec(head))]
    return frozenset(
        Path(str(path)) for spec in specs for path in spec.submodule_search_locations or [str(spec.origin)]
    )


@cache
def _points(kind: str) -> tuple[metadata.EntryPoint, ...]:
    return tuple(metadata.entry_points(group=f"{PACKAGE}.{kind}"))


@cache
def _installed(kind: str) -> Mapping[str, Entry]:
    known: dict[str, Entry] = {}
    if kind == "testbeds":
        names = sorted(folder.parent.name for folder in TESTBEDS_FOLDER.glob("*/__init__.py"))
        known = {name: _built_in_testbed(name) for name in names}
    elif BUILT_IN[kind]:
        module = BUILT_IN[kind].partition(":")[0]
        known = {name: Entry(value, module) for name, value in _named(kind, resolve(BUILT_IN[kind]), {})}
    if kind == "tools":
        for testbed in sorted(file.parent.name for file in TESTBEDS_FOLDER.glob("*/tools.py")):
            module = f"{PACKAGE}.{TESTBEDS_FOLDER.name}.{testbed}.tools"
            known |= {name: Entry(value, module) for name, value in _named(kind, _tools_of(testbed), known)}
    for point in _points(kind):
        place = f"entry point '{point.name}' of group {PACKAGE}.{kind}"
        try:
            value = point.load()
            listed = value if isinstance(value, list | tuple | dict) else {point.name: value}
            for name, each in _named(kind, listed, known):
                known[name] = Entry(each, point.module, place)
        except AtpError as error:
            raise PluginError(f"{place} ({point.value}): {error}") from error
        except Exception as error:
            raise PluginError(f"{place}: {plugin_error(error) or describe(error)}") from error
    return known


def _tools_of(testbed: str) -> dict[str, Tool]:
    """Return the tools of its own that a built-in testbed has."""
    if not (TESTBEDS_FOLDER / testbed / "tools.py").is_file():
        return {}
    tools: Sequence[Tool] = resolve(f"{PACKAGE}.{TESTBEDS_FOLDER.name}.{testbed}.tools:TOOLS")
    return {tool.name: tool for tool in tools}


@cache
def _built_in_testbed(name: str) -> Entry:
    module = f"{PACKAGE}.{TESTBEDS_FOLDER.name}.{name}"
    return Entry(importlib.import_module(module).TESTBED, module)


def _read_plugin(path: Path, named: str) -> dict[str, dict[str, Entry]]:
    if not path.is_file():
        raise AtpError(f"{named}: {'is a folder, must be a Python file' if path.is_dir() else 'no such file'}")
    name = f"{PLUGIN}{path.stem}_{len(_plugins)}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise AtpError(f"{named}: must be a Python file, whose name ends with .py")
    module = importlib.util.module_from_spec(spec)
    module.__dict__["__atp_named__"] = named
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
        return _defined(module, path, named)
    except AtpError as error:
        place = "" if str(error).startswith(named) else f"{named}: "
        raise PluginError(f"{place}{error}") from error
    except (Exception, SystemExit) as error:
        raise PluginError(plugin_error(error) or f"{named}: {describe(error)}") from error


def _defined(module: ModuleType, path: Path, named: str) -> dict[str, dict[str, Entry]]:
    lines = _lines(path)
    defined: dict[str, dict[str, Entry]] = {kind: {} for kind in BUILT_IN}
    for kind in BUILT_IN:
        place = f"{named}:{lines.get(kind.upper(), 1)}"
        listed = getattr(module, kind.upper(), ())
        if not isinstance(listed, list | tuple | dict):
            raise AtpError(f"{place}: {kind.upper()}: must be a list, found {type(listed).__name__}")
        existing = entries(kind) if listed else {}
        try:
            for name, value in _named(kind, listed, existing):
                existing[name] = defined[kind][name] = Entry(value, str(path), place)
        except AtpError as error:
            raise AtpError(f"{place}: {kind.upper()}: {error}") from error
    if not any(defined.values()):
        hint = f" (found {module.TESTBED!r:.30}: the list is called TESTBEDS)" if hasattr(module, "TESTBED") else ""
        known = ", ".join(map(str.upper, BUILT_IN))
        raise AtpError(f"{named}: defines nothing, must have at least one of the lists {known}{hint}")
    return defined


def _lines(path: Path) -> dict[str, int]:
    """Return the line of each name that is assigned in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        target.id: node.lineno
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }


def _named(kind: str, listed: Any, existing: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the name and value of each element, checked. Raises AtpError for another type, or a name that exists."""
    items = listed.items() if isinstance(listed, Mapping) else ((_name_of(value), value) for value in listed)
    for name, value in list(items):
        check_definition(kind, name, value)
        if name in existing:
            raise AtpError(f"the {singular(kind)} '{name}' exists already, choose another name")
        yield name, value


def _name_of(value: Any) -> Any:
    """Return the name that an object, or a settings class such as a filter's, gives itself."""
    fields = getattr(value, "model_fields", {})
    if "name" in fields:
        return fields["name"].default
    return getattr(value, "name", None) or getattr(value, "__name__", "")
