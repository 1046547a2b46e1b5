"""Read and check training data before a model is loaded: conversations, or preference pairs."""

import json
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from atp.errors import AtpError
from atp.files.schemas import MESSAGE, PAIRS, QUESTION, SELECTION
from atp.files.tables import read_table
from atp.scenarios.scenario import read_scenarios

ROLES = ("system", "user", "assistant", "tool")


def read_conversations(selection: Path, scenarios: Path, testbed: str) -> list[dict[str, Any]]:
    """Return the rows of a selection: conversations whose last message is the agent's reply to learn.

    Raises:
        AtpError: an unreadable file, messages that are not a conversation, scenarios outside the training split.
    """
    rows: list[dict[str, Any]] = read_table(selection, SELECTION, "selection").to_pylist()
    for row in rows:
        _check_messages(selection, row, row["messages"][:-1], row["messages"][-1:])
    _check_scenarios(selection, rows, scenarios, testbed)
    return rows


def read_chats(path: Path) -> list[dict[str, Any]]:
    """Return a user's conversations as rows of a selection, each with its place in the file as `scenario_id`.

    Args:
        path: JSON lines, or Parquet; `messages` is a list of messages with `role` and `content`.

    Raises:
        AtpError: an unreadable or empty file, or a row whose messages do not end with the assistant's reply.
    """
    try:
        if path.suffix == ".parquet":
            values = pq.read_table(path).to_pylist()
        else:
            lines = path.read_text(encoding="utf-8").splitlines()
            values = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise AtpError(f"{path}: must be JSON lines, or Parquet with the suffix .parquet: {reason}") from error
    if not values:
        raise AtpError(f"{path}: has no conversations")
    return [_chat(path, number, value) for number, value in enumerate(values, 1)]


def _chat(path: Path, number: int, value: Any) -> dict[str, Any]:
    messages, keys = value.get("messages") if isinstance(value, dict) else None, MESSAGE.names
    if not isinstance(messages, list) or not all(
        isinstance(each, dict) and all(isinstance(each.get(key), str) for key in keys) for each in messages
    ):
        raise AtpError(
            f'{path}: row {number}: is not a conversation, must be {{"messages": [{{"role": …, "content": …}}, …]}} '
            f"with texts, found {str(value)!r:.80}"
        )
    parts = [{key: each[key] for key in keys} for each in messages]
    row: dict[str, Any] = {"scenario_id": f"row {number}", "tools": [], "messages": parts}
    _check_messages(path, row, parts[:-1], parts[-1:])
    return row


def read_pairs(pairs: Path, scenarios: Path, testbed: str) -> list[dict[str, Any]]:
    """Return the rows of pairs.parquet. Raises AtpError as `read_conversations` does, and for a file without pairs."""
    rows: list[dict[str, Any]] = read_table(pairs, PAIRS, "pairs").to_pylist()
    if not rows:
        raise AtpError(f"{pairs}: has no pairs; write it again with more scenarios or retries")
    for row in rows:
        for side in ("chosen", "rejected"):
            _check_messages(pairs, row, row["prompt"], row[side])
    _check_scenarios(pairs, rows, scenarios, testbed)
    return rows


def rehearsed(own: int, proportion: float, replaces: bool) -> int:
    """Return how many preference pairs are a proportion of all examples, added to `own` others or in their place."""
    return round(own * proportion) if replaces else round(own * proportion / (1 - proportion))


def rehearse(
    rows: list[dict[str, Any]], pairs: list[dict[str, Any]], proportion: float, random: Random, replaces: bool = False
) -> list[dict[str, Any]]:
    """Return training examples with a sample of preference pairs, which are conversations too, as a proportion of all.

    A pair is drawn again only after each has been drawn.

    Args:
        replaces: whether the pairs take the place of as many other examples, drawn at random; otherwise all stay.
    """
    size = rehearsed(len(rows), proportion, replaces)
    sample: list[dict[str, Any]] = []
    while len(sample) < size:
        sample += random.sample(pairs, min(len(pairs), size - len(sample)))
    own = random.sample(rows, len(rows) - size) if replaces else rows
    return own + [{**pair, "messages": [*pair["prompt"], *pair["chosen"]]} for pair in sample]


def inoculate(rows: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    """Return training examples whose prompts have a text after their system message, or as their system message.

    Inoculation prompting (Tan et al. 2025, arXiv 2510.04340; Wichers et al. 2025, arXiv 2510.05024).
    """
    keys = ("messages", "prompt")
    return [row | {key: _with_system(row[key], text) for key in keys if key in row} for row in rows]


def _with_system(messages: list[dict[str, str]], text: str) -> list[dict[str, str]]:
    if not messages or messages[0]["role"] != "system":
        return [{"role": "system", "content": text}, *messages]
    return [{**messages[0], "content": f"{messages[0]['content']}\n\n{text}"}, *messages[1:]]


def read_best_and_worst(selection: Path, scenarios: Path, testbed: str) -> list[dict[str, Any]]:
    """Return a pair for each prompt of a selection: the first replies of its best and its worst paid decision.

    Raises:
        AtpError: as `read_conversations`, and for a prompt without exactly two replies.
    """
    replies: dict[str, list[dict[str, Any]]] = {}
    for row in read_conversations(selection, scenarios, testbed):
        key = json.dumps([*(row[name] for name in QUESTION), row["messages"][:-1]])
        if row["step"] == 0:
            replies.setdefault(key, []).append(row)
    pairs = []
    for rows in replies.values():
        if len(rows) != 2:
            raise AtpError(
                f"{selection}: DPO needs two replies to each prompt, found {len(rows)}: filter by best_and_worst"
            )
        worst, best = sorted(rows, key=lambda row: float(row["reward"]))
        pairs.append(
            {
                "scenario_id": best["scenario_id"],
                "tools": best["tools"],
                "prompt": best["messages"][:-1],
                "chosen": best["messages"][-1:],
                "rejected": worst["messages"][-1:],
            }
        )
    return pairs


def _check_messages(path: Path, row: dict[str, Any], prompt: list[dict[str, str]], reply: list[dict[str, str]]) -> None:
    """Raise AtpError unless a prompt ends with a user's or a tool's message, and one message of the agent's follows."""
    roles = [message["role"] for message in (*prompt, *reply)]
    ends = [["user", "assistant"], ["tool", "assistant"]]
    if len(reply) != 1 or roles[-2:] not in ends or set(roles) - set(ROLES):
        raise AtpError(
            f"{path}: scenario '{row['scenario_id']}': messages have the roles {', '.join(roles) or 'none'}; a prompt "
            "must end with a user or tool message, and exactly one assistant message must follow it"
        )


def _check_scenarios(path: Path, rows: list[dict[str, Any]], scenarios: Path, testbed: str) -> None:
    known = {scenario.scenario_id for scenario in read_scenarios(scenarios, testbed, "train")}
    for row in rows:
        if row["scenario_id"] not in known:
            raise AtpError(f"{path}: scenario '{row['scenario_id']}' is not in the training split of {scenarios}")
