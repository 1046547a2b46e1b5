"""A folder that an export writes as a whole."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atp.errors import AtpError

#: Hidden file in a folder that an export wrote, and may replace.
MARKER = ".atp-export"


@contextmanager
def replacing_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces `out` if the block ends without an error.

    Raises:
        AtpError: `out` is a file, or a folder with content that no export wrote.
    """
    out = out.absolute()
    _check_own(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as name:
        folder = Path(name, out.name)
        folder.mkdir()
        (folder / MARKER).touch()
        yield folder
        if out.exists():
            shutil.rmtree(out)
        folder.rename(out)


def updated_folder(out: Path) -> Path:
    """Return a folder of an export, made if it is not there, whose files the export updates one by one.

    Raises:
        AtpError: as `replacing_folder`.
    """
    _check_own(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).touch()
    return out


def _check_own(out: Path) -> None:
    if out.exists() and not (out.is_dir() and ((out / MARKER).exists() or not any(out.iterdir()))):
        raise AtpError(f"{out}: exists, and no export wrote it; delete it, or choose another folder with --out")
