"""What a training run learns from, read and checked before any model is loaded: conversations, pairs or questions."""

import json
from pathlib import Path
from random import Random
from typing import Any

from atp.artifacts import PAIRS, QUESTION, SELECTION, read_table
from atp.errors import AtpError
from atp.scenarios.scenario import read_scenarios

ROLES = ("system", "user", "assistant", "tool")


def conversations(selection: Path, scenarios: Path, testbed: str) -> list[dict[str, Any]]:
    """Rows of a selection: each holds a conversation whose last message, the agent's, is to be learned.

    Raises:
        AtpError: an unreadable file, messages that are no conversation, scenarios that are not in the training split.
    """
    rows: list[dict[str, Any]] = read_table(selection, SELECTION, "selection").to_pylist()
    for row in rows:
        _check(selection, row, row["messages"][:-1], row["messages"][-1:])
    _check_scenarios(selection, rows, scenarios, testbed)
    return rows


def preference_pairs(pairs: Path, scenarios: Path, testbed: str) -> list[dict[str, Any]]:
    """Rows of pairs.parquet: prompt, chosen and rejected. Raises AtpError as `conversations` does, and for no pairs."""
    rows: list[dict[str, Any]] = read_table(pairs, PAIRS, "pairs").to_pylist()
    if not rows:
        raise AtpError(f"{pairs}: holds no pairs")
    for row in rows:
        for side in ("chosen", "rejected"):
            _check(pairs, row, row["prompt"], row[side])
    _check_scenarios(pairs, rows, scenarios, testbed)
    return rows


def replayed(pairs: list[dict[str, Any]], kept: int, share: float, random: Random) -> list[dict[str, Any]]:
    """Preference pairs to mix with `kept` other examples, so that they are that share of all; for SFT as conversations.

    All that was kept stays. Pairs are drawn without repetition until each has been drawn, then anew.
    """
    wanted = round(kept * share / (1 - share))
    drawn: list[dict[str, Any]] = []
    while len(drawn) < wanted:
        drawn += random.sample(pairs, min(len(pairs), wanted - len(drawn)))
    return [{**pair, "messages": [*pair["prompt"], *pair["chosen"]]} for pair in drawn]


def best_and_worst_pairs(selection: Path, scenarios: Path, testbed: str) -> list[dict[str, Any]]:
    """Pairs of the best and the worst paid decision on each prompt of a selection, by their first replies.

    Raises:
        AtpError: as `conversations`; a prompt without exactly two replies.
    """
    replies: dict[str, list[dict[str, Any]]] = {}
    for row in conversations(selection, scenarios, testbed):
        key = json.dumps([*(row[name] for name in QUESTION), row["messages"][:-1]])
        if row["step"] == 0:
            replies.setdefault(key, []).append(row)
    made = []
    for rows in replies.values():
        if len(rows) != 2:
            raise AtpError(
                f"{selection}: DPO needs two replies to each prompt, found {len(rows)}: filter by best_and_worst"
            )
        worst, best = sorted(rows, key=lambda row: float(row["reward"]))
        made.append(
            {
                "scenario_id": best["scenario_id"],
                "tools": best["tools"],
                "prompt": best["messages"][:-1],
                "chosen": best["messages"][-1:],
                "rejected": worst["messages"][-1:],
            }
        )
    return made


def _check(path: Path, row: dict[str, Any], prompt: list[dict[str, str]], reply: list[dict[str, str]]) -> None:
    """A prompt that ends with a user's or a tool's message, and one reply of the agent's."""
    roles = [message["role"] for message in (*prompt, *reply)]
    ends = [["user", "assistant"], ["tool", "assistant"]]
    if len(reply) != 1 or roles[-2:] not in ends or set(roles) - set(ROLES):
        raise AtpError(
            f"{path}: scenario '{row['scenario_id']}': messages have the roles {', '.join(roles) or 'none'}; a prompt "
            "must end with a user's or a tool's, and one reply of the assistant's follow"
        )


def _check_scenarios(path: Path, rows: list[dict[str, Any]], scenarios: Path, testbed: str) -> None:
    known = {scenario.scenario_id for scenario in read_scenarios(scenarios, testbed, "train")}
    for row in rows:
        if row["scenario_id"] not in known:
            raise AtpError(f"{path}: scenario '{row['scenario_id']}' is not in the training split of {scenarios}")
