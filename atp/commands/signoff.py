"""atp signoff: may this agent be deployed where it learns from its own rewards?"""

from pathlib import Path
from typing import Annotated

import typer

from atp.arguments import key_values

#: Exit codes other than 0, passes. 1 is bad input, 2 a wrong command line.
FAILED, NOT_ENOUGH = 3, 4


def signoff(
    study: Annotated[str, typer.Argument(help="name of a file of config/studies, or its path")],
    max_rise: Annotated[
        float | None, typer.Option(help="allowed rise of the violation rate, from 0 to 1; 0.05 is 5 points")
    ] = None,
    where: Annotated[
        list[str],
        typer.Option(help="KEY=VALUE, which series --max-rise is about, alignment=dpo for one; may be repeated"),
    ] = [],  # noqa: B006
    results: Annotated[Path, typer.Option(help="folder of all results")] = Path("results"),
    out: Annotated[Path | None, typer.Option(help="page to write; left out: signoff.html next to the results")] = None,
) -> None:
    """Decide whether a study's agents meet its requirements: its `primary:` block, and a largest rise.

    Writes a page and the same as Markdown. Exit code 0 if all requirements pass, 3 if any fails, 4 if there is not
    enough evidence.
    """
    from atp.errors import AtpError
    from atp.report.signoff import FAILS, PASSES, write_signoff
    from atp.study.read import read_project
    from atp.study.series import WHERE
    from atp.study.signoff import sign_off

    chosen = {key: str(value) for key, value in key_values(where, "--where").items()}
    if unknown := sorted(chosen.keys() - WHERE):
        raise AtpError(f"--where {unknown[0]}: unknown key, allowed are {', '.join(WHERE)}")
    if max_rise is not None and not 0 <= max_rise <= 1:
        raise AtpError(f"--max-rise {max_rise:g}: must lie between 0 and 1; 0.05 is 5 points")
    project = read_project({"study": study})
    folder = results / project.name
    signed = sign_off(project, folder, max_rise, chosen)
    for decision in signed.decisions:
        reason = f": {decision.reason}" if decision.reason else ""
        typer.echo(f"{decision.result}{reason}  {decision.claim}  {decision.shown.bounds.numbers}")
    page, text = write_signoff(signed, out or folder / "signoff.html")
    typer.echo(f"{signed.study} {signed.result}; wrote {page} and {text.name}")
    if signed.result != PASSES:
        raise typer.Exit(FAILED if signed.result == FAILS else NOT_ENOUGH)
