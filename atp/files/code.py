"""Digests of source code: a stage runs again where the modules that it imports have changed."""

import ast
import hashlib
import importlib.util
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

#: The package's folder.
PACKAGE = Path(__file__).parents[1]
#: Folder of config, envs, resources and workflow: in the package where a wheel was installed, the clone otherwise.
SHIPPED = PACKAGE / "shipped" if (PACKAGE / "shipped").is_dir() else PACKAGE.parent
#: Data files next to modules that jobs declare as inputs, so that they are no part of the code.
INPUTS = ("templates.yaml", "published.csv")


@cache
def code_digest(*start: str) -> str:
    """Return a digest of modules and scripts and of all that they import from their own packages, import by import.

    Imports inside functions and relative imports count. A package stands for its __init__ alone. Files next to a
    module, such as the report's templates, count with it.

    Args:
        start: dotted names of modules, or paths of files that end with .py.
    """
    sources: dict[str, bytes] = {}
    todo = list(start)
    packages = {PACKAGE.name, *(name.partition(".")[0] for name in start if not name.endswith(".py"))}
    while todo:
        name = todo.pop()
        path = Path(name) if name.endswith(".py") else _module_path(name)
        if path is None or str(path) in sources:
            continue
        source = path.read_bytes()
        sources[str(path)] = source + b"".join(_data(path))
        parent = "" if name.endswith(".py") else name if path.name == "__init__.py" else name.rpartition(".")[0]
        todo += [each for each in imported(source, parent) if each.partition(".")[0] in packages]
    total = hashlib.sha256()
    for source in sorted(sources.values()):
        total.update(source + b"\0")
    return total.hexdigest()[:16]


def _data(module: Path) -> Iterable[bytes]:
    """Contents of the data files next to a module of the package."""
    if PACKAGE in module.parents:
        for path in sorted(module.parent.iterdir()):
            if path.is_file() and path.suffix not in (".py", ".pyc") and path.name not in INPUTS:
                yield path.read_bytes()


@cache
def imported(source: bytes, parent: str = "") -> tuple[str, ...]:
    """Return the dotted names that a source imports; of `from a import b` both `a` and `a.b`.

    Args:
        parent: the package of the source's module, where relative imports begin; without one they are left out.
    """
    return tuple(_names(ast.parse(source), parent))


def _names(tree: ast.AST, parent: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (module := _imported_from(node, parent)):
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _imported_from(node: ast.ImportFrom, parent: str) -> str:
    """Return the dotted name of a module from which names are imported; empty where that is not known."""
    if not node.level:
        return node.module or ""
    above = parent.split(".")[: parent.count(".") + 2 - node.level]
    return ".".join([*above, *([node.module] if node.module else [])]) if parent and above else ""


@cache
def _module_path(name: str) -> Path | None:
    """Return the file of a module; None for a name inside a module, and for the package `atp` itself."""
    head, *parts = name.split(".")
    if head == PACKAGE.name:
        root = PACKAGE
    else:
        spec = importlib.util.find_spec(head)
        if spec is None or spec.origin is None:
            return None
        if not spec.submodule_search_locations:
            return None if parts else Path(spec.origin)
        root = Path(spec.origin).parent
    if not parts and head == PACKAGE.name:
        return None
    file = root.joinpath(*parts)
    paths = (file / "__init__.py", file.with_suffix(".py")) if parts else (root / "__init__.py",)
    return next((path for path in paths if path.is_file()), None)
