"""Every block of commands in the documentation runs here, or has a mark that says why not and is parsed.

docs/extending.md runs in tests/extend/test_docs_extending.py.
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pytest
import typer
from extend.project import Project, copy_project
from snakemake.cli import get_argument_parser

from atp import cli
from atp.study.jobs import study_jobs
from atp.study.read import read_project
from docs.build import DOCS, FENCE, MARKS, ROOT, sources

PAGES = [source for source, _ in sources()]
#: Marks of blocks that are not run here, and the mark of those that train.
NOT_RUN, STAGES = {"gpu", "cluster", "network", "long"}, "stages"
TARGETS = re.findall(r"^([\w-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
RULES = re.findall(
    r"^ *(?:local)?rule (\w+):", "".join(path.read_text() for path in ROOT.glob("workflow/**/*.smk")), re.M
)
#: Programs of other projects, which only blocks that are not run may call.
OTHERS = "$EDITOR apptainer cd export hf pip podman python3 sed sinfo snakedeploy srun tensorboard tmux".split()
#: Words that stand for others in the text.
PLACEHOLDER = re.compile(r"…|\b[A-Z]{2,}\b|^N$")


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    options: str
    text: str

    @property
    def marks(self) -> set[str]:
        return {word for word in self.options.split() if "=" not in word}

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text[: match.start()].count("\n") + 1, match[3], match[4], match[5])
        for match in FENCE.finditer(text)
    ]


COMMANDS = [block for page in PAGES for block in blocks(page) if block.language in ("sh", "bash", "shell", "console")]
RUN = {
    page: [block for block in COMMANDS if block.page == page and not block.marks & NOT_RUN]
    for page in PAGES
    if page != DOCS / "extending.md"
}


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command of a block; a command may have several lines."""
    command = ""
    for line in text.replace("\\\n", " ").splitlines():
        command += f"{line}\n"
        try:
            words = shlex.split(command, comments=True)
        except ValueError:  # in a quotation, which goes on in the next line
            continue
        command = ""
        for follows, part in groupby(words, lambda word: word == "&&"):
            if not follows:
                yield list(part)
    assert not command, f"no end of the quotation: {command}"


def parse_atp(words: list[str]) -> None:
    """Parse a call of atp without running it. Raises an error for a command or an option that does not exist."""
    context = typer.main.get_command(cli.app).make_context("atp", cli._plugins_first(words))
    while hasattr(context.command, "commands"):
        name, command, rest = context.command.resolve_command(context, [*context._protected_args, *context.args])
        assert command
        context = command.make_context(name, rest, parent=context)


def options_of(words: list[str]) -> tuple[set[str], list[str]]:
    """Return the options that a call of atp may have, and the names of its command and subcommand."""
    command, names, options = typer.main.get_command(cli.app), [], {"--help"}
    for word in words:
        options |= {option for each in command.params for option in each.opts}
        if word in getattr(command, "commands", ()):
            command = command.commands[word]
            names.append(word)
    return options | {option for each in command.params for option in each.opts}, names


def check_words(words: list[str]) -> None:
    """Check that a command, its options, and the files and studies of this project that it names exist."""
    program, arguments = words[0], words[1:]
    if program == "atp":
        parse_atp(arguments)
    elif program == "make":
        assert set(arguments) <= set(TARGETS), arguments
    elif program == "snakemake":
        targets = get_argument_parser().parse_args(arguments).targets
        assert all(target in RULES or target.startswith("results/") for target in targets), targets
    elif program == "python" and arguments[0] == "-c":
        compile(arguments[1], "<command>", "exec")
    elif program in ("python", "pytest"):
        assert all((ROOT / word).is_file() for word in arguments if word.endswith(".py")), arguments
    else:
        assert program in (*OTHERS, "."), program


def check_studies(text: str) -> None:
    """Check that the studies that a text names exist, and have the outputs that it reads."""
    for name in re.findall(r"\bstudy=([\w/.]+)", text):
        if not PLACEHOLDER.search(name) and not name.endswith(".yaml"):
            assert (ROOT / f"config/studies/{name}.yaml").is_file(), name
    for name, path in re.findall(r"\bresults/(\w+)/([\w./-]+)", text):
        assert any(output.startswith(path) for output in outputs(name)), f"{name}: {path}"


@cache
def outputs(study: str) -> list[str]:
    return [output for step in study_jobs(read_project({"study": study}, ROOT)).values() for output in step.outputs]


@pytest.mark.parametrize("block", COMMANDS, ids=str)
def test_a_block_has_known_marks_and_commands(block):
    assert block.marks <= set(MARKS)
    if block.page != DOCS / "extending.md":  # whose files do not exist here
        check_studies(block.text)
        for words in commands(block.text):
            check_words(words)


@pytest.mark.parametrize(
    "command",
    [
        "atp nonsense",
        "atp show --nonsense turns.parquet",
        "atp rollout --scenarios s.parquet --agent scripted:random --out t.parquet --rounds many",
        "atp export nonsense",
        "make nonsense",
        "snakemake --nonsense",
        "snakemake --cores all nonsense",
        "pytest tests/nonsense.py",
        "nonsense",
    ],
)
def test_a_command_that_does_not_exist_is_found(command):
    with pytest.raises((Exception, SystemExit)):
        check_words(command.split())


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=page_name)
def test_commands_within_sentences_exist(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for program, rest in re.findall(r"`(atp|make|snakemake)\s+([a-z-][^`]*)`", text):
        check_studies(rest)
        words = rest.split()
        if program == "make":
            assert words[0] in TARGETS, rest
        if program == "atp":
            options, names = options_of(words)
            assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options, rest
            assert names or not re.match("[a-z]", rest), rest


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_a_block_has_a_fence(page):
    """An indented block would have no mark."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    indented = re.findall(r"(?<!\n)\n\n {4}\S.*", re.sub(r"(?m)^( *)([-*]|\d+\.) .*(\n(\1 +.*)?)*", "", text))
    assert not indented


def run(project: Project, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command in a copy of the project. `atp` runs in this process, which has imported its libraries."""
    if words[0] == ".":
        return
    if words[0] != "atp":
        program = [sys.executable] if words[0] == "python" else [sys.executable, "-m", words[0]]
        result = subprocess.run([*program, *words[1:]], cwd=project.folder, capture_output=True, text=True)
        assert result.returncode == 0, f"{words}\n{result.stdout}{result.stderr}"
        return
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code, f"{words}: {end.value.code}"


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(
            page, marks=[pytest.mark.stages] * any(STAGES in block.marks for block in run_blocks), id=page.name
        )
        for page, run_blocks in RUN.items()
        if run_blocks
    ],
)
def test_the_commands_of_a_page_run(page, tmp_path, monkeypatch, own_registry):
    """In the order of the page, in a copy of the project."""
    project = copy_project(tmp_path)
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for block in blocks(page):
        if file := re.search(r'title="([^"]*)"', block.options):
            project.write(file[1], block.text)
        elif block in RUN[page]:
            for words in commands(block.text):
                run(project, words, monkeypatch)
