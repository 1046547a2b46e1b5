"""Provenance -> what was run and what it cost. Knows files' metadata, and of their rows only whether
scenarios bring numbers of their own."""

from collections.abc import Callable, Mapping, Sequence
from os.path import relpath
from pathlib import Path
from typing import Any

import polars as pl

from atp.alignment import YIELD
from atp.artifacts import CELL, read_provenance, read_table
from atp.errors import AtpError
from atp.provenance import together
from atp.units import count, digits, duration, size

FILTER_COUNTS = ("seen", "kept", "invalid", "valid_seen", "violations_seen", "violations_kept")
#: What a stage's jobs took: heading -> key of the cost, and how it is written.
COSTS: dict[str, tuple[str, Callable[[float], str]]] = {
    "jobs": ("jobs", count),
    "starts": ("starts", count),
    "wall time": ("wall_seconds", duration),
    "CPU time": ("cpu_seconds", duration),
    "GPU hours": ("gpu_seconds", lambda seconds: digits(seconds / 3600)),
    "peak memory": ("peak_memory_mb", lambda mebibytes: size(mebibytes * 2**20)),
    "decisions": ("decisions", count),
    "prompt tokens": ("prompt_tokens", count),
    "cached tokens": ("cached_tokens", count),
    "written tokens": ("completion_tokens", count),
    "trained tokens": ("tokens", count),
}


def costs(provenances: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Headings, and a row a stage in the order of first appearance, then all together; what is 0 is a dash.

    A rollout in shards is a job for each, and one that puts them together. Starts have a column where some job was
    stopped and started again.
    """
    stages: dict[str, list[dict[str, float]]] = {}
    for found in provenances:
        cost = found.get("cost", {})
        gathers = float(cost.get("shards", 0) > 0)
        told = {"jobs": 1.0 + cost.get("shards", 0), "starts": cost.get("starts", 1.0) + gathers}
        stages.setdefault(found.get("stage", "unknown"), []).append({**cost, **told})
    spent = {stage: together(each) for stage, each in stages.items()}
    spent["together"] = together(spent.values())
    again = spent["together"]["starts"] > spent["together"]["jobs"]
    shown = {heading: how for heading, how in COSTS.items() if again or heading != "starts"}
    rows = [
        [stage, *(written(cost[key]) if cost.get(key) else "–" for key, written in shown.values())]
        for stage, cost in spent.items()
    ]
    return ["stage", *shown], rows


def versions(provenances: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Package -> its version, or versions where stages ran with several."""
    seen: dict[str, set[str]] = {}
    for found in provenances:
        for name, version in found.get("versions", {}).items():
            seen.setdefault(name, set()).add(version)
    return {name: ", ".join(sorted(several)) for name, several in sorted(seen.items())}


def trainings(adapters: Sequence[Path], root: Path) -> list[list[str]]:
    """Per adapter: the parts of its path from `root`, how it was trained, and what its canary measured."""
    rows = []
    for path in adapters:
        found = read_provenance(path)
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
        found = read_provenance(path)
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
    return [f"{relpath(path.parent, root)}: {YIELD.format_map(read_provenance(path)['cost'])}" for path in pairs]


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
        found = read_provenance(path)
        cell, cost = found.get("params", {}).get("cell", {}), found.get("cost", {})
        if {*CELL, "generation"} - set(cell) or set(FILTER_COUNTS) - set(cost):
            raise AtpError(f"{path}: not a selection of a study: its metadata lacks the cell or the filter's counts")
        keys = {name: cell[name] for name in (*CELL, "generation")}
        rows.append({"cell": keys, "counts": {name: int(cost[name]) for name in FILTER_COUNTS}})
    return rows


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
        (f"{key}s", ", ".join(str(value) for value in sorted(measures[key].drop_nulls().unique())))
        for key in ("model", "testbed", "alignment", "arm", "seed")
    ]
    by_testbed = measures.filter(channel="context").group_by("testbed").agg(pl.col("round").max())["round"].drop_nulls()
    generations = measures.filter(channel="weights")["generation"].max()
    if len(by_testbed):
        fewest, most = by_testbed.min(), by_testbed.max()
        named.append(("rounds in context", str(most) if fewest == most else f"{fewest!s} to {most!s}, by testbed"))
    if generations is not None:
        named.append(("generations", f"0 to {generations!s}"))
    return named
