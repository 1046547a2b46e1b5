"""Export preference pairs to LLaMA-Factory: a file in ShareGPT's format, and its entry in dataset_info.json."""

import json
from collections.abc import Sequence
from pathlib import Path

from atp.errors import AtpError
from atp.files.schemas import PAIRS
from atp.files.tables import read_table, write_text
from atp.tools import TOOLS, schema

#: Format of a preference set, as in data/README.md of hiyouga/LLaMA-Factory.
ENTRY = {
    "formatting": "sharegpt",
    "ranking": True,
    "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "tools": "tools"},
    "tags": {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
        "observation_tag": "tool",
        "system_tag": "system",
    },
}


def export_llama_factory(pairs: Path, out: Path) -> int:
    """Write pairs to `out`, and an entry to dataset_info.json next to it; return the number of pairs.

    Raises:
        AtpError: unreadable pairs, an unknown tool, a dataset_info.json that is not a JSON object, or an `out` of that
            name.
    """
    rows = read_table(pairs, PAIRS, "pairs").to_pylist()
    info = out.with_name("dataset_info.json")
    if out == info:
        raise AtpError(f"{out}: LLaMA-Factory's list of data sets has this name; choose another one for the pairs")
    entries = _entries(info)
    examples = [
        {
            "conversations": row["prompt"],
            "chosen": row["chosen"][0],
            "rejected": row["rejected"][0],
            "tools": _tools(row["tools"], pairs),
        }
        for row in rows
    ]
    write_text(json.dumps(examples, ensure_ascii=False, indent=2) + "\n", out)
    entries[out.stem] = {"file_name": out.name, **ENTRY}
    write_text(json.dumps(entries, ensure_ascii=False, indent=2) + "\n", info)
    return len(examples)


def _tools(names: Sequence[str], pairs: Path) -> str:
    """Return the descriptions of tools as JSON, as LLaMA-Factory reads them; an empty text for none."""
    if unknown := [name for name in names if name not in TOOLS]:
        known = ", ".join(TOOLS)
        raise AtpError(f"{pairs}: unknown tool '{unknown[0]}', known are {known}; name its plug-in with --plugin FILE")
    return json.dumps([schema(name)["function"] for name in names], ensure_ascii=False) if names else ""


def _entries(info: Path) -> dict[str, object]:
    if not info.exists():
        return {}
    try:
        entries = json.loads(info.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AtpError(f"{info}: is not readable JSON: {error}; repair or remove it") from error
    if not isinstance(entries, dict):
        raise AtpError(f"{info}: must be a JSON object, found {type(entries).__name__}; repair or remove it")
    return entries
