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
    """Return a study's artifacts, and print what an unfinished study lacks and what its folder has beyond it."""
    from atp.export.artifacts import find_artifacts

    artifacts = find_artifacts(study)
    for note in artifacts.notes:
        typer.echo(f"atp: {note}", err=True)
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
def hf(
    study: Study,
    out: Folder = None,
    push: Annotated[
        str | None, typer.Option(metavar="ORG/NAME", help="upload to private repositories of the Hugging Face hub")
    ] = None,
) -> None:
    """Write a dataset for the Hugging Face hub, and the trained agents as models, with cards."""
    from atp.export import hub

    if push is not None:
        hub.check_push(push)
    artifacts = artifacts_of(study)
    folder = out or artifacts.folder / hub.FOLDER
    counts = hub.export_hub(artifacts, folder)
    typer.echo(f"{', '.join(f'{count} {name}' for name, count in counts.items())} in {folder}")
    for address in hub.push(folder, push) if push is not None else ():
        typer.echo(address)


@app.command()
def tracker(
    study: Study,
    to: Annotated[str, typer.Option(help="tensorboard, trackio, wandb or mlflow")],
) -> None:
    """Log the rates of each cell to an experiment tracker, by round and by generation."""
    from atp.export.tracker import export_rates

    typer.echo(f"{export_rates(artifacts_of(study), to)} runs")


Measure = Annotated[str, typer.Argument(help="measure, such as violation_rate")]
OfStudy = Annotated[str, typer.Option("--study", help="as STUDY of the other formats")]
Table = Annotated[Path | None, typer.Option("--out", help="file to write; left out: the table is printed")]


@app.command()
def csv(measure: Measure, study: OfStudy, out: Table = None) -> None:
    """Write the rows of a measure as CSV, with all columns."""
    _write_table("csv", measure, study, out)


@app.command()
def latex(measure: Measure, study: OfStudy, out: Table = None) -> None:
    """Write the rows of a measure as a table of LaTeX's package booktabs."""
    _write_table("latex", measure, study, out)


@app.command()
def markdown(measure: Measure, study: OfStudy, out: Table = None) -> None:
    """Write the rows of a measure as a table in Markdown."""
    _write_table("markdown", measure, study, out)


def _write_table(form: str, measure: str, study: str, out: Path | None) -> None:
    from atp.export.tables import measure_table
    from atp.files.tables import check_file, write_text

    text = measure_table(artifacts_of(study), measure, form)
    if out is None:
        typer.echo(text, nl=False)
        return
    check_file(out)
    write_text(text, out)


@app.command()
def llama_factory(
    pairs: Annotated[Path, typer.Argument(help="pairs.parquet")],
    out: Annotated[Path, typer.Option(help="JSON file to write; its entry goes into dataset_info.json next to it")],
) -> None:
    """Write preference pairs for LLaMA-Factory."""
    from atp.training.llama_factory import export_llama_factory

    typer.echo(f"{export_llama_factory(pairs, out)} pairs")
