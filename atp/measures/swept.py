"""Which settings variants were played under, and which of them differ in one alone. Knows turns files' provenance, and
no turns.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atp.artifacts import CELL, read_provenance

#: Settings of variants, by the keys of LINE.
Settings = Mapping[tuple[Any, ...], Mapping[str, Any]]


@dataclass(frozen=True)
class Sweep:
    """Variants of one cell that differ in one setting alone.

    variants holds (the setting's value, the variant) from the least value on, fixed the settings that all share, and
    apart those of them that tell the cell's sweeps apart.
    """

    cell: tuple[Any, ...]
    variants: tuple[tuple[float, str], ...]
    fixed: Mapping[str, Any]
    apart: Mapping[str, Any]

    @property
    def name(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.apart.items()) or "default"


def settings(turns: Sequence[Path], channel: str = "context") -> dict[tuple[Any, ...], dict[str, Any]]:
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


def of_all_seeds(played: Settings) -> Settings:
    """The settings by keys without a seed, as rows of `seeds.over_seeds` have them."""
    seed = CELL.index("seed")
    return {(*key[:seed], None, *key[seed + 1 :]): values for key, values in played.items()}


def sweeps(played: Settings, setting: str) -> list[Sweep]:
    """Every sweep of a setting: at least two values of it, all else being the same."""
    alike: dict[tuple[Any, ...], dict[str, list[tuple[float, str]]]] = {}
    for (*cell, variant), values in played.items():
        if is_number(values.get(setting)):
            fixed = json.dumps({key: value for key, value in values.items() if key != setting})
            alike.setdefault(tuple(cell), {}).setdefault(fixed, []).append((values[setting], variant))
    found = []
    for cell_, by_fixed in alike.items():
        several = [(json.loads(fixed), sorted(each)) for fixed, each in by_fixed.items() if len(dict(each)) > 1]
        for fixed, variants in several:
            apart = {key: value for key, value in fixed.items() if any(other.get(key) != value for other, _ in several)}
            found.append(Sweep(cell_, tuple(variants), fixed, apart))
    return found


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
