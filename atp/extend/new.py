"""Write a small working testbed as a plug-in, for an author to change."""

import re
import sys
from importlib.resources import files
from pathlib import Path

from atp.definitions import RESERVED
from atp.errors import AtpError
from atp.files.tables import write_text
from atp.registry import PACKAGE, entries

#: Files of the skeleton, in which its name stands for the new testbed's.
SKELETON = "skeleton"
FILES = (f"{SKELETON}.py", f"{SKELETON}.yaml", f"test_{SKELETON}.py")


def new_testbed(name: str, folder: Path) -> list[Path]:
    """Write NAME.py, NAME.yaml and test_NAME.py to a folder and return their paths.

    Raises:
        AtpError: a name that is not allowed or exists already, or a file that exists.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise AtpError(f"new testbed {name}: allowed are lower-case letters, digits and '_', first a letter")
    if name in entries("testbeds"):
        raise AtpError(f"new testbed {name}: exists already, choose another name")
    if name in (*RESERVED, PACKAGE) or name in sys.stdlib_module_names:
        raise AtpError(f"new testbed {name}: a file {name}.py would hide a module that Python or atp uses")
    paths = [folder / file.replace(SKELETON, name) for file in FILES]
    for path in paths:
        if path.exists():
            raise AtpError(f"{path}: exists already, choose another name or folder")
    for file, path in zip(FILES, paths, strict=True):
        text = files("atp.extend").joinpath(SKELETON, file).read_text(encoding="utf-8")
        title = "".join(word.capitalize() for word in name.split("_"))
        write_text(text.replace(SKELETON.capitalize(), title).replace(SKELETON, name), path)
    return paths
