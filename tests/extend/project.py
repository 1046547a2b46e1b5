"""A copy of the project, in which a study of a plug-in runs."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
HARBOUR = ROOT / "tests/plugins/harbour.py"
PARTS = ("Snakefile", "atp", "config", "envs", "workflow")


@dataclass(frozen=True)
class Project:
    """A copy of the project in a folder of its own, where `site` holds further packages."""

    folder: Path

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run `atp …`, `snakemake …` or `pytest …` in the folder, with the copy's package."""
        program, *arguments = map(str, command)
        module = "atp.cli" if program == "atp" else program
        path = os.pathsep.join([str(self.folder), str(self.folder / "site")])
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
        )

    def write(self, name: str, text: str) -> Path:
        """Write a file of the project."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path


def copy_project(folder: Path) -> Project:
    """Copy the project to a folder, with the tests' plug-in and links to the model organisms."""
    for part in PARTS:
        source, ignored = ROOT / part, shutil.ignore_patterns("__pycache__", ".snakemake")
        shutil.copytree(source, folder / part, ignore=ignored) if source.is_dir() else shutil.copy2(source, folder)
    (folder / "resources").symlink_to(ROOT / "resources")
    (folder / "plugins").mkdir()
    for file in HARBOUR.parent.glob("harbour.*"):
        shutil.copy(file, folder / "plugins")
    return Project(folder)
