"""Turns on a terminal: rates by round, or one transcript. Model output is printed as text, control characters shown."""

from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console
from rich.table import Table
from rich.text import Text

from atp.artifacts import REPLAYED, read_turns, said_in_round
from atp.errors import AtpError
from atp.measures import rates_by_round


def print_rates(path: Path) -> None:
    """A table of violation rates by variant and round: k/n of valid replies, 95 % interval, invalid share."""
    rows = rates_by_round(_turns(path)).to_dicts()
    keys = ("split", "variant", "generation", "round")
    same = [key for key in keys[:-1] if len({row[key] for row in rows}) == 1]
    console = Console(highlight=False)
    if same:
        console.print(Text(", ".join(f"{key} {visible(str(rows[0][key]))}" for key in same)))
    table = Table(box=None, pad_edge=False)
    columns = [key for key in keys if key not in same]
    for key in columns:
        table.add_column(key, no_wrap=True, justify="right" if key in ("generation", "round") else "left")
    for heading in ("violations", "rate", "95 % interval", "invalid"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            *(Text(visible(str(row[key]))) for key in columns),
            f"{row['k']}/{row['n']}",
            _percent(row["value"]),
            "-" if row["low"] is None else f"{100 * row['low']:.1f} to {100 * row['high']:.1f} %",
            f"{row['invalid']}/{row['replies']}",
        )
    console.print(table)


def print_transcript(path: Path, episode: str) -> None:
    """One episode, round by round. Raises AtpError with some known episodes if there is none of that name."""
    turns = _turns(path)
    rows = turns.filter(pl.col("episode") == episode).sort("round", "agent").to_dicts()
    if not rows:
        known = ", ".join(turns["episode"].unique(maintain_order=True).head(3))
        raise AtpError(f"{path}: no episode '{episode}'; there are {turns['episode'].n_unique()}, such as {known}")
    console = Console(highlight=False)
    seen: set[int] = set()
    for row in rows:
        console.rule(Text(f"round {row['round']}, agent {row['agent']} ({row['role']})"), align="left")
        told = row["agent"] in seen and row["role"] != REPLAYED
        shown = row["messages"][-1:] if told else row["messages"]
        seen.add(row["agent"])
        for message in shown:
            console.print(Text(f"{message['role']}: {visible(message['content'])}"))
        for message in said_in_round(row):
            own = message["role"] == "assistant"
            said = f"{'reply' if own else 'tool'}: {visible(message['content'])}"
            console.print(Text(said, style="bold" if own else ""))
        console.print(Text(_outcome(row)))


def visible(text: str) -> str:
    """Text with control characters written out: a reply must not move the cursor or set the window's title."""
    return "".join(char if char.isprintable() or char in "\n\t" else repr(char)[1:-1] for char in text)


def _outcome(row: dict[str, Any]) -> str:
    checked = {True: ", checked", False: ", not checked", None: ""}[row["audited"]]
    reason = f" ({row['invalid_reason']})" if row["invalid_reason"] else ""
    return f"-> {row['decision']}{reason}{checked}, earned {row['reward']:g}"


def _turns(path: Path) -> pl.DataFrame:
    return pl.DataFrame(read_turns(path))


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
