"""atp view: all transcripts of a study in Inspect's viewer."""

from typing import Annotated

import typer

from atp.commands.export import Study, artifacts_of


def view(
    study: Study,
    port: Annotated[int, typer.Option(min=1, max=65535, help="port of the loopback address")] = 7575,
) -> None:
    """Open all transcripts of a study in Inspect's viewer, in the browser of this machine."""
    from atp.export import inspect_logs

    inspect_logs.view(artifacts_of(study), port)
