"""docs/extending.md is complete and correct: its files are written, and its commands run, in the order of the page."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields

import polars as pl
import pyarrow as pa
import pytest
from extend.project import ROOT, Project

from atp.extend.check import check
from atp.files.columns import to_arrow
from atp.organism.curriculum import Curriculum
from atp.registry import BUILT_IN, find_testbed
from atp.testbed import Observation, Prompt, Scenario, Settings, Testbed, Turn

PAGE = ROOT / "docs/extending.md"
TEXT = PAGE.read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w+)(?: ([^\n]*))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WILDCARD = "…"


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its options and its text."""

    language: str
    options: str
    text: str
    line: int

    def option(self, name: str) -> str | None:
        """Return the value of NAME="VALUE"."""
        match = re.search(rf'{name}="([^"]*)"', self.options)
        return match and match[1]


def blocks() -> Iterator[Block]:
    """Yield the page's blocks in order."""
    for match in FENCE.finditer(TEXT):
        yield Block(match[1], match[2] or "", match[3], TEXT[: match.start()].count("\n") + 1)


def write(project: Project, name: str, block: Block) -> None:
    """Create a file, add to it, or replace one of its definitions, as the page asks the reader to."""
    path = project.folder / name
    before = path.read_text() if path.exists() else ""
    replaced = block.option("replaces")
    if replaced:
        lines = before.splitlines(keepends=True)
        statement = next(node for node in ast.parse(before).body if replaced in names(node))
        assert statement.end_lineno
        lines[statement.lineno - 1 : statement.end_lineno] = [block.text]
        project.write(name, "".join(lines))
    else:
        project.write(name, f"{before}\n\n{block.text}" if before else block.text)


def names(node: ast.stmt) -> list[str]:
    """Return what a statement defines."""
    targets = node.targets if isinstance(node, ast.Assign) else []
    return [getattr(node, "name", ""), *(target.id for target in targets if isinstance(target, ast.Name))]


def run(project: Project, line: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the page in the project's folder. A package is installed to a folder of the copy's own."""
    program, *arguments = line.split()
    if line.startswith("pip install "):
        site = str(project.folder / "site")
        return project.run(
            "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", site, arguments[1]
        )
    if program == "ls":
        return subprocess.run([program, *arguments], cwd=project.folder, capture_output=True, text=True)
    assert program in ("atp", "snakemake", "pytest"), line
    return project.run(program, *arguments)


def pattern(text: str) -> str:
    """Return the regular expression of an output in which … stands for anything, and … alone for any lines."""
    parts = [r"(?:.*\n)*?" if line == WILDCARD else f"{escaped(line)}\n" for line in text.splitlines()]
    return "(?m)^" + "".join(parts)


def escaped(line: str) -> str:
    return ".*".join(map(re.escape, line.split(WILDCARD)))


def test_the_page_runs_from_the_top(project):
    """Everything that a reader copies: files, commands, and what these print."""
    output, commands = "", 0
    for block in blocks():
        if name := block.option("title"):
            write(project, name, block)
        elif block.language == "bash":
            output = ""
            for line in block.text.splitlines():
                result = run(project, line)
                output += result.stdout
                commands += 1
                assert result.returncode == ("fails" in block.options), (
                    f"line {block.line}: {line}\n{result.stderr}{output}"
                )
        elif block.language == "python":
            ast.parse(block.text)  # an excerpt, which is not run
        else:
            assert block.language == "text", f"line {block.line}"
            assert re.search(pattern(block.text), output), f"line {block.line}: not in the output:\n{output}"
    assert commands > 20
    page = (project.folder / "results/tips_study/report.html").read_text()
    assert "Tips that are reported" in page and "verdict" in page
    assert "What the conditions pay" in (project.folder / "results/pay_study/report.html").read_text()


@dataclass
class Bid:
    price: float


@dataclass
class Columns:
    bids: list[float]
    best: Bid
    offers: list[Bid]
    stock: dict[str, int]


def test_the_expressions_of_columns_with_several_values():
    table = TEXT.split("| column | expression |", 1)[1].split("\n\n", 1)[0]
    expressions = re.findall(r"`(pl\.[^`]*)`", table)
    details = to_arrow([Columns([1.0, 2.0, 3.0], Bid(4.0), [Bid(5.0), Bid(6.0)], {"b": 7, "a": 8})], Columns)
    turns = pl.DataFrame(pa.table({"details": details})).unnest("details")
    assert [turns.select(eval(each, {"pl": pl})).item() for each in expressions] == [2, 4.0, 6.0, 15, 8]


@pytest.mark.parametrize("kind", [Testbed, Scenario, Settings, Prompt, Observation, Turn, Curriculum])
def test_the_tables_have_every_field(kind):
    table = TEXT.split(f"| field of {kind.__name__} |", 1)[1].split("\n\n", 1)[0]
    listed = [name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    known = list(kind.model_fields) if kind is Settings else [field.name for field in fields(kind)]
    assert sorted(listed) == sorted(known)


def test_every_file_is_named_in_the_text_above_it():
    """Not all readers see the title of a block."""
    lines = TEXT.splitlines()
    for block in blocks():
        if name := block.option("title"):
            paragraph = "\n".join(lines[: block.line - 1]).rstrip().rsplit("\n\n", 1)[-1]
            assert f"`{name}`" in paragraph, f"line {block.line}"


def test_the_rules_of_the_check_are_listed():
    table = TEXT.split("| rule | what it checks |", 1)[1].split("\n\n", 1)[0]
    rules = [row.rule for row in check(find_testbed("coordination"))]
    assert [row.split("|")[1].strip() for row in table.splitlines()[2:]] == rules


def test_every_kind_of_extension_has_a_section():
    headings = re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]*)\)", TEXT)) <= anchors
    listed = re.findall(r"^\| `([A-Z]+)` \|", TEXT, re.MULTILINE)
    assert sorted(listed) == sorted(kind.upper() for kind in BUILT_IN)
    assert all(f"`atp.{kind}`" in TEXT for kind in BUILT_IN)


def test_the_modules_that_the_page_names_exist():
    for name in set(re.findall(r"`(atp(?:\.\w+)+)`", TEXT)) - {f"atp.{kind}" for kind in BUILT_IN}:
        module, _, attribute = name.rpartition(".")
        imported = subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True, cwd=ROOT)
        named = subprocess.run(
            [sys.executable, "-c", f"from {module} import {attribute}"], capture_output=True, cwd=ROOT
        )
        assert 0 in (imported.returncode, named.returncode), name
