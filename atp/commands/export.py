"""atp export: results and training data in the formats of other tools."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Write results or training data in another tool's format.")


@app.callback()
def export() -> None:
    """Keep the name of the format as a subcommand."""


@app.command()
def llama_factory(
    pairs: Annotated[Path, typer.Argument(help="pairs.parquet")],
    out: Annotated[Path, typer.Option(help="JSON file to write; its entry goes into dataset_info.json next to it")],
) -> None:
    """Write preference pairs for LLaMA-Factory."""
    from atp.training.llama_factory import export_llama_factory

    typer.echo(f"{export_llama_factory(pairs, out)} pairs")
