"""Print turns on a terminal: rates by round, or one transcript. Control characters in replies are shown as text."""

from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from atp.errors import AtpError
from atp.files.turns import read_turns, round_messages
from atp.measures.rates import rates_by_round
from atp.report.transcripts import visible
from atp.testbed import TRANSPLANTED

#: Characters of a line of the table of rates.
MAX_WIDTH = 500


def print_rates(path: Path) -> None:
    """Print violation rates by variant and round: k/n of valid replies, 95 % interval, invalid replies."""
    rows = rates_by_round(pl.DataFrame(read_turns(path))).to_dicts()
    keys = ("split", "variant", "generation", "round")
    constant = [key for key in keys[:-1] if len({row[key] for row in rows}) == 1]
    console = Console(highlight=False)
    if constant:
        console.print(Text(", ".join(f"{key} {visible(str(rows[0][key]))}" for key in constant)))
    table = Table(box=None, pad_edge=False)
    columns = [key for key in keys if key not in constant]
    for key in columns:
        table.add_column(key, no_wrap=True, justify="right" if key in ("generation", "round") else "left")
    stated = any(row["p_violation"] for row in rows)
    for heading in (
        "violations",
        "rate",
        "95 % interval",
        *(["P(violate)", "95 % interval"] if stated else []),
        "invalid",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            *(Text(visible(str(row[key]))) for key in columns),
            f"{row['k']}/{row['n']}",
            *_percentages(row),
            *(_percentages(row["p_violation"] or {}) if stated else ()),
            f"{row['invalid']}/{row['replies']}",
        )
    # As wide as it needs: on a narrow terminal or in a pipe, rich would cut numbers off.
    console.width = max(console.width, Measurement.get(console, console.options.update(width=MAX_WIDTH), table).maximum)
    console.print(table)


def _percentages(row: dict[str, Any]) -> tuple[str, str]:
    value, low, high = (row.get(name) for name in ("value", "low", "high"))
    return (
        "-" if value is None else f"{100 * value:.1f} %",
        "-" if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f} %",
    )


def print_transcript(path: Path, episode: str) -> None:
    """Print one episode, round by round.

    Raises:
        AtpError: no episode of this name; the message lists some that exist.
    """
    turns = pl.DataFrame(read_turns(path))
    rows = turns.filter(pl.col("episode") == episode).sort("round", "agent").to_dicts()
    if not rows:
        known = ", ".join(turns["episode"].unique(maintain_order=True).head(3))
        raise AtpError(f"{path}: no episode '{episode}'; there are {turns['episode'].n_unique()}, such as {known}")
    console = Console(highlight=False)
    seen: set[int] = set()
    for row in rows:
        console.rule(Text(f"round {row['round']}, agent {row['agent']} ({row['role']})"), align="left")
        continues = row["agent"] in seen and row["role"] != TRANSPLANTED
        seen.add(row["agent"])
        for message in row["messages"][-1:] if continues else row["messages"]:
            console.print(Text(f"{message['role']}: {visible(message['content'])}"))
        for message in round_messages(row):
            is_reply = message["role"] == "assistant"
            text = f"{'reply' if is_reply else 'tool'}: {visible(message['content'])}"
            console.print(Text(text, style="bold" if is_reply else ""))
        console.print(Text(_outcome(row)))


def _outcome(row: dict[str, Any]) -> str:
    checked = {True: ", checked", False: ", not checked", None: ""}[row["audited"]]
    reason = f" ({row['invalid_reason']})" if row["invalid_reason"] else ""
    return f"-> {row['decision']}{reason}{checked}, earned {row['reward']:g}"
