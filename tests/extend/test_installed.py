"""Extensions of an installed package: entry points, errors in them, and what a digest of their code covers."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from extend.project import ROOT

from atp.files.code import code_digest, imported
from atp.files.turns import read_turns

SKELETON = ROOT / "atp/extend/skeleton/skeleton.py"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Return a folder with an installed package that brings a testbed and a policy."""
    files = {
        "claims/__init__.py": "from .game import TESTBEDS\n",
        "claims/game.py": SKELETON.read_text().replace('name="skeleton"', 'name="claims"'),
        "claims/skeleton.yaml": SKELETON.with_suffix(".yaml").read_text(),
        "claims/policies.py": "def meek():\n    from . import rules\n\n    return rules.first\n",
        "claims/rules.py": '"""A rule.\n\nimport claims.unused\n"""\n\n\ndef first(observation, draw):\n'
        "    return next(iter(observation.answers))\n",
        "claims/unused.py": "",
        "claims-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: claims\nVersion: 1.0\n",
        "claims-1.0.dist-info/entry_points.txt": "[atp.testbeds]\nclaims = claims:TESTBEDS\n\n"
        "[atp.policies]\nmeek = claims.policies:meek\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def installed(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python ARGUMENTS` where the package is installed."""
    path = os.pathsep.join([str(site), str(ROOT)])
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=site, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)


SCENARIOS = ("-m", "atp.cli", "scenarios", "--testbed", "claims", "--test", "2", "--out", "s.parquet")
ROLLOUT = ("-m", "atp.cli", "rollout", "--scenarios", "s.parquet", "--agent", "scripted:meek", "--out", "t.parquet")


def test_an_installed_package_brings_a_testbed_and_a_policy(site):
    checked = installed(site, "-m", "atp.cli", "check", "claims")
    assert checked.returncode == 0 and checked.stdout.endswith("all rules hold\n"), checked.stderr
    for command in (SCENARIOS, ROLLOUT):
        assert installed(site, *command).returncode == 0
    assert {turn["decision"] for turn in read_turns(site / "t.parquet").to_pylist()} == {"honest"}


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("claims/game.py", "reward=reward", "reward=1 / 0", r".*/claims/game.py:\d+: ZeroDivisionError: .*, in play"),
        ("claims/rules.py", "next(", "len(", r".*/claims/rules.py:8: TypeError: object of type .*, in first"),
        (
            "claims/game.py",
            "import polars as pl",
            "import nothing",
            "entry point 'claims' of group atp.testbeds: .*/claim",
        ),
        (
            "claims/game.py",
            'name="claims"',
            'name="role_play"',
            "entry point 'claims' of .*: the testbed 'role_play' exi",
        ),
        (
            "claims/game.py",
            "price: int",
            "price: set[int]",
            r"entry point .* \(claims:TESTBEDS\): testbed 'claims': scenar",
        ),
        (
            "claims-1.0.dist-info/entry_points.txt",
            "policies:meek",
            "policies:bold",
            "entry point 'meek' of group atp.poli",
        ),
    ],
)
def test_an_error_in_an_installed_package_is_one_line(site, file, old, new, message):
    assert installed(site, *SCENARIOS).returncode == 0
    text = (site / file).read_text()
    assert old in text
    (site / file).write_text(text.replace(old, new))
    result = installed(site, *ROLLOUT)
    assert result.returncode == 1
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("atp: ")]
    assert re.match(f"atp: {message}", line) and "Traceback" not in result.stderr, result.stderr


def test_digests_follow_relative_imports_and_imports_in_functions_but_no_text(site, monkeypatch):
    monkeypatch.syspath_prepend(site)
    digests = {}
    for file in ("game", "rules", "unused"):
        before = (site / f"claims/{file}.py").read_text()
        (site / f"claims/{file}.py").write_text(f"{before}# A comment.\n")
        code_digest.cache_clear()
        digests[file] = [code_digest("claims"), code_digest("claims.policies")]
        (site / f"claims/{file}.py").write_text(before)
    code_digest.cache_clear()
    same = [code_digest("claims"), code_digest("claims.policies")]
    changed = {file: [one != other for one, other in zip(each, same, strict=True)] for file, each in digests.items()}
    # Importing claims.policies runs claims/__init__.py, but its names are not used: only `from . import` names it.
    assert changed == {"game": [True, True], "rules": [False, True], "unused": [False, False]}


@pytest.mark.parametrize(
    ("source", "parent", "names"),
    [
        ("import a.b, c", "", ["a.b", "c"]),
        ("from a import b", "", ["a", "a.b"]),
        ("def f():\n    from a.b import c", "", ["a.b", "a.b.c"]),
        ("from . import c", "a.b", ["a.b", "a.b.c"]),
        ("from .c import d", "a.b", ["a.b.c", "a.b.c.d"]),
        ("from ..c import d", "a.b", ["a.c", "a.c.d"]),
        ("from ...c import d", "a.b", []),
        ("from . import c", "", []),
        ('"""from a import b"""\ntext = "import a"', "", []),
    ],
)
def test_imports_are_read_from_the_syntax_tree(source, parent, names):
    assert list(imported(source.encode(), parent)) == names
