"""Every message in docs/troubleshooting.md is one of the code."""

import ast
import re
from functools import cache

import pytest

from docs.build import DOCS, ROOT

#: Section of messages that are not atp's own.
OTHERS = "Messages of Snakemake and Python"
#: What stands for other text in a message: words in capitals, and ….
PLACEHOLDER = re.compile(r"…|(?<![\w-])[A-Z]{2,}(?:=[A-Z]{2,})?(?![\w-])")


def messages() -> list[str]:
    sections = re.split(r"(?m)^## ", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"))
    rows = "".join(section for section in sections if not section.startswith(OTHERS))
    return [message for _, message in re.findall(r"(?m)^\| (`+)(.*?)\1 \|", rows)]


@cache
def texts() -> list[str]:
    """Return the texts of the code, with \0 in place of values."""
    files = [*ROOT.glob("atp/**/*.py"), *ROOT.glob("workflow/**/*.smk")]
    found = []
    for file in files:
        source = file.read_text(encoding="utf-8")
        if file.suffix == ".smk":
            found += [re.sub(r"\{[^}]*\}", "\0", text) for text in re.findall(r'"([^"\n]*)"', source)]
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"\{[^}]*\}", "\0", node.value))
    return found


def is_message(message: str) -> bool:
    """Return whether each literal part of a message is in a text of the code; a caller may add the place in front."""
    parts = [part.strip(" '`") for section in PLACEHOLDER.split(message) for part in section.split(": ")]
    return all(any(part in text for text in texts()) for part in parts if part)


@pytest.mark.parametrize("message", messages())
def test_a_message_is_one_of_the_code(message):
    assert is_message(message)


def test_a_message_that_is_not_is_found():
    assert not is_message("FILE: is nonsense, allowed is …")
