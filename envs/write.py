"""Write the conda files for `snakemake --sdm conda`, one for each environment that rules name.

    python envs/write.py

Run it after a change of imports or of requirements.lock. A file lists the packages that its stages import, and their
dependencies, with the versions of requirements.lock. They are packages of pip and not of conda, because the lock was
tested with these builds. Dependencies are listed too, because Snakemake copies a conda file before it uses it, so that
the file cannot refer to the lock. Packages that the lock lacks are left to pip: the CUDA libraries, whose versions
torch fixes.
"""

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from atp.registry import entries, sources
from atp.study.stages import MODULES

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "workflow" / "scripts"
PYTHON = "3.11"  #: The oldest supported version, with which the tests run.

#: The environment whose stages load, train or call models.
WITH_MODELS = "agents"
#: Packages whose functions import the libraries for that. Other environments' stages do not call these functions.
MODEL_PACKAGES = ("atp.agents.", "atp.models.", "atp.organism.", "atp.training.")

#: Packages that only some machines have; vLLM may be in another Python (docs/models.md).
OPTIONAL = ("vllm", "sentence_transformers")

#: The module that imports, in a function, all stages.
STAGES = "atp.study.stages"

#: What every environment has for plug-ins, which define measures and figures in the file that also defines the game.
PLUGIN_MODULES = {"polars"}

TEXT = """\
# Written by envs/write.py from requirements.lock. Snakemake itself is that of the run that starts the job.
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
    """Write all files and print their paths."""
    for name, stages in environments().items():
        path = ROOT / "envs" / f"{name}.yaml"
        path.write_text(conda_file(name, stages), encoding="utf-8")
        print(path)


def environments() -> dict[str, list[str]]:
    """Return the stages that run in each environment, from the rules, which have their names, and their `conda`."""
    stages: dict[str, list[str]] = {}
    for file in sorted((ROOT / "workflow/rules").glob("*.smk")):
        for rule in re.split(r"^rule ", file.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
            if conda := re.search(r'/envs/(\w+)\.yaml"', rule):
                stages.setdefault(conda[1], []).append(rule.partition(":")[0])
    return stages


def conda_file(name: str, stages: Iterable[str]) -> str:
    """Return the text of an environment's conda file."""
    pins = locked()
    modules = third_party(stages, models=name == WITH_MODELS) | PLUGIN_MODULES
    names = sorted(closure(distributions(modules)) & pins.keys())
    return TEXT.format(python=PYTHON, pins="\n".join(f"    - {pins[each]}" for each in names))


def locked() -> dict[str, str]:
    """Return the lines of requirements.lock by the package's normalised name."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    return {canonicalize_name(line.split("==")[0]): line for line in lines if line and not line.startswith("#")}


def third_party(stages: Iterable[str], models: bool = True) -> set[str]:
    """Return the top-level modules of other packages that stages import, including imports in functions.

    A stage imports what its module and the script of all stages import and, by name, modules of testbeds
    (`atp.registry.sources`).

    Args:
        models: whether imports in functions of MODEL_PACKAGES count.
    """
    names = list(stages)
    todo, seen, modules = ["stage", *(MODULES[name] for name in names), *testbed_modules(names)], set(), set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        path = _source(name)
        if path:
            # Python also runs the packages that contain a module.
            in_functions = name != STAGES and (models or not name.startswith(MODEL_PACKAGES))
            todo += [*_imports(path, in_functions), *([name.rpartition(".")[0]] if "." in name else [])]
        elif name.split(".")[0] not in ("atp", *OPTIONAL, *sys.stdlib_module_names):
            modules.add(name.split(".")[0])
    return modules


def testbed_modules(stages: Iterable[str]) -> list[str]:
    """Return the modules of all built-in testbeds that stages load by name."""
    testbeds = [name for name, entry in entries("testbeds").items() if entry.built_in]
    return [module for stage in stages for testbed in testbeds for module in sources(testbed, stage)]


def _source(name: str) -> Path | None:
    """Return the file of a module of atp, or of a script."""
    stem = ROOT.joinpath(*name.split(".")) if name.split(".")[0] == "atp" else SCRIPTS / name
    return next((path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()), None)


def _imports(path: Path, in_functions: bool) -> Iterator[str]:
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree) if in_functions else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def distributions(modules: Iterable[str]) -> set[Requirement]:
    """Return the packages that contain these modules."""
    known = metadata.packages_distributions()
    return {Requirement(name) for module in modules for name in known[module]}


def closure(requirements: Iterable[Requirement]) -> set[str]:
    """Return the normalised names of packages and all their dependencies, according to the installed metadata."""
    pairs: set[tuple[str, str]] = set()
    todo = [(need.name, extra) for need in requirements for extra in ("", *need.extras)]
    while todo:
        name, extra = todo.pop()
        if (canonicalize_name(name), extra) not in pairs:
            pairs.add((canonicalize_name(name), extra))
            todo += [(need.name, each) for need in needs(name, extra) for each in ("", *need.extras)]
    return {name for name, _ in pairs}


def needs(name: str, extra: str = "") -> Iterator[Requirement]:
    """Yield the dependencies of a package with one of its extras; none if it is not installed."""
    try:
        lines = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return
    for need in map(Requirement, lines):
        environment = {"extra": extra, "python_version": PYTHON, "python_full_version": f"{PYTHON}.0"}
        if need.marker is None or need.marker.evaluate(environment):
            yield need


if __name__ == "__main__":
    main()
