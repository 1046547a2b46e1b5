"""Conda files and lock: what stages import and nothing else, in the versions of requirements.lock."""

import json
import re
import shutil
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

from atp.rollout import Cell, rollout_stage
from envs.write import MODELS, ROOT, closure, conda_file, environments, locked, needs, third_party

LOCK = (ROOT / "requirements.lock").read_text().splitlines()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENVIRONMENTS = environments()
#: What torch needs besides where it is built for GPUs, and pins itself.
CUDA = ("nvidia-", "cuda-", "triton")

#: Runs a script as Snakemake does, which appends its own packages' folder and the script's to the path.
RUN = """
import json, runpy, sys
from pathlib import Path
from types import SimpleNamespace
sys.path += [sys.argv[2], str(Path(sys.argv[1]).parent)]
told = json.loads(sys.argv[3])
told = {key: SimpleNamespace(**value) if isinstance(value, dict) else value for key, value in told.items()}
runpy.run_path(sys.argv[1], {"snakemake": SimpleNamespace(rule="", threads=1, **told)})
files = [str(getattr(module, "__file__", "")) for module in sys.modules.values()]
assert sys.argv[2].startswith(sys.prefix) or not any(file.startswith(sys.argv[2]) for file in files)
"""

WHERE = """
import subprocess, sys
from stage import stage
with stage(snakemake):
    import atp
    print(atp.__file__, flush=True)
    subprocess.run([sys.executable, "-c", "import atp; print(atp.__file__)"], check=True)
"""


def conda(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / f"envs/{name}.yaml").read_text())


def pins(name: str) -> list[str]:
    return conda(name)["dependencies"][-1]["pip"]


def dependencies() -> list[Requirement]:
    """What pyproject.toml asks for, the tools of `make lint` and `make test` with it."""
    return [Requirement(line) for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]]


def test_every_rule_with_a_script_has_a_conda_file():
    rules = "".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))
    blocks = {block.split(":")[0]: block for block in re.split(r"^rule ", rules, flags=re.MULTILINE)[1:]}
    with_script = {name for name, block in blocks.items() if "    script:" in block}
    assert len(with_script) > 8
    assert {name for name, block in blocks.items() if "    conda:" in block} == with_script
    assert {path.stem for path in (ROOT / "envs").glob("*.yaml")} == set(ENVIRONMENTS)
    scripts = {path.stem for path in (ROOT / "workflow/scripts").glob("*.py")}
    assert {script for each in ENVIRONMENTS.values() for script in each} == scripts - {"stage", "unlock"}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_conda_file_is_what_its_stages_import_at_the_locks_versions(name):
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


def test_imports_are_followed_into_functions_packages_and_no_further():
    assert {"simpleeval", "pydantic", "polars"} <= third_party(["filter"])
    assert "altair" not in third_party(["filter"])
    assert "datasets" in third_party(["scenarios"])  # in a function, for problem sets of the hub
    assert "torch" in third_party(["filter"]) and "torch" not in third_party(["filter"], without=MODELS)


def test_the_lock_is_what_the_project_needs_and_nothing_else():
    needed = {name for name in closure(dependencies()) if not name.startswith(CUDA)}
    assert set(locked()) == needed
    versions = {name: pin.split("==")[1] for name, pin in locked().items()}
    asked = [*dependencies(), *(need for name in needed for need in needs(name))]
    wrong = [
        str(need)
        for need in asked
        if not need.name.startswith(CUDA) and versions[canonicalize_name(need.name)] not in need.specifier
    ]
    assert wrong == []
    installed = {name: metadata.version(name).split("+")[0] for name in versions}
    assert installed == versions, "the environment is not the lock's: run make"


def test_a_script_finds_the_package_beside_it_and_so_do_processes_it_starts(tmp_path):
    for part in ("atp", "workflow/scripts"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "workflow/scripts/where.py").write_text(WHERE)
    run(sys.executable, "where", tmp_path / "elsewhere", tmp_path)
    assert (tmp_path / "elsewhere/where.log").read_text().split() == [str(tmp_path / "atp/__init__.py")] * 2


@pytest.mark.slow
def test_stages_run_in_an_environment_of_their_pins_alone(tmp_path):
    """Conda's Python is a plain one here; what pip adds to it is the file's, and exactly that."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    python = str(tmp_path / "env/bin/python")
    pip = [python, "-m", "pip", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", *pins("tables")], check=True)
    frozen = subprocess.run([*pip, "freeze"], check=True, capture_output=True, text=True).stdout
    assert sorted(frozen.split()) == sorted(pins("tables"))

    scenarios, turns = tmp_path / "scenarios.parquet", tmp_path / "turns.parquet"
    templates = {"files": [str(ROOT / "config/templates/role_play.yaml")]}
    settings = {"settings": {"train": 4, "test": 2}}
    wildcards = {"testbed": "role_play"}
    run(python, "scenarios", tmp_path, input=templates, params=settings, wildcards=wildcards, output=[str(scenarios)])
    cell = Cell("scripted:random", "role_play", "none", "plain", 0, "weights", 0)
    rollout_stage(scenarios, turns, cell, {"deployment": {"rounds": 1}}, "train", 4)
    kept, measures = tmp_path / "selection.parquet", tmp_path / "measures.parquet"
    best = {"settings": {"name": "best_of_n"}}
    run(python, "filter", tmp_path, input={"turns": str(turns)}, params=best, output=[str(kept)])
    played = {"turns": [str(turns)], "evaluations": []}
    run(python, "measure", tmp_path, input=played, output=[str(measures)])
    assert kept.stat().st_size and measures.stat().st_size


def run(python: str, script: str, folder: Path, project: Path = ROOT, **told: Any) -> None:
    """Run a stage's script with another Python, from a folder that is not the project's."""
    folder.mkdir(exist_ok=True)
    log = folder / f"{script}.log"
    told["log"] = [str(log)]
    arguments = [str(project / f"workflow/scripts/{script}.py"), sysconfig.get_path("purelib"), json.dumps(told)]
    env = {"CONDA_PREFIX": str(Path(python).parents[1])}
    result = subprocess.run([python, "-c", RUN, *arguments], cwd=folder, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr + (log.read_text() if log.exists() else "")
