"""What the wheel holds, and a study run by nothing but the wheel, in an environment of its own."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
UV = Path(sys.executable).with_name("uv")
#: Folders of the clone, and where the wheel has them.
FOLDERS = {"atp": "atp", **{name: f"atp/shipped/{name}" for name in ("config", "envs", "resources", "workflow")}}
MAX_BYTES = 15_000_000
#: Shortens the study of a new folder to seconds.
SHORT = (
    "alignments=[none]",
    "testbeds={role_play: {scenarios: {test: 4}, settings: {rounds: 2}, context: {samples: 1}, weights: null}}",
)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Return a folder with the source distribution and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    run(ROOT, sys.executable, "-m", "build", "--no-isolation", "--outdir", folder)
    return folder


def run(folder: Path, *command: str | Path) -> str:
    """Run a command in a folder where Python does not find the clone, and return what it prints."""
    done = execute(folder, *command)
    assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


def execute(folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Do the same, and return how the command ended."""
    removed = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in removed}
    environment.setdefault("UV_FIND_LINKS", os.environ.get("PIP_FIND_LINKS", ""))
    return subprocess.run(list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True)


def shipped_files() -> dict[str, Path]:
    """Return the clone's files by their names in the wheel."""
    return {
        f"{there}/{path.relative_to(ROOT / here)}": path
        for here, there in FOLDERS.items()
        for path in (ROOT / here).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path != ROOT / "envs/write.py"
    }


def test_the_wheel_holds_package_config_organisms_and_workflow_and_nothing_else(built):
    (wheel,) = built.glob("alignment_tipping-*-py3-none-any.whl")
    expected = shipped_files()
    with zipfile.ZipFile(wheel) as archive:
        contents = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
    assert contents.keys() == expected.keys()
    assert [name for name, path in expected.items() if contents[name] != path.read_bytes()] == []
    weights = [name for name in contents if name.endswith("model.safetensors")]
    assert len(weights) == 4 and all(len(contents[name]) > 2**20 for name in weights)
    assert wheel.stat().st_size < MAX_BYTES
    with zipfile.ZipFile(wheel) as archive:
        [metadata] = [
            archive.read(name).decode() for name in archive.namelist() if name.endswith(".dist-info/METADATA")
        ]
    description = metadata.partition("\n\n")[2]
    assert "atp init" in description and not re.search(r"\]\(|src|://", description)  # no link that an index breaks
    places = [f"{folder}/".encode() for folder in (ROOT, Path.home())]
    assert [name for name, data in contents.items() if any(place in data for place in places)] == []


def test_the_source_distribution_holds_the_workflow_and_the_lock_but_no_tests(built):
    (source,) = built.glob("alignment_tipping-*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = ("Snakefile", "Containerfile", "requirements.lock", "workflow/Snakefile", "config/studies/demo.yaml")
    assert set(needed) <= names and source.stat().st_size < MAX_BYTES
    assert {name.partition("/")[0] for name in names} & {"tests", ".venv", "results", "models"} == set()


def test_the_container_file_copies_all_that_the_wheel_is_built_from(tmp_path):
    """No builder of images is needed: the wheel is built from what its COPY lines name."""
    for line in re.findall("^COPY (.+)$", (ROOT / "Containerfile").read_text(), re.MULTILINE):
        *sources, _ = line.split()
        for source in sources:
            (shutil.copytree if (ROOT / source).is_dir() else shutil.copy)(ROOT / source, tmp_path / source)
    run(tmp_path, sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist")
    (wheel,) = tmp_path.glob("dist/*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == shipped_files().keys()


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory) -> Path:
    """Return the programs of an environment in which only the wheel and what it needs are installed."""
    folder = tmp_path_factory.mktemp("clean")
    run(folder, UV, "venv", "--python", sys.executable, "env")
    install: Sequence[str | Path] = (UV, "pip", "install", "--python", "env/bin/python")
    probe = execute(folder, *install, "--dry-run", "--no-deps", "--refresh-package", "typer", "typer")
    if probe.returncode:
        pytest.skip(f"the package index cannot be reached: {probe.stderr.split('cause: ')[-1].strip()}")
    run(folder, *install, "-c", ROOT / "requirements.lock", *built.glob("*.whl"))
    return folder / "env/bin"


@pytest.mark.stages
def test_an_installed_wheel_makes_a_folder_and_runs_its_study_to_the_report(installed, tmp_path):
    """The folder's name has a space."""
    where = run(tmp_path, installed / "python", "-c", "import atp; print(atp.__file__)")
    assert Path(where).is_relative_to(installed.parent)
    assert "cd 'my study' && snakemake --cores all" in run(tmp_path, installed / "atp", "init", "my study")
    study = tmp_path / "my study"
    assert run(study, installed / "snakemake", "-n").count("rule finetune:") == 4
    run(study, installed / "snakemake", "--cores", "2", "--config", *SHORT)
    assert "all_unsupervised" in (study / "results/quick/report.html").read_text()


@pytest.mark.stages
def test_an_installed_wheel_plays_stages_and_plans_shipped_studies_in_any_folder(installed, tmp_path):
    atp = installed / "atp"
    run(tmp_path, atp, "scenarios", "--testbed", "role_play", "--train", "0", "--test", "2", "--out", "s.parquet")
    agent = ("--agent", "organism", "--rounds", "1")
    run(tmp_path, atp, "rollout", "--scenarios", "s.parquet", *agent, "--out", "t.parquet")
    assert "round" in run(tmp_path, atp, "show", "t.parquet")
    assert "rollout" in run(tmp_path, atp, "plan", "quick")
