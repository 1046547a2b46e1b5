"""Where an artifact comes from: what code, params, inputs and packages made it, and what it cost."""

import ast
import hashlib
import json
import resource
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent
PACKAGES = tuple("atp torch transformers trl peft accelerate vllm datasets pyarrow polars snakemake".split())


@dataclass(frozen=True)
class Provenance:
    """What a stage writes into its artifact's own metadata.

    params holds the settings that decided the content, every seed among them; cost what it took (wall_seconds,
    cpu_seconds, peak_memory_mb, and tokens where a model ran).
    """

    stage: str
    code: str
    params: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


class Stage:
    """Clock and label of a running stage; `provenance()` sums it up when the artifact is written."""

    def __init__(self, name: str, module: str, params: Mapping[str, Any], inputs: Iterable[Path | str] = ()):
        self.name, self.module = name, module
        self.params, self.inputs = dict(params), [Path(path) for path in inputs]
        self.wall, self.cpu = time.monotonic(), time.process_time()

    @property
    def digest(self) -> str:
        """One digest of code, params and inputs: two runs that share it make the same artifact."""
        parts = [self.name, code_digest(self.module), self.params, self.input_digests]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    @cached_property
    def input_digests(self) -> dict[str, str]:
        """Digest of each input by its name, as it was when first asked for: a model's weights are many gigabytes."""
        return {path.name: digest(path) for path in self.inputs}

    def provenance(self, **cost: float) -> Provenance:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        spent = {
            "wall_seconds": round(time.monotonic() - self.wall, 3),
            "cpu_seconds": round(time.process_time() - self.cpu, 3),
            "peak_memory_mb": round(usage.ru_maxrss / 1024, 1),
        }
        return Provenance(
            stage=self.name,
            code=code_digest(self.module),
            params=self.params,
            inputs=self.input_digests,
            versions=versions(),
            cost=spent | cost,
        )


def versions() -> dict[str, str]:
    """Versions of the installed packages that can change a result."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def digest(path: Path | str) -> str:
    """SHA-256 of a file, or of a folder's files with their names, as 16 hex digits."""
    path = Path(path)
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    total = hashlib.sha256()
    for file in files:
        total.update(str(file.relative_to(path)).encode() + b"\0")
        with file.open("rb") as content:
            while chunk := content.read(2**20):
                total.update(chunk)
    return total.hexdigest()[:16]


@cache
def code_digest(start: str) -> str:
    """Digest of the sources that `start` (a module's dotted name, a script's path) imports from atp, import by import.

    Imports inside functions count. A package stands for its own __init__ alone: what it registers, it imports.
    """
    seen: dict[str, bytes] = {}
    todo = [Path(start) if start.endswith(".py") else _module_path(start)]
    while todo:
        path = todo.pop()
        if path is None or str(path) in seen:
            continue
        source = path.read_bytes()
        seen[str(path)] = source + b"".join(_beside(path))
        todo += [_module_path(name) for name in _imports(source)]
    total = hashlib.sha256()
    for source in sorted(seen.values()):
        total.update(source + b"\0")
    return total.hexdigest()[:16]


def _beside(module: Path) -> Iterable[bytes]:
    """What a module of the package may read beside itself: templates, styles."""
    if PACKAGE in module.parents:
        for path in sorted(module.parent.iterdir()):
            if path.is_file() and path.suffix not in (".py", ".pyc"):
                yield path.read_bytes()


@cache  # the stages share most modules
def _imports(source: bytes) -> tuple[str, ...]:
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(names)


def _module_path(name: str) -> Path | None:
    """File of a module of this package; None for other packages' modules, names inside a module, and atp itself."""
    head, *parts = name.split(".")
    if head != PACKAGE.name or not parts:
        return None
    file = PACKAGE.joinpath(*parts)
    for path in (file.with_suffix(".py"), file / "__init__.py"):
        if path.is_file():
            return path
    return None
