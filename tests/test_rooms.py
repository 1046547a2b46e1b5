"""The house's order: who may import whom, how long a file may be, and what must not load at the front door."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "atp"
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 450

#: Rooms in the order of CONTRIBUTING.md: a module imports only from its own room and from those before it.
ROOMS = (
    "errors explain units provenance artifacts progress stopping tools scenarios testbeds agents organism rollout "
    "judging filtering training replay alignment config sizes measures report show plan cli bench gpu_check"
).split()

HEAVY = set("torch trl transformers peft datasets altair scipy statsmodels snakemake inspect_ai".split())


def module(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[str]:
    """Modules of the package that a file imports anywhere, in functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "atp")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            if node.module == "atp":
                yield from (f"atp.{alias.name}" for alias in node.names)
            elif node.module and node.module.startswith("atp."):
                yield node.module


def room(name: str) -> int:
    return ROOMS.index(name.split(".")[1])


def test_a_module_imports_only_from_rooms_before_its_own():
    seen = {(module(path), name) for path in FILES if module(path) != "atp" for name in imports(path)}
    assert len(seen) > 60
    assert {(importer, name) for importer, name in seen if room(name) > room(importer)} == set()


def test_every_room_has_a_place_in_the_order():
    assert {module(path).split(".")[1] for path in FILES if module(path) != "atp"} <= set(ROOMS)
    assert list(imports(PACKAGE / "__init__.py")) == []


def test_testbeds_touch_no_model_file_or_clock():
    pure = "atp collections dataclasses decimal fractions functools json math pydantic random re typing"
    allowed = {*pure.split(), "latex2sympy2_extended", "math_verify", "sympy"}  # the last ones compare answers
    for path in (PACKAGE / "testbeds").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {name.split(".")[0] for name in names} <= allowed, path
            assert not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open"), path


def test_no_file_is_long():
    lengths = {module(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {name: length for name, length in lengths.items() if length >= LONGEST} == {}


@pytest.mark.parametrize("names", ["atp.cli", "atp.config atp.testbeds atp.scenarios.stage atp.rollout atp.measures"])
def test_the_front_door_opens_without_heavy_libraries(names):
    code = f"import sys, {', '.join(names.split())}; print(*{{name.split('.')[0] for name in sys.modules}})"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True
    )
    assert "pydantic" in loaded.stdout.split()
    assert HEAVY & set(loaded.stdout.split()) == set()
