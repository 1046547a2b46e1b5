"""Provenance of an artifact: the code, params, inputs and packages that made it, and its cost."""

import hashlib
import json
import os
import resource
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from atp.files.code import code_digest

#: Version of all artifacts' columns and metadata. A file of another version is refused.
VERSION = 5
#: File with the cost so far of a stage that was stopped, next to its finished parts.
SPENT = "spent.json"
#: Environment variable of a stage, with the digest of its study's hypotheses. It decides nothing that a stage makes, so
#: it is no part of a job.
PRIMARY = "ATP_PRIMARY"
PACKAGES = tuple(
    "atp torch transformers trl peft accelerate vllm inspect_ai openai datasets pyarrow polars snakemake".split()
)
#: Versions of packages that run in a Python of their own, added when they start.
OTHER_VERSIONS: dict[str, str] = {}


class Job(BaseModel):
    """Settings that decide what a stage makes, including all seeds. Each stage has its own type of job."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    #: Name of the stage.
    stage: ClassVar[str]

    def params(self) -> dict[str, Any]:
        """Return the settings as JSON values, for the artifact's metadata."""
        return self.model_dump(mode="json")


@dataclass(frozen=True)
class Provenance:
    """What a stage writes into its artifact's metadata.

    `params` holds the settings of the stage's job. `cost` holds starts, wall_seconds,
    cpu_seconds, gpu_seconds, peak_memory_mb, and tokens where a model ran, summed over starts that were stopped.
    `primary` is the digest of the hypotheses that the study had when the artifact was made.
    """

    stage: str
    code: str
    params: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    schema: int = VERSION
    primary: str = field(default_factory=lambda: os.environ.get(PRIMARY, ""))

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


class Stage:
    """A running stage: its name, clock and inputs, from which `provenance()` is made when the artifact is written.

    Args:
        code: modules and plug-ins whose imports are the stage's code (see `code_digest`).
        params: a job's `params()`.
        gpus: number of GPUs that the stage holds.
    """

    def __init__(
        self,
        name: str,
        code: str | Sequence[str],
        params: Mapping[str, Any],
        inputs: Iterable[Path | str] = (),
        gpus: int = 0,
    ):
        self.name, self.gpus = name, gpus
        self.code = code_digest(*([code] if isinstance(code, str) else code))
        self.params, self.inputs = dict(params), [Path(path) for path in inputs]
        self.wall, self.cpu = time.monotonic(), _cpu_seconds()
        self.before: dict[str, float] = {}
        self.counts: dict[str, float] = {}

    @property
    def digest(self) -> str:
        """Digest of code, params and inputs: two runs with the same digest make the same artifact."""
        parts = [self.name, self.code, self.params, self.input_digests]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    @cached_property
    def input_digests(self) -> dict[str, str]:
        """Digest of each input by its file name, computed once: a model's weights have many gigabytes.

        Inputs of the same name have that of their folder, too.
        """
        names = [path.name for path in self.inputs]
        return {"/".join(path.parts[-min(names.count(path.name), 2) :]): digest(path) for path in self.inputs}

    def resume(self, folder: Path) -> None:
        """Add the cost of the earlier start that left `folder`, if there was one."""
        with suppress(OSError, ValueError):
            self.before = json.loads((folder / SPENT).read_text(encoding="utf-8"))

    def keep(self, folder: Path) -> None:
        """Write the cost so far to `folder`, for a start that resumes there."""
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
            code=self.code,
            params=self.params,
            inputs=self.input_digests,
            versions=versions() | OTHER_VERSIONS,
            cost=self.spent() | cost,
        )


def together(costs: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the total cost of several runs: sums, and for memory the highest peak."""
    total: dict[str, float] = {}
    for cost in costs:
        for name, value in cost.items():
            peak = name == "peak_memory_mb"
            total[name] = max(total.get(name, 0.0), value) if peak else round(total.get(name, 0.0) + value, 3)
    return total


def _usages() -> list[resource.struct_rusage]:
    """Return the usage of this process, and of its child processes that have ended."""
    return [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]


def _cpu_seconds() -> float:
    return sum(usage.ru_utime + usage.ru_stime for usage in _usages())


@cache  # reading them takes some 20 ms, and a rollout on a server writes each episode
def versions() -> dict[str, str]:
    """Return versions of the installed packages that can change a result."""
    installed = {}
    for name in PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def digest(path: Path | str) -> str:
    """Return the SHA-256 of a file, or of a folder's files with their names, as 16 hex digits."""
    path = Path(path)
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    total = hashlib.sha256()
    for file in files:
        total.update(str(file.relative_to(path)).encode() + b"\0")
        with file.open("rb") as content:
            while chunk := content.read(2**20):
                total.update(chunk)
    return total.hexdigest()[:16]
