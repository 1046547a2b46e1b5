"""Under which settings turns were played: what their files say of themselves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atp.artifacts import CELL, read_provenance


def variant_settings(turns: Sequence[Path], channel: str = "context") -> dict[tuple[Any, ...], dict[str, Any]]:
    """Testbed settings of a channel's variants, by the keys of LINE; a file without provenance adds none.

    Raises:
        AtpError: an unreadable file.
    """
    found = {}
    for path in turns:
        params = read_provenance(path).get("params", {})
        cell = params.get("cell", {})
        if cell.get("channel") == channel:
            for variant, values in params.get("variants", {}).items():
                found[(*(cell[key] for key in CELL), variant)] = values
    return found
