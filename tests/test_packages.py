"""The codebase's structure: order of packages, length of files, names of testbeds, and imports of heavy libraries."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "atp"
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 450

#: Packages in the order of CONTRIBUTING.md: a module imports only from its own package and from those before it.
ORDER = (
    "errors units progress explain stopping time_limit files tools testbed definitions registry parsing scenarios "
    "models agents organism measures rollout training memory report testbeds study export extend arguments "
    "commands cli bench gpu_check"
).split()
#: What packages may import at the bottom of the order, where it is stricter.
STRICT = {"files": {"errors"}, "tools": {"errors"}, "testbed": {"tools"}}

TESTBEDS = sorted(path.parent.name for path in (PACKAGE / "testbeds").glob("*/__init__.py"))
#: Files that may name testbeds: they measure the speed of particular ones.
NAMES_TESTBEDS = ("bench.py", "gpu_check.py")
#: Folders and files, apart from those of testbeds, that name no testbed, and the types of their files.
SEARCHED = ("atp", "workflow", "Snakefile")
TEXT_FILES = (".py", ".smk", ".j2", ".js", ".css", ".yaml", ".rst", "")

HEAVY = set("torch trl transformers peft datasets altair scipy statsmodels snakemake inspect_ai".split())


def module(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[str]:
    """Yield the modules of the package that a file imports anywhere, including in functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "atp")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            if node.module == "atp":
                yield from (f"atp.{alias.name}" for alias in node.names)
            elif node.module and node.module.startswith("atp."):
                yield node.module


def package(name: str) -> str:
    return name.split(".")[1]


IMPORTS = {(module(path), name) for path in FILES if module(path) != "atp" for name in imports(path)}


def test_a_module_imports_only_from_packages_before_its_own():
    assert len(IMPORTS) > 60
    place = {name: number for number, name in enumerate(ORDER)}
    assert {pair for pair in IMPORTS if place[package(pair[1])] > place[package(pair[0])]} == set()


def test_packages_have_no_import_cycle():
    graph: dict[str, set[str]] = {}
    for importer, imported in IMPORTS:
        if package(importer) != package(imported):
            graph.setdefault(package(importer), set()).add(package(imported))
    assert {*TopologicalSorter(graph).static_order()} <= set(ORDER)  # raises CycleError
    assert {name for name, allowed in STRICT.items() if graph.get(name, set()) - allowed} == set()


def test_every_package_has_a_place_in_the_order():
    assert {package(module(path)) for path in FILES if module(path) != "atp"} == set(ORDER)
    assert list(imports(PACKAGE / "__init__.py")) == []


def test_contributing_lists_the_packages_in_their_order():
    table = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("| package |")[2].partition("\n\n")[0]
    cells = [line.split("|")[1] for line in table.splitlines()[2:]]
    names = [name for cell in cells for name in re.findall(r"`(?:atp/)?(\w+)(?:\.py|/(?:NAME/)?)`", cell)]
    assert [name for name in names if name != "workflow"] == ORDER


def test_testbeds_do_not_import_each_other():
    def testbed(name: str) -> str:
        return name.split(".")[2] if name.count(".") > 1 else ""

    between = {pair for pair in IMPORTS if package(pair[0]) == package(pair[1]) == "testbeds"}
    assert between
    assert {(importer, imported) for importer, imported in between if testbed(importer) != testbed(imported)} == set()


def searched_files() -> Iterator[Path]:
    for name in SEARCHED:
        top = ROOT / name
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            of_testbed = any(PACKAGE / "testbeds" / testbed in path.parents for testbed in TESTBEDS)
            exempt = of_testbed or path.name in NAMES_TESTBEDS or "__pycache__" in path.parts
            if path.is_file() and path.suffix in TEXT_FILES and not exempt:
                yield path


def test_nothing_outside_a_testbed_names_it():
    """Neither in code nor in strings and comments, whether with an underscore, a hyphen or a space.

    "code" is also a word: of this testbed, its folder and its module are searched for.
    """
    assert len(TESTBEDS) == 5 and len(list(searched_files())) > 100
    names = ["testbeds[./]code" if name == "code" else name.replace("_", "[_ -]?") for name in TESTBEDS]
    pattern = re.compile("|".join(names), re.IGNORECASE)
    lines = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in searched_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line) or pattern.search(path.name)
    ]
    assert lines == []


def test_games_touch_no_model_file_or_clock():
    pure = "ast atp collections dataclasses decimal fractions functools json math pydantic random re typing unicodedata"
    allowed = {*pure.split(), "latex2sympy2_extended", "math_verify", "pint", "sympy"}  # the last ones compare answers
    games = [*(PACKAGE / "testbeds").glob("*/game.py"), *(PACKAGE / "parsing").glob("*.py")]
    assert len(games) > len(TESTBEDS)
    for path in games:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {name.split(".")[0] for name in names} <= allowed, path
            assert not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open"), path


def test_no_file_is_long():
    lengths = {module(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {name: length for name, length in lengths.items() if length >= MAX_LINES} == {}


@pytest.mark.parametrize(
    "names",
    ["atp.cli", "atp.study.read atp.registry atp.scenarios.sources atp.rollout.engine atp.measures.rates"],
)
def test_imports_without_heavy_libraries(names):
    code = f"import sys, {', '.join(names.split())}; print(*{{name.split('.')[0] for name in sys.modules}})"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True
    )
    assert "pydantic" in loaded.stdout.split()
    assert HEAVY & set(loaded.stdout.split()) == set()


def test_no_function_has_more_than_six_arguments():
    """Options of a command and class methods' own object do not count."""
    for path in sorted((ROOT / "atp").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and path.name != "cli.py":
                names = [each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
                assert len([name for name in names if name not in ("self", "cls")]) <= 6, f"{path}: {node.name}"
