"""`atp new testbed` and `atp check` as a new user meets them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from atp.errors import AtpError
from atp.extend.check import failures
from atp.extend.new import SKELETON, new_testbed

ROOT = Path(__file__).parents[2]
MAX_LINES = 150


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m COMMAND` in a folder outside the project."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-m", *command], cwd=folder, env=environment, capture_output=True, text=True)


def test_a_new_testbed_is_small_and_works_at_once(tmp_path):
    written = run(tmp_path, "atp.cli", "new", "testbed", "night_shift")
    names = ["night_shift.py", "night_shift.yaml", "test_night_shift.py"]
    assert written.stdout.splitlines() == [f"wrote {name}" for name in names]
    assert sum(len((tmp_path / name).read_text().splitlines()) for name in names) <= MAX_LINES
    assert "NightShiftScenario" in (tmp_path / names[0]).read_text()
    assert not any(SKELETON in (tmp_path / name).read_text().lower() for name in names)
    checked = run(tmp_path, "atp.cli", "check", "night_shift.py")
    assert checked.returncode == 0 and checked.stdout.endswith("\nall rules hold\n"), checked.stdout
    tested = run(tmp_path.parent, "pytest", "-q", str(tmp_path), "-p", "no:cacheprovider")
    assert tested.returncode == 0 and re.search(r"^1 passed", tested.stdout, re.MULTILINE), tested.stdout


def test_a_broken_testbed_fails_its_test_and_its_check(tmp_path):
    (path, *_) = new_testbed("duel", tmp_path)
    path.write_text(path.read_text().replace("{None: 0.0,", "{None: 1000.0,"))
    assert [row.rule for row in failures(path)] == ["an invalid reply never pays more"]
    checked = run(tmp_path, "atp.cli", "check", "duel.py")
    assert checked.returncode == 1 and checked.stderr == ""
    line = (
        r"  an invalid reply never pays more +fails +duel.py:\d+: an invalid reply pays 1000, more than 'honest' with"
    )
    assert re.search(line, checked.stdout) and checked.stdout.endswith("\n1 of the rules fail\n")


@pytest.mark.parametrize(
    "name", ["Duel", "2duel", "_duel", "my-duel", "role_play", "figures", "random", "atp", "duél", ""]
)
def test_a_name_that_cannot_be_used_is_refused(tmp_path, name):
    with pytest.raises(AtpError, match=rf"^new testbed {name}: "):
        new_testbed(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_no_file_is_overwritten(tmp_path):
    (tmp_path / "duel.yaml").write_text("")
    with pytest.raises(AtpError, match=r"duel.yaml: exists already, choose another name or folder"):
        new_testbed("duel", tmp_path)
    assert len(new_testbed("duel", tmp_path / "a/b")) == 3


def test_the_scenarios_of_a_check_can_be_set(tmp_path):
    (path, templates, _) = new_testbed("duel", tmp_path)
    moved = templates.rename(tmp_path / "moved.yaml")
    failing = run(tmp_path, "atp.cli", "check", path.name)
    assert failing.returncode == 1 and "duel.yaml: no such file" in failing.stdout
    assert run(tmp_path, "atp.cli", "check", path.name, "--set", f"path={moved}").returncode == 0
    wrong = run(tmp_path, "atp.cli", "check", path.name, "--set", "file=x")
    assert wrong.returncode == 1 and "scenarios.file: unknown key, allowed are path" in wrong.stdout
