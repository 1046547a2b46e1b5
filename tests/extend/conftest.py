"""What tests of extensions share: a registry that forgets plug-ins, and a copy of the project in which a study runs."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from atp import registry
from atp.tools import TOOLS

ROOT = Path(__file__).parents[2]
HARBOUR = ROOT / "tests/plugins/harbour.py"
PARTS = ("Snakefile", "atp", "config", "envs", "workflow")


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget the plug-ins that a test loads."""
    tools = dict(TOOLS)
    monkeypatch.setattr(registry, "_plugins", dict(registry._plugins))
    yield
    for name in [name for name in sys.modules if name.startswith(registry.PLUGIN)]:
        del sys.modules[name]
    for name in TOOLS.keys() - tools.keys():
        del TOOLS[name]


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


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a copy of the project, whose model organisms are those of the project itself."""
    folder = tmp_path_factory.mktemp("project")
    for part in PARTS:
        source, ignored = ROOT / part, shutil.ignore_patterns("__pycache__", ".snakemake")
        shutil.copytree(source, folder / part, ignore=ignored) if source.is_dir() else shutil.copy2(source, folder)
    (folder / "resources").symlink_to(ROOT / "resources")
    (folder / "plugins").mkdir()
    for file in HARBOUR.parent.glob("harbour.*"):
        shutil.copy(file, folder / "plugins")
    return Project(folder)
