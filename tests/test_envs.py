"""Conda files and lock: the packages that stages import and no others, with the versions of requirements.lock."""

import json
import subprocess
import sys
import sysconfig
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from atp.files.provenance import Job
from atp.measures.job import MeasureJob
from atp.rollout.engine import RolloutJob, rollout_stage
from atp.rollout.table import Cell
from atp.scenarios.sources import ScenariosJob
from atp.study.stages import MODULES
from atp.training.filters import FilterJob
from envs.write import ROOT, closure, conda_file, environments, locked, needs, third_party

LOCK = (ROOT / "requirements.lock").read_text().splitlines()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENVIRONMENTS = environments()
#: Further packages that torch needs if it is built for GPUs, and whose versions it fixes.
CUDA = ("nvidia-", "cuda-", "triton")

#: Run a script as Snakemake does, which appends the folders of its own packages and of the script to the path.
RUN = """
import json, runpy, sys
from pathlib import Path
from types import SimpleNamespace
sys.path += [str(Path(sys.argv[1]).parents[2]), sys.argv[2], str(Path(sys.argv[1]).parent)]
attributes = {"input": {}, "resources": {}} | json.loads(sys.argv[3])
attributes |= {"params": SimpleNamespace(**attributes["params"]), "scriptdir": str(Path(sys.argv[1]).parent)}
runpy.run_path(sys.argv[1], {"snakemake": SimpleNamespace(rule="", threads=1, **attributes)})
files = [str(getattr(module, "__file__", "")) for module in sys.modules.values()]
assert sys.argv[2].startswith(sys.prefix) or not any(file.startswith(sys.argv[2]) for file in files)
"""


def conda(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / f"envs/{name}.yaml").read_text())


def pins(name: str) -> list[str]:
    return conda(name)["dependencies"][-1]["pip"]


def canonical(pin: str) -> str:
    """Return NAME==VERSION with the name as indexes compare it."""
    name, _, version = pin.partition("==")
    return f"{canonicalize_name(name)}=={version}"


def dependencies() -> list[Requirement]:
    """Return the dependencies of pyproject.toml, including the tools of `make lint` and `make test`."""
    return [Requirement(line) for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]]


def test_every_stage_has_a_conda_file():
    assert {stage for stages in ENVIRONMENTS.values() for stage in stages} == MODULES.keys() - {"transplant"}
    assert {path.stem for path in (ROOT / "envs").glob("*.yaml")} == set(ENVIRONMENTS)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_conda_file_has_the_imports_of_its_stages_and_the_locks_versions(name):
    path = ROOT / "envs" / f"{name}.yaml"
    assert path.read_text() == conda_file(name, ENVIRONMENTS[name]), "run python envs/write.py"
    assert set(pins(name)) <= set(LOCK)
    assert conda(name)["channels"] == ["conda-forge", "nodefaults"]
    python, pip, _ = conda(name)["dependencies"]
    assert pip == "pip" and python.removeprefix("python=") in SpecifierSet(PROJECT["requires-python"])


def test_only_stages_with_models_get_torch():
    named = {name: {pin.split("==")[0] for pin in pins(name)} for name in ENVIRONMENTS}
    assert {"torch", "transformers", "peft", "trl", "accelerate", "safetensors", "tokenizers"} <= named["agents"]
    assert {name for name in named if "torch" in named[name]} == {"agents"}
    assert {name for name in named if "altair" in named[name]} == {"report"}
    assert {"polars", "scipy", "datasets", "PyYAML", "math-verify"} <= named["tables"]
    assert not {"pytest", "ruff", "snakemake"} & set.union(*named.values())


def test_imports_are_followed_into_functions_packages_and_testbeds():
    assert {"simpleeval", "pydantic", "polars"} <= third_party(["filter"])
    assert "altair" not in third_party(["filter"]) and "altair" in third_party(["report"])
    assert "datasets" in third_party(["scenarios"])  # in a function of a testbed, for problem sets of the hub
    assert "math_verify" in third_party(["measure"])  # in a function of the parsers that a testbed uses
    assert "torch" in third_party(["filter"]) and "torch" not in third_party(["filter"], models=False)


def test_the_lock_has_the_projects_dependencies_and_no_others():
    needed = {name for name in closure(dependencies()) if not name.startswith(CUDA)}
    assert set(locked()) == needed
    versions = {name: pin.split("==")[1] for name, pin in locked().items()}
    requirements = [*dependencies(), *(need for name in needed for need in needs(name))]
    wrong = [
        str(need)
        for need in requirements
        if not need.name.startswith(CUDA) and versions[canonicalize_name(need.name)] not in need.specifier
    ]
    assert wrong == []
    installed = {name: metadata.version(name).split("+")[0] for name in versions}
    assert installed == versions, "the environment differs from the lock: run make"


@pytest.mark.slow
def test_stages_run_in_an_environment_of_their_pins_alone(tmp_path):
    """A virtual environment takes the place of conda; pip installs exactly the packages of the file."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    python = str(tmp_path / "env/bin/python")
    pip = [python, "-m", "pip", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", *pins("tables")], check=True)
    frozen = subprocess.run([*pip, "freeze"], check=True, capture_output=True, text=True).stdout
    assert sorted(map(canonical, frozen.split())) == sorted(map(canonical, pins("tables")))

    scenarios, turns = tmp_path / "scenarios.parquet", tmp_path / "turns.parquet"
    kept, measures = tmp_path / "selection.parquet", tmp_path / "measures.parquet"
    job = ScenariosJob(testbed="role_play", settings={"train": 4, "test": 2})
    run(python, "scenarios", tmp_path, job, scenarios)
    cell, variants = Cell("scripted:random", "role_play", channel="weights"), {"deployment": {"rounds": 1}}
    rollout_stage(RolloutJob(cell=cell, variants=variants, split="train", samples=4), scenarios, turns)
    run(python, "filter", tmp_path, FilterJob(filter={"name": "best_of_n"}), kept, turns=str(turns))
    run(python, "measure", tmp_path, MeasureJob(), measures, turns=[str(turns)])
    assert kept.stat().st_size and measures.stat().st_size


def run(python: str, stage: str, folder: Path, job: Job, out: Path, **inputs: Any) -> None:
    """Run a stage as the workflow does, with another Python, from another folder than the project's."""
    log, params = folder / f"{stage}.log", {"stage": stage, "jobs": [job.model_dump_json()]}
    attributes = {"params": params, "input": inputs, "output": [str(out)], "log": [str(log)]}
    arguments = [str(ROOT / "workflow/scripts/stage.py"), sysconfig.get_path("purelib"), json.dumps(attributes)]
    result = subprocess.run([python, "-c", RUN, *arguments], cwd=folder, env={}, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr + (log.read_text() if log.exists() else "")
