"""atp init: a folder in which the installed workflow runs studies."""

import shlex
import shutil
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

import typer

from atp.errors import AtpError
from atp.files.code import SHIPPED

#: The study of a new folder, a short one; a deployed copy of the clone names another one.
STUDY = "quick"


def init(folder: Annotated[Path, typer.Argument(help="folder to make; it may exist if it is empty")]) -> None:
    """Make a study folder: config with studies and models, and a Snakefile that runs the installed workflow."""
    make_study_folder(folder)
    typer.echo(f"wrote {folder}; to run its study: cd {shlex.quote(str(folder))} && snakemake --cores all")


def make_study_folder(folder: Path) -> None:
    """Write a Snakefile, a README and copies of the studies and models to a folder.

    Raises:
        AtpError: a folder that is not empty or cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise AtpError(f"{folder}: is not empty; give the name of a new folder")
        with as_file(files("atp.commands") / "study_folder") as skeleton:
            shutil.copytree(skeleton, folder, dirs_exist_ok=True)
        for part in ("config", "workflow/profiles/slurm"):
            shutil.copytree(SHIPPED / part, folder / part)
    except OSError as error:
        raise AtpError(f"{folder}: no folder can be made there ({error.strerror}); choose another one") from error
    config = folder / "config/config.yaml"
    config.write_text(config.read_text(encoding="utf-8").replace("study: demo", f"study: {STUDY}"), encoding="utf-8")
