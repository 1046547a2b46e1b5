"""The text files of an episode: they are kept in memory and survive between its calls, and nothing else does.

No file is ever on the machine's disk: programs in the sandbox see copies, which they cannot change. So a name is only a
key, and there are no folders, links or devices that it could lead to.
"""

import re
from collections.abc import Mapping

from atp.tools.calculator import ToolError

#: Limits of an episode's files: bytes of one, and their number.
MAX_FILE_BYTES, MAX_FILES = 20_000, 20
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_MAX_QUOTE_CHARS = 60


class Files:
    """Text files by name, which tools read and write. Each episode, or each of its rounds, has its own.

    Two objects with equal files are different: calls that name the same one are run one after another.
    """

    def __init__(self, texts: Mapping[str, str] | None = None):
        self.texts = dict(texts or {})

    def read(self, name: str) -> str:
        """Return a file's text. Raises ToolError if there is none of this name."""
        name = _checked(name)
        if name not in self.texts:
            raise ToolError(f"there is no file '{name}'; there is {', '.join(self.texts) or 'none'}")
        return self.texts[name]

    def write(self, name: str, text: str) -> None:
        """Create or replace a file. Raises ToolError for a name or a size that is not allowed."""
        name = _checked(name)
        if (size := len(text.encode("utf-8", "replace"))) > MAX_FILE_BYTES:
            raise ToolError(f"a file may have {MAX_FILE_BYTES} bytes, this one has {size}")
        if name not in self.texts and len(self.texts) >= MAX_FILES:
            raise ToolError(f"there may be {MAX_FILES} files, and there are so many")
        self.texts[name] = text


def read_file(name: str, files: Files) -> str:
    """Return a file's text."""
    return files.read(name) or "(the file is empty)"


def write_file(text: str, files: Files) -> str:
    """Write a file: the text's first line is its name, the rest its new content."""
    name, _, content = text.lstrip("\r\n").partition("\n")
    files.write(name, content)
    return f"{_checked(name)} is written, it has {len(content.splitlines())} lines"


def _checked(name: str) -> str:
    """Return the file's name in a text. Raises ToolError for one that is not allowed."""
    name = name.strip().removeprefix("./")
    if not _NAME.fullmatch(name):
        quote = name if len(name) <= _MAX_QUOTE_CHARS else name[:_MAX_QUOTE_CHARS] + "…"
        raise ToolError(f"'{quote}' is no file's name: it has letters, digits, '_', '-' and '.', and no folder")
    return name
