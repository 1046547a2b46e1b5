"""Provenance -> what was run and what it cost. Knows files' metadata, and of their rows only whether
scenarios bring numbers of their own."""

import json
from collections.abc import Sequence
from os.path import relpath
from pathlib import Path
from typing import Any

import polars as pl

from atp.alignment import YIELD
from atp.artifacts import CELL, LINEAGE, read_provenance, read_table
from atp.errors import AtpError

FILTER_COUNTS = ("seen", "kept", "invalid", "valid_seen", "violations_seen", "violations_kept")
COSTS = ("jobs", "wall_seconds", "decisions", "prompt_tokens", "cached_tokens", "completion_tokens")


def provenance(path: Path) -> dict[str, Any]:
    """Provenance of a Parquet file, or of an adapter's folder (its lineage.json).

    Raises:
        AtpError: an unreadable file, or a folder without a lineage.
    """
    if not path.is_dir():
        return read_provenance(path)
    try:
        found: dict[str, Any] = json.loads((path / LINEAGE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AtpError(f"{path}: no readable {LINEAGE}") from error
    return found


def costs(artifacts: Sequence[Path]) -> list[dict[str, Any]]:
    """Per stage, in the order of first appearance: jobs, wall time and tokens, summed; then the sum of all."""
    stages: dict[str, dict[str, float]] = {}
    for path in artifacts:
        found = provenance(path)
        stage = stages.setdefault(found.get("stage", "unknown"), dict.fromkeys(COSTS, 0.0))
        for name, value in {**found.get("cost", {}), "jobs": 1}.items():
            if name in stage:
                stage[name] += value
    total = {name: sum(stage[name] for stage in stages.values()) for name in COSTS}
    return [{"stage": name, **cost} for name, cost in {**stages, "together": total}.items()]


def versions(artifacts: Sequence[Path]) -> dict[str, str]:
    """Package -> its version, or versions where stages ran with several."""
    found: dict[str, set[str]] = {}
    for path in artifacts:
        for name, version in provenance(path).get("versions", {}).items():
            found.setdefault(name, set()).add(version)
    return {name: ", ".join(sorted(several)) for name, several in sorted(found.items())}


def trainings(adapters: Sequence[Path], root: Path) -> list[list[str]]:
    """Per adapter: the parts of its path from `root`, how it was trained, and what its canary measured."""
    rows = []
    for path in adapters:
        found = provenance(path)
        canary, cost = found["canary"], found["cost"]
        low, high = _mean_interval(canary["kl"], canary["kl_sd"], int(canary["prompts"]))
        rows.append(
            [
                ", ".join(path.parent.relative_to(root).parts),
                found["params"]["training"]["method"],
                f"{cost['steps']:.0f}",
                f"{canary['valid']:.0f}/{canary['prompts']:.0f}",
                f"{canary['violations']:.0f}/{canary['valid']:.0f}",
                f"{canary['reference_violations']:.0f}/{canary['reference_valid']:.0f}",
                f"{canary['kl']:.3f} ({low:.3f} to {high:.3f})",
            ]
        )
    return rows


def warnings(adapters: Sequence[Path], root: Path) -> list[str]:
    """Alignments that did not lower the share of violations among valid replies to held-out prompts, and generations
    that had nothing to learn, or whose training was undone.
    """
    lines = []
    for path in adapters:
        found = provenance(path)
        canary = found["canary"]
        before, after = (canary[f"{name}violations"] / max(canary[f"{name}valid"], 1.0) for name in ("reference_", ""))
        if found["carried"]:
            lines.append(f"{relpath(path.parent, root)}: {found['why']}; this generation is the one before")
        if found["stage"] == "align" and after >= before:
            counts = "{reference_violations:.0f}/{reference_valid:.0f} before, {violations:.0f}/{valid:.0f} after"
            lines.append(
                f"{relpath(path.parent, root)}: alignment did not lower the violation rate on held-out prompts: "
                + counts.format_map(canary)
            )
    return lines


def yields(pairs: Sequence[Path], root: Path) -> list[str]:
    """What asking for preference pairs came to."""
    return [f"{relpath(path.parent, root)}: {YIELD.format_map(provenance(path)['cost'])}" for path in pairs]


def _mean_interval(mean: float, deviation: float, n: int) -> tuple[float, float]:
    from scipy.stats import t

    half = float(t.ppf(0.975, n - 1)) * deviation / n**0.5 if n > 1 else float("nan")
    return mean - half, mean + half


def deployments(selections: Sequence[Path]) -> list[dict[str, Any]]:
    """Per selection its cell and the filter's counts.

    Raises:
        AtpError: an unreadable file, or one that no filter of a study wrote.
    """
    rows = []
    for path in selections:
        found = provenance(path)
        cell, cost = found.get("params", {}).get("cell", {}), found.get("cost", {})
        if {*CELL, "generation"} - set(cell) or set(FILTER_COUNTS) - set(cost):
            raise AtpError(f"{path}: not a selection of a study: its metadata lacks the cell or the filter's counts")
        keys = {name: cell[name] for name in (*CELL, "generation")}
        rows.append({"cell": keys, "counts": {name: int(cost[name]) for name in FILTER_COUNTS}})
    return rows


def settings(turns: Sequence[Path]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Testbed settings of the context channel's variants, by the keys of LINE; a file without provenance adds none."""
    found = {}
    for path in turns:
        params = read_provenance(path).get("params", {})
        cell = params.get("cell", {})
        if cell.get("channel") == "context":
            for variant, values in params.get("variants", {}).items():
                found[(*(cell[key] for key in CELL), variant)] = values
    return found


def own_numbers(artifacts: Sequence[Path]) -> bool:
    """Whether coordination scenarios bring numbers of their own, which settings then do not decide.

    Raises:
        AtpError: an unreadable file.
    """
    tables = [read_table(path) for path in artifacts if not path.is_dir()]
    return any("threshold" in table.column_names and table["threshold"].null_count < len(table) for table in tables)


def played(measures: pl.DataFrame) -> list[tuple[str, str]]:
    """What the evidence spans: models, testbeds, alignments, arms, seeds, and how far each channel goes."""
    named = [
        (f"{key}s", ", ".join(str(value) for value in sorted(measures[key].unique())))
        for key in ("model", "testbed", "alignment", "arm", "seed")
    ]
    rounds = measures.filter(channel="context")["round"].max()
    generations = measures.filter(channel="weights")["generation"].max()
    if rounds is not None:
        named.append(("rounds in context", str(rounds)))
    if generations is not None:
        named.append(("generations", f"0 to {generations!s}"))
    return named
