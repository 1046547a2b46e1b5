"""Write the conda files of `snakemake --sdm conda`, one an environment that rules name: run it when imports or
requirements.lock change.

    python envs/write.py

A file names what its stages' scripts import, import by import, and what those packages need, each as requirements.lock
pins it. They are pip's packages, not conda's, because only so are they the very builds that the lock was tested with.
All are named, not only what is imported: Snakemake copies a conda file before it is used, so that it cannot point at
the lock. What the lock does not hold (the CUDA libraries of torch, which torch pins itself) is left to pip.
"""

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "workflow" / "scripts"
PYTHON = "3.11"  #: The oldest that the project supports, which its tests run on.

#: What loads or asks a model is imported where one answers. Stages of other environments never get there.
MODELS = ("atp.agents.local", "atp.agents.served")
WITH_MODELS = "agents"

TEXT = """\
# Written by envs/write.py from requirements.lock. Snakemake, and what it needs, comes from the run that starts the job.
channels:
  - conda-forge
  - nodefaults
dependencies:
  - python={python}
  - pip
  - pip:
{pins}
"""


def main() -> None:
    for name, scripts in environments().items():
        path = ROOT / "envs" / f"{name}.yaml"
        path.write_text(conda_file(name, scripts), encoding="utf-8")
        print(path)


def environments() -> dict[str, list[str]]:
    """Names of the scripts that run in each environment, as the rules pair them."""
    found: dict[str, list[str]] = {}
    for file in sorted((ROOT / "workflow/rules").glob("*.smk")):
        for rule in re.split(r"^rule ", file.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
            conda, script = re.search(r'/envs/(\w+)\.yaml"', rule), re.search(r'/scripts/(\w+)\.py"', rule)
            if conda and script:
                found.setdefault(conda[1], []).append(script[1])
    return found


def conda_file(name: str, scripts: Iterable[str]) -> str:
    pins = locked()
    imported = third_party(scripts, without=() if name == WITH_MODELS else MODELS)
    wanted = sorted(closure(distributions(imported)) & pins.keys())
    return TEXT.format(python=PYTHON, pins="\n".join(f"    - {pins[each]}" for each in wanted))


def locked() -> dict[str, str]:
    """Lines of requirements.lock, by the package's normalised name."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    return {canonicalize_name(line.split("==")[0]): line for line in lines if line and not line.startswith("#")}


def third_party(scripts: Iterable[str], without: Iterable[str] = ()) -> set[str]:
    """Top-level modules, neither Python's nor ours, that scripts import, inside functions too."""
    found, todo, seen = set(), list(scripts), set(without)
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        path = _source(name)
        if path:
            # Python also runs the packages that a module stands in.
            todo += [*_imports(path), *([name.rpartition(".")[0]] if "." in name else [])]
        elif name.split(".")[0] not in ("atp", *sys.stdlib_module_names):
            found.add(name.split(".")[0])
    return found


def _source(name: str) -> Path | None:
    """File of a module of atp, or of a script, which others import by its mere name."""
    beside = ROOT.joinpath(*name.split(".")) if name.split(".")[0] == "atp" else SCRIPTS / name
    return next((path for path in (beside.with_suffix(".py"), beside / "__init__.py") if path.is_file()), None)


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def distributions(modules: Iterable[str]) -> set[Requirement]:
    """The packages that hold these modules."""
    known = metadata.packages_distributions()
    return {Requirement(name) for module in modules for name in known[module]}


def closure(wanted: Iterable[Requirement]) -> set[str]:
    """Normalised names of these packages and all that they need, as the installed ones say."""
    found: set[tuple[str, str]] = set()
    todo = [(need.name, extra) for need in wanted for extra in ("", *need.extras)]
    while todo:
        name, extra = todo.pop()
        if (canonicalize_name(name), extra) not in found:
            found.add((canonicalize_name(name), extra))
            todo += [(need.name, each) for need in needs(name, extra) for each in ("", *need.extras)]
    return {name for name, _ in found}


def needs(name: str, extra: str = "") -> Iterator[Requirement]:
    """What a package needs with one of its extras; nothing where it is not installed."""
    try:
        lines = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return
    for need in map(Requirement, lines):
        at = {"extra": extra, "python_version": PYTHON, "python_full_version": f"{PYTHON}.0"}
        if need.marker is None or need.marker.evaluate(at):
            yield need


if __name__ == "__main__":
    main()
