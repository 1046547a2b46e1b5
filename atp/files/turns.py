"""Rows of turns.parquet: how to read them, and the messages of a round that they hold."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from atp.files.schemas import TURNS
from atp.files.tables import read_table


def read_turns(path: Path | str) -> pa.Table:
    """Read turns.parquet with its testbed's own columns. Raises AtpError as `read_table` does."""
    return read_table(path, TURNS, "turns", more=True)


def replies(row: Mapping[str, Any]) -> list[str]:
    """Return all replies of an agent in a row's round: the scored one, then those to later steps."""
    return [row["reply"], *row["later_replies"]]


def decision_messages(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the messages of a row's decision: the reply, then each round of tool results with the reply to it."""
    messages = [{"role": "assistant", "content": row["reply"]}]
    for results, reply in zip(row["tool_results"], row["later_replies"], strict=False):
        messages += [{"role": "tool", "content": result} for result in results]
        messages.append({"role": "assistant", "content": reply})
    return messages


def round_messages(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return all messages of an agent, and of its tools, in a row's round."""
    if row["tool_results"]:
        return decision_messages(row)
    return [{"role": "assistant", "content": text} for text in replies(row)]
