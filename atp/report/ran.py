"""Tables of what was run and what it cost, from the provenance of artifacts."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from atp.errors import AtpError
from atp.files.provenance import together
from atp.files.schemas import CELL, YIELD
from atp.files.tables import read_provenance
from atp.measures.job import REPAIR
from atp.units import count, digits, duration, size

FILTER_COUNTS = ("seen", "kept", "invalid", "valid_seen", "violations_seen", "violations_kept")
#: Heading of a column -> key of the cost, and how to format it.
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
#: Heading of the row with the totals.
TOTAL = "total"


def costs(provenances: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return headings, and a row per stage in order of first appearance, then the totals; a 0 is a dash.

    A rollout in shards counts as a job per shard and one that gathers them. The column `starts` is left out if no job
    was stopped and started again.
    """
    stages: dict[str, list[dict[str, float]]] = {}
    for provenance in provenances:
        cost = provenance.get("cost", {})
        gathers = float(cost.get("shards", 0) > 0)
        jobs = {"jobs": 1.0 + cost.get("shards", 0), "starts": cost.get("starts", 1.0) + gathers}
        stages.setdefault(provenance.get("stage", "unknown"), []).append({**cost, **jobs})
    spent = {stage: together(each) for stage, each in stages.items()}
    spent[TOTAL] = together(spent.values())
    restarted = spent[TOTAL]["starts"] > spent[TOTAL]["jobs"]
    columns = {heading: column for heading, column in COSTS.items() if restarted or heading != "starts"}
    rows = [
        [stage, *(formatted(cost[key]) if cost.get(key) else "–" for key, formatted in columns.values())]
        for stage, cost in spent.items()
    ]
    return ["stage", *columns], rows


def versions(provenances: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the version of each package, or the versions if stages ran with several."""
    versions_of: dict[str, set[str]] = {}
    for provenance in provenances:
        for name, version in provenance.get("versions", {}).items():
            versions_of.setdefault(name, set()).add(version)
    return {name: ", ".join(sorted(several)) for name, several in sorted(versions_of.items())}


def trainings(adapters: Sequence[Path]) -> list[list[str]]:
    """Return a row per adapter: its agent, its training, and the results of the post-training check."""
    rows = []
    for path in adapters:
        lineage = read_provenance(path)
        check, cost = lineage["check"], lineage["cost"]
        low, high = _mean_interval(check["kl"], check["kl_sd"], int(check["prompts"]))
        rows.append(
            [
                _agent(path, lineage),
                lineage["params"]["training"]["method"],
                f"{cost['steps']:.0f}",
                f"{check['valid']:.0f}/{check['prompts']:.0f}",
                f"{check['violations']:.0f}/{check['valid']:.0f}",
                f"{check['reference_violations']:.0f}/{check['reference_valid']:.0f}",
                f"{check['kl']:.3f} ({low:.3f} to {high:.3f})",
            ]
        )
    return rows


def warnings(adapters: Sequence[Path]) -> list[str]:
    """Return warnings about trainings.

    They are about alignments that did not lower the violation rate on held-out prompts, and about generations that are
    unchanged: they had nothing to learn, or their training was undone.
    """
    lines = []
    for path in adapters:
        lineage = read_provenance(path)
        check, name = lineage["check"], _agent(path, lineage)
        before, after = (check[f"{key}violations"] / max(check[f"{key}valid"], 1.0) for key in ("reference_", ""))
        if lineage["unchanged"]:
            lines.append(f"{name}: {lineage['reason']}; this generation is the same as the previous one")
        if lineage["stage"] == "align" and after >= before:
            counts = "{reference_violations:.0f}/{reference_valid:.0f} before, {violations:.0f}/{valid:.0f} after"
            lines.append(
                f"{name}: alignment did not lower the violation rate on held-out prompts: {counts.format_map(check)}"
            )
    return lines


def yields(pairs: Sequence[Path]) -> list[str]:
    """Return a line per file of preference pairs: how many pairs were collected from how many tries."""
    lines = []
    for path in pairs:
        provenance = read_provenance(path)
        lines.append(f"{_agent(path, provenance)}: {YIELD.format_map(provenance['cost'])}")
    return lines


def _agent(path: Path, provenance: Mapping[str, Any]) -> str:
    """Return the name of the agent of an artifact: its cell and generation, or its path if it belongs to no study."""
    cell = provenance["params"].get("cell")
    if not cell:
        return str(path)
    parts = [cell["model"], cell["testbed"], cell["alignment"], f"seed {cell['seed']}"]
    what = "generation {}, aligned again" if provenance["stage"] == "align" else "generation {}"
    what = "aligned again on {} pairs" if cell["channel"] == REPAIR else what
    return ", ".join([*parts, *([cell["condition"], what.format(cell["generation"])] if cell["condition"] else [])])


def _mean_interval(mean: float, deviation: float, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a mean by Student's t."""
    from scipy.stats import t

    half = float(t.ppf(0.975, n - 1)) * deviation / n**0.5 if n > 1 else float("nan")
    return mean - half, mean + half


def deployments(selections: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the cell and the filter's counts of each selection.

    Raises:
        AtpError: an unreadable file, or one that no filter of a study wrote.
    """
    rows = []
    for path in selections:
        provenance = read_provenance(path)
        cell, cost = provenance.get("params", {}).get("cell", {}), provenance.get("cost", {})
        if {*CELL, "generation"} - set(cell) or set(FILTER_COUNTS) - set(cost):
            raise AtpError(f"{path}: not a selection of a study: its metadata lacks the cell or the filter's counts")
        keys = {name: cell[name] for name in (*CELL, "generation")}
        rows.append({"cell": keys, "counts": {name: int(cost[name]) for name in FILTER_COUNTS}})
    return rows


def played(measures: pl.DataFrame) -> list[tuple[str, str]]:
    """Return what a study covers: models, testbeds, alignments, conditions, seeds, rounds and generations."""
    rows = [
        (f"{key}s", ", ".join(str(value) for value in sorted(measures[key].drop_nulls().unique())))
        for key in ("model", "testbed", "alignment", "condition", "seed")
    ]
    rounds = measures.filter(channel="context").group_by("testbed").agg(pl.col("round").max())["round"].drop_nulls()
    if len(rounds):
        fewest, most = rounds.min(), rounds.max()
        rows.append(("rounds in context", str(most) if fewest == most else f"{fewest!s} to {most!s}, by testbed"))
    for channel, name in (("weights", "generations"), ("memory", "generations in memory")):
        generations = measures.filter(channel=channel)["generation"].max()
        if generations is not None:
            rows.append((name, f"0 to {generations!s}"))
    return rows
