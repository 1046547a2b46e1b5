"""Where an artifact comes from: what code, params, inputs and packages made it, and what it cost."""

import hashlib
import json
import re
import resource
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent
#: from X import (A, B as C), import X
_IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import[ \t]+(\([^)]*\)|[^\n#]+)|import[ \t]+([^\n#]+))", re.MULTILINE
)
#: Where a stage that was stopped says what it has spent so far, beside what it has finished.
SPENT = "spent.json"
PACKAGES = tuple(
    "atp torch transformers trl peft accelerate vllm inspect_ai openai datasets pyarrow polars snakemake".split()
)


@dataclass(frozen=True)
class Provenance:
    """What a stage writes into its artifact's own metadata.

    params holds the settings that decided the content, every seed among them; cost what it took (starts, wall_seconds,
    cpu_seconds, gpu_seconds, peak_memory_mb, and tokens where a model ran), that of starts which were stopped with it.
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
    """Clock and label of a running stage; `provenance()` sums it up when the artifact is written.

    gpus is how many GPUs it holds; counts is what else this start has counted, which starts add up.
    """

    def __init__(
        self, name: str, module: str, params: Mapping[str, Any], inputs: Iterable[Path | str] = (), gpus: int = 0
    ):
        self.name, self.module, self.gpus = name, module, gpus
        self.params, self.inputs = dict(params), [Path(path) for path in inputs]
        self.wall, self.cpu = time.monotonic(), _cpu_seconds()
        self.before: dict[str, float] = {}
        self.counts: dict[str, float] = {}

    @property
    def digest(self) -> str:
        """One digest of code, params and inputs: two runs that share it make the same artifact."""
        parts = [self.name, code_digest(self.module), self.params, self.input_digests]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    @cached_property
    def input_digests(self) -> dict[str, str]:
        """Digest of each input by its name, as it was when first asked for: a model's weights are many gigabytes."""
        return {path.name: digest(path) for path in self.inputs}

    def resume(self, folder: Path) -> None:
        """Count what an earlier start spent that left `folder`, if there was one."""
        with suppress(OSError, ValueError):
            self.before = json.loads((folder / SPENT).read_text(encoding="utf-8"))

    def keep(self, folder: Path) -> None:
        """Say in `folder` what has been spent, for a start that goes on there."""
        (folder / f".{SPENT}").write_text(json.dumps(self.spent()), encoding="utf-8")
        (folder / f".{SPENT}").replace(folder / SPENT)

    def spent(self) -> dict[str, float]:
        wall = round(time.monotonic() - self.wall, 3)
        now = {
            "starts": 1.0,
            "wall_seconds": wall,
            "cpu_seconds": round(_cpu_seconds() - self.cpu, 3),
            "gpu_seconds": round(wall * self.gpus, 3),
            "peak_memory_mb": round(max(usage.ru_maxrss for usage in _usages()) / 1024, 1),
        }
        return together([self.before, now, self.counts])

    def provenance(self, **cost: float) -> Provenance:
        return Provenance(
            stage=self.name,
            code=code_digest(self.module),
            params=self.params,
            inputs=self.input_digests,
            versions=versions(),
            cost=self.spent() | cost,
        )


def together(costs: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """What several runs cost: the sums, and of memory the highest peak."""
    total: dict[str, float] = {}
    for cost in costs:
        for name, value in cost.items():
            peak = name == "peak_memory_mb"
            total[name] = max(total.get(name, 0.0), value) if peak else round(total.get(name, 0.0) + value, 3)
    return total


def _usages() -> list[resource.struct_rusage]:
    """Of this process, and of those that it started and that have ended."""
    return [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]


def _cpu_seconds() -> float:
    return sum(usage.ru_utime + usage.ru_stime for usage in _usages())


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
        todo += [_module_path(name) for name in _imports(source.decode("utf-8"))]
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
def _imports(source: str) -> tuple[str, ...]:
    """Names that a module's import statements name, found by their form: to parse it all takes twenty times as long.

    One that stands in a text counts too, which at worst runs a stage again that need not run.
    """
    names: list[str] = []
    for start, several, plain in _IMPORT.findall(source):
        found = [each.split()[0] for each in re.split(r"[,()\s]*,[,()\s]*", (several or plain).strip("() \n,")) if each]
        names += [start, *(f"{start}.{name}" for name in found)] if start else found
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
