"""Select the episodes that the page's transcript reader shows. Replies stay text; the page escapes them."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from atp.files.schemas import CELL, TRANSFER
from atp.files.turns import round_messages
from atp.measures.rates import scan
from atp.testbed import TRANSPLANTED

#: Maximum number of turns that are read for the page.
TURNS_A_FILE, TURNS_A_PAGE = 120, 7200
#: Maximum number of characters of the transcripts in the page, and of one text in them.
MAX_PAGE_CHARS, MAX_TEXT_CHARS = 1_500_000, 8_000
#: Characters that are not printable and harmless: line breaks, spaces, and the joiner of emojis.
KEPT_CHARS = "\n\t\u00a0\u202f\u200d"
SEED = 0
SHOWN = ("round", "agent", "role", "reply", "decision", "violation", "invalid_reason", "audited", "reward", "feedback")
EPISODE = ["variant", "scenario_id", "sample", "episode"]
READ = [*CELL, "channel", "generation", "split", "template", *EPISODE, "messages", "later_replies", "tool_results"]


def transcripts(turns: Sequence[Path]) -> list[dict[str, Any]]:
    """Return, per turns file, its label, its number of episodes, and a few complete episodes of each variant.

    The selection depends on a digest of SEED, scenario and sample, so that variants show the same scenarios. The first
    episodes of all variants are selected before second ones, and those of the lowest seed before others; files without
    a selected episode are left out.
    """
    limit = min(TURNS_A_FILE, TURNS_A_PAGE // max(1, len(turns)))
    candidates = [transcript for path in turns if (transcript := _transcript(path, limit))]
    ranked = []
    for file, transcript in enumerate(candidates):
        ranks: Counter[str] = Counter()
        for place, episode in enumerate(transcript["episodes"]):
            ranked.append((ranks[episode["variant"]], transcript["seed"], file, place))
            ranks[episode["variant"]] += 1
    selected: list[list[dict[str, Any]]] = [[] for _ in candidates]
    room = MAX_PAGE_CHARS
    for _, _, file, place in sorted(ranked):
        episode = candidates[file]["episodes"][place]
        size = len(json.dumps(episode, ensure_ascii=False))
        if size <= room or not any(selected):
            selected[file].append(episode)
            room -= size
    return [{**each, "episodes": episodes} for each, episodes in zip(candidates, selected, strict=True) if episodes]


def visible(text: str) -> str:
    """Escape characters that are invisible, control a terminal, or change the direction of text."""
    return "".join(char if char.isprintable() or char in KEPT_CHARS else repr(char)[1:-1] for char in text)


def _shown(value: Any) -> Any:
    """Return a value as the page shows it: texts are visible, and long ones are cut in the middle."""
    if not isinstance(value, str):
        return value
    text, half = value.replace("\r\n", "\n"), MAX_TEXT_CHARS // 2
    if len(text) > MAX_TEXT_CHARS:
        cut = f"\n[{len(text) - 2 * half:,} characters are left out of the page]\n"
        text = f"{text[:half]}{cut}{text[-half:]}"
    return visible(text)


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
        shown = {name: _shown(row[name]) for name in SHOWN}
        episode["turns"].append({"messages": messages, "further": further, **shown})
    first = rows.row(0, named=True)
    return {"label": _label(first), "seed": first["seed"], "of": len(episodes), "episodes": list(selected.values())}


def _pairs(messages: Sequence[dict[str, str]]) -> list[list[str]]:
    return [[message["role"], _shown(message["content"])] for message in messages]


def _label(row: dict[str, Any]) -> str:
    where = "in context" if row["channel"] == "context" else f"generation {row['generation']}"
    use = "" if row["channel"] == "context" else ", deployed" if row["split"] == "train" else ", tested"
    if row["channel"].startswith(TRANSFER):
        use = f", trained on {row['channel'].removeprefix(TRANSFER)}"
    return f"{row['model']}, {row['testbed']}, {row['alignment']}, {row['condition']}, seed {row['seed']}: {where}{use}"
