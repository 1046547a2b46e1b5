"""Pairs for LLaMA-Factory: its preference set in ShareGPT's form, and the entry that its dataset_info.json needs."""

import json
from pathlib import Path

from atp.artifacts import PAIRS, read_table, write_text
from atp.errors import AtpError

#: As data/README.md of hiyouga/LLaMA-Factory has it: a preference set holds messages and two last replies to them.
ENTRY = {
    "formatting": "sharegpt",
    "ranking": True,
    "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"},
    "tags": {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
        "system_tag": "system",
    },
}


def export_llama_factory(pairs: Path, out: Path) -> int:
    """Write NAME.json and dataset_info.json beside it, other entries of which stay; returns the number of pairs.

    Raises:
        AtpError: unreadable pairs, a dataset_info.json that is no JSON object, or the pairs named so.
    """
    rows = read_table(pairs, PAIRS, "pairs").to_pylist()
    info = out.with_name("dataset_info.json")
    if out == info:
        raise AtpError(f"{out}: is the list of data sets itself; give the pairs a name of their own")
    entries = _entries(info)
    examples = [
        {"conversations": row["prompt"], "chosen": row["chosen"][0], "rejected": row["rejected"][0]} for row in rows
    ]
    write_text(json.dumps(examples, ensure_ascii=False, indent=2) + "\n", out)
    entries[out.stem] = {"file_name": out.name, **ENTRY}
    write_text(json.dumps(entries, ensure_ascii=False, indent=2) + "\n", info)
    return len(examples)


def _entries(info: Path) -> dict[str, object]:
    if not info.exists():
        return {}
    try:
        found = json.loads(info.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AtpError(f"{info}: no readable JSON: {error}") from error
    if not isinstance(found, dict):
        raise AtpError(f"{info}: must be a JSON object, found {type(found).__name__}")
    return found
