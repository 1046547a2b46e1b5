"""Select the episodes that the page's transcript reader shows. Replies stay text; the page escapes them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from atp.files.schemas import CELL, TRANSFER
from atp.files.turns import round_messages
from atp.measures.rates import scan
from atp.testbed import TRANSPLANTED

#: Maximum number of turns in the page, which contains them all; at least one episode of each variant is included.
TURNS_A_FILE, TURNS_A_PAGE = 720, 14400
SEED = 0
SHOWN = ("round", "agent", "role", "reply", "decision", "violation", "invalid_reason", "audited", "reward", "feedback")
EPISODE = ["variant", "scenario_id", "sample", "episode"]
READ = [*CELL, "channel", "generation", "split", "template", *EPISODE, "messages", "later_replies", "tool_results"]


def transcripts(turns: Sequence[Path]) -> list[dict[str, Any]]:
    """Return, per turns file, its label, its number of episodes, and a few complete episodes of each variant.

    The selection depends on a digest of SEED, scenario and sample, so that variants show the same scenarios.
    """
    limit = min(TURNS_A_FILE, TURNS_A_PAGE // max(1, len(turns)))
    return [transcript for path in turns if (transcript := _transcript(path, limit))]


def _transcript(path: Path, limit: int) -> dict[str, Any] | None:
    turns = scan([path], [*READ, *SHOWN])
    episodes = turns.group_by(EPISODE).agg(turns=pl.len()).collect()
    if not len(episodes):
        return None
    per_variant = max(1, limit // max(episodes["turns"].to_list()) // episodes["variant"].n_unique())
    texts = [f"{SEED}|{row['scenario_id']}|{row['sample']}" for row in episodes.to_dicts()]
    keys = [hashlib.blake2b(text.encode(), digest_size=8).hexdigest() for text in texts]
    ordered = episodes.with_columns(order=pl.Series(keys)).sort("variant", "order")
    names = ordered.group_by("variant").head(per_variant)["episode"].to_list()
    order = ("variant", "scenario_id", "sample", "round", "agent")
    rows = turns.filter(pl.col("episode").is_in(names)).collect().sort(order)
    selected: dict[str, dict[str, Any]] = {}
    seen: set[tuple[str, int]] = set()
    for row in rows.to_dicts():
        labels = {"variant": row["variant"], "scenario": row["scenario_id"], "template": row["template"]}
        episode = selected.setdefault(row["episode"], {**labels, "sample": row["sample"], "turns": []})
        continues = (row["episode"], row["agent"]) in seen and row["role"] != TRANSPLANTED
        seen.add((row["episode"], row["agent"]))
        messages = _pairs(row["messages"][-1:] if continues else row["messages"])
        further = _pairs(round_messages(row)[1:])
        episode["turns"].append({"messages": messages, "further": further, **{name: row[name] for name in SHOWN}})
    return {"label": _label(rows.row(0, named=True)), "of": len(episodes), "episodes": list(selected.values())}


def _pairs(messages: Sequence[dict[str, str]]) -> list[list[str]]:
    return [[message["role"], message["content"]] for message in messages]


def _label(row: dict[str, Any]) -> str:
    where = "in context" if row["channel"] == "context" else f"generation {row['generation']}"
    use = "" if row["channel"] == "context" else ", deployed" if row["split"] == "train" else ", tested"
    if row["channel"].startswith(TRANSFER):
        use = f", trained on {row['channel'].removeprefix(TRANSFER)}"
    return f"{row['model']}, {row['testbed']}, {row['alignment']}, {row['condition']}, seed {row['seed']}: {where}{use}"
