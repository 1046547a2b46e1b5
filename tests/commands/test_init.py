"""atp init: the folder that it makes, and folders that it refuses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-m", *command], cwd=folder, env=environment, capture_output=True, text=True)


def test_a_new_folder_has_a_study_models_and_a_readme_and_runs_other_studies_by_name(tmp_path):
    (tmp_path / "empty").mkdir()
    assert run(tmp_path, "atp.cli", "init", "empty").returncode == 0
    folder = tmp_path / "empty"
    assert {path.name for path in folder.iterdir()} == {"Snakefile", "README.md", "config", "workflow"}
    assert all((folder / "config" / file).is_file() for file in ("models/organism.yaml", "schemas/study.schema.json"))
    assert str(ROOT) not in (folder / "Snakefile").read_text()
    jobs = {}
    for study in ("quick", "phase", "mine"):
        (folder / "config/studies/mine.yaml").write_text((folder / "config/studies/quick.yaml").read_text())
        given = [] if study == "quick" else ["--config", f"study={study}", "seeds=[0,1]"]
        given += ["--profile", "workflow/profiles/slurm"] if study == "mine" else []
        planned = run(folder, "snakemake", "-n", "--cores", "1", *given)
        assert planned.returncode == 0 and f"results/{study}/report.html" in planned.stdout, planned.stderr
        jobs[study] = planned.stdout.count("rule align:")
    assert jobs == {"quick": 1, "phase": 0, "mine": 2}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("full", "full: is not empty; give the name of a new folder"),
        (".", ".: is not empty; give"),
        ("", ".: is not empty; give"),
        ("full/file", "full/file: no folder can be made there (File exists); choose another one"),
        ("full/file/study", "full/file/study: no folder can be made there (Not a directory); choose another one"),
        ("x" * 300, "xxx: no folder can be made there (File name too long); choose another one"),
    ],
)
def test_a_folder_that_is_refused_is_one_line_and_stays_as_it_is(tmp_path, name, message):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    result = run(tmp_path, "atp.cli", "init", name)
    assert result.returncode == 1 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("atp: ") and message in line
    assert sorted(tmp_path.rglob("*")) == before
