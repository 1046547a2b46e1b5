"""atp export: results and training data in the formats of other tools."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from atp.export.artifacts import Artifacts

app = typer.Typer(no_args_is_help=True, help="Write results or training data in another tool's format.")


Study = Annotated[
    str, typer.Argument(help="a study's folder of results, such as results/demo; or its name or file, as for atp plan")
]
Folder = Annotated[Path | None, typer.Option("--out", help="folder to write to; left out: next to the results")]


def artifacts_of(study: str) -> "Artifacts":
    """Return a study's artifacts, and print what an unfinished study lacks."""
    from atp.export.artifacts import find_artifacts

    artifacts = find_artifacts(study)
    if artifacts.missing:
        typer.echo(f"atp: {artifacts.missing}", err=True)
    return artifacts


@app.command("inspect")
def inspect_(study: Study, out: Folder = None) -> None:
    """Write logs for Inspect: one a turns file and variant, with a sample for each episode."""
    from atp.export.inspect_logs import FOLDER, export_inspect

    artifacts = artifacts_of(study)
    folder = out or artifacts.folder / FOLDER
    typer.echo(f"{export_inspect(artifacts, folder)} logs in {folder}")


@app.command()
def scout(study: Study, out: Folder = None) -> None:
    """Write a database of transcripts for Inspect Scout, which scans them for behaviour."""
    from atp.export.scout import FOLDER, export_scout

    artifacts = artifacts_of(study)
    folder = out or artifacts.folder / FOLDER
    typer.echo(f"{export_scout(artifacts, folder)} transcripts in {folder}")


@app.command()
def llama_factory(
    pairs: Annotated[Path, typer.Argument(help="pairs.parquet")],
    out: Annotated[Path, typer.Option(help="JSON file to write; its entry goes into dataset_info.json next to it")],
) -> None:
    """Write preference pairs for LLaMA-Factory."""
    from atp.training.llama_factory import export_llama_factory

    typer.echo(f"{export_llama_factory(pairs, out)} pairs")
