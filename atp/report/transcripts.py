"""Turns -> the episodes that the page's reader shows. What an agent wrote stays text; the page escapes it."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from atp.artifacts import CELL, REPLAYED, said_in_round
from atp.measures.rates import scan_turns

#: Turns shown at most, but for one episode of each variant at least: the page holds them all.
TURNS_A_FILE, TURNS_A_PAGE = 720, 14400
SEED = 0
SHOWN = ("round", "agent", "role", "reply", "decision", "violation", "invalid_reason", "audited", "reward", "feedback")
EPISODE = ["variant", "scenario_id", "sample", "episode"]
READ = [*CELL, "channel", "generation", "split", "environment", *EPISODE, "messages", "details", *SHOWN]


def transcripts(turns: Sequence[Path]) -> list[dict[str, Any]]:
    """Per file with turns its label, how many episodes it has and those chosen: a few whole episodes of each variant.

    The choice is drawn by a digest of SEED, scenario and sample, so variants show the same scenarios side by side.
    """
    limit = min(TURNS_A_FILE, TURNS_A_PAGE // max(1, len(turns)))
    return [found for path in turns if (found := _file(path, limit))]


def _file(path: Path, limit: int) -> dict[str, Any] | None:
    scanned = scan_turns([path], READ)
    episodes = scanned.group_by(EPISODE).agg(turns=pl.len()).collect()
    if not len(episodes):
        return None
    each = max(1, limit // max(episodes["turns"].to_list()) // episodes["variant"].n_unique())
    keys = [_digest(f"{SEED}|{row['scenario_id']}|{row['sample']}") for row in episodes.to_dicts()]
    chosen = (
        episodes.with_columns(order=pl.Series(keys)).sort("variant", "order").group_by("variant").head(each)["episode"]
    )
    rows = (
        scanned.filter(pl.col("episode").is_in(chosen.to_list()))
        .collect()
        .sort("variant", "scenario_id", "sample", "round", "agent")
    )
    first = rows.row(0, named=True)
    found: dict[str, dict[str, Any]] = {}
    seen: set[tuple[str, int]] = set()
    for row in rows.to_dicts():
        names = {"variant": row["variant"], "scenario": row["scenario_id"], "environment": row["environment"]}
        episode = found.setdefault(row["episode"], {**names, "sample": row["sample"], "turns": []})
        told = (row["episode"], row["agent"]) in seen and row["role"] != REPLAYED
        new = row["messages"][-1:] if told else row["messages"]
        seen.add((row["episode"], row["agent"]))
        said = [[message["role"], message["content"]] for message in new]
        further = [[message["role"], message["content"]] for message in said_in_round(row)[1:]]
        episode["turns"].append({"messages": said, "further": further, **{name: row[name] for name in SHOWN}})
    return {"label": _label(first), "of": len(episodes), "episodes": list(found.values())}


def _label(row: dict[str, Any]) -> str:
    where = "in context" if row["channel"] == "context" else f"generation {row['generation']}"
    use = "" if row["channel"] == "context" else ", deployed" if row["split"] == "train" else ", tested"
    return f"{row['model']}, {row['testbed']}, {row['alignment']}, {row['arm']}, seed {row['seed']}: {where}{use}"


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
