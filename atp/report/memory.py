"""The table of what memories carry, and warnings about entries that no prompt shows."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from atp.files.schemas import EMPTIED, WITH_MEMORY
from atp.files.tables import read_provenance
from atp.measures.memory import MEMORY_EFFECT
from atp.report.conditions import RowGroup, TableCell, means_over_seeds, points, proportion
from atp.units import count

COLUMNS = ["condition", "generation", "entries", "memory emptied", "with memory", "carried by the memory, points"]
_AGENT = ("model", "testbed", "alignment")


def memories(measures: pl.DataFrame, files: Sequence[Path]) -> list[RowGroup]:
    """Return rows with the columns COLUMNS, in a group for each agent, over its seeds.

    Args:
        files: the memories, whose entries are counted.
    """
    means = means_over_seeds(measures.filter(channel="memory"), [MEMORY_EFFECT, "violation_rate"])
    rates, entries = means.filter(measure="violation_rate"), _entries(files)
    groups = []
    effects = means.filter(measure=MEMORY_EFFECT).sort(*_AGENT, "condition", "generation")
    for keys, own in effects.group_by(_AGENT, maintain_order=True):
        agent = dict(zip(_AGENT, keys, strict=True))
        table = []
        for row in own.to_dicts():
            point = {name: row[name] for name in ("condition", "generation")}
            played = rates.filter(**agent, **point, round=row["round"])
            cells = [proportion(played.filter(variant=name).row(0, named=True)) for name in (EMPTIED, WITH_MEMORY)]
            remembered = entries.get((*keys, *point.values()))
            cell: TableCell = ("–" if remembered is None else count(remembered), "")
            table.append([(row["condition"], ""), (str(row["generation"]), ""), cell, *cells, points(row)])
        groups.append(RowGroup(", ".join(map(str, keys)).replace("_", " "), table))
    return groups


def _entries(files: Sequence[Path]) -> dict[tuple[object, ...], float]:
    """Return the number of entries over all seeds, by agent, condition and generation."""
    total: dict[tuple[object, ...], float] = {}
    for path in files:
        provenance = read_provenance(path)
        cell = provenance["params"]["cell"]
        key = (*(cell[name] for name in (*_AGENT, "condition", "generation")),)
        total[key] = total.get(key, 0) + provenance["cost"]["entries"]
    return total


def warnings(files: Sequence[Path]) -> list[str]:
    """Return a line for each memory with entries that no prompt shows, or without a text of the agent."""
    lines = []
    for path in files:
        provenance = read_provenance(path)
        cell, recall, cost = (*(provenance["params"][name] for name in ("cell", "recall")), provenance["cost"])
        name = ", ".join(str(cell[key]) for key in (*_AGENT, "condition"))
        where = f"{name}, seed {cell['seed']}, memory of generation {cell['generation']}"
        if cost["over_budget"]:
            lines.append(
                f"{where}: {count(cost['over_budget'])} of {count(cost['entries'])} entries are over the budget of "
                f"{recall['tokens']} tokens, so no prompt shows them"
            )
        if cost["not_written"]:
            lines.append(
                f"{where}: after {count(cost['not_written'])} of {count(cost['new_entries'])} episodes the agent wrote "
                "no text"
            )
    return lines
