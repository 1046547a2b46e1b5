"""Read the settings of variants from turns files' provenance, and find sweeps: variants that differ in one setting."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atp.files.schemas import CELL, SERIES
from atp.files.tables import read_provenance

#: Settings of variants, by the keys of SERIES.
Settings = Mapping[tuple[Any, ...], Mapping[str, Any]]


@dataclass(frozen=True)
class Sweep:
    """Variants of one cell that differ in one setting only.

    Args:
        cell: values of the keys of CELL.
        variants: (value of the setting, label of the variant), sorted by value.
        fixed: the settings that all variants share.
        apart: those of `fixed` in which the cell's sweeps differ from each other.
    """

    cell: tuple[Any, ...]
    variants: tuple[tuple[float, str], ...]
    fixed: Mapping[str, Any]
    apart: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name of the sweep among its cell's sweeps."""
        return " ".join(f"{key}={value}" for key, value in self.apart.items()) or "default"


def settings(turns: Sequence[Path], channel: str = "context") -> dict[tuple[Any, ...], dict[str, Any]]:
    """Return the testbed settings of a channel's variants by the keys of SERIES. Files without provenance are skipped.

    Raises:
        AtpError: an unreadable file.
    """
    played = {}
    for path in turns:
        params = read_provenance(path).get("params", {})
        cell = params.get("cell", {})
        if cell.get("channel") == channel:
            for variant, values in params.get("variants", {}).items():
                played[(*(cell[key] for key in CELL), variant)] = values
    return played


def of_all_seeds(played: Settings) -> Settings:
    """Return the settings by keys whose seed is None, as in rows of `seeds.over_seeds`."""
    seed = CELL.index("seed")
    return {(*key[:seed], None, *key[seed + 1 :]): values for key, values in played.items()}


def settings_of(row: Mapping[str, Any], played: Settings) -> Mapping[str, Any] | None:
    """Return the settings of a row of measures; None where they are not known."""
    return played.get(tuple(row[key] for key in SERIES))


def sweeps(played: Settings, setting: str) -> list[Sweep]:
    """Return every sweep of a setting: variants with at least two values of it that share all other settings."""
    alike: dict[tuple[Any, ...], dict[str, list[tuple[float, str]]]] = {}
    for (*cell, variant), values in played.items():
        if is_number(values.get(setting)):
            fixed = json.dumps({key: value for key, value in values.items() if key != setting})
            alike.setdefault(tuple(cell), {}).setdefault(fixed, []).append((values[setting], variant))
    all_sweeps = []
    for cell_, by_fixed in alike.items():
        several = [(json.loads(fixed), sorted(each)) for fixed, each in by_fixed.items() if len(dict(each)) > 1]
        for fixed, variants in several:
            apart = {key: value for key, value in fixed.items() if any(other.get(key) != value for other, _ in several)}
            all_sweeps.append(Sweep(cell_, tuple(variants), fixed, apart))
    return all_sweeps


def is_number(value: Any) -> bool:
    """Return whether a setting's value is a number (a bool is not)."""
    return isinstance(value, int | float) and not isinstance(value, bool)
