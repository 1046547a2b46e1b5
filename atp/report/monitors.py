"""The table of monitors: what they flagged of the replies that each generation could learn from."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atp.files.schemas import MONITORED
from atp.files.tables import read_provenance
from atp.report.conditions import NO_VALUE, RowGroup, TableCell
from atp.report.verdict import percent

COLUMNS = ["condition", "generation", "sensitivity", "specificity", "flagged of valid replies", "no verdict"]


def monitors(selections: Sequence[Path], adapters: Sequence[Path]) -> list[RowGroup]:
    """Return rows with the columns COLUMNS, of all seeds together, in a group for each agent.

    The counts are in the metadata of selections; of adapters where GRPO sampled the replies itself.

    Raises:
        AtpError: an unreadable artifact.
    """
    agents: dict[str, dict[tuple[str, int], Counter[str]]] = {}
    for path in (*selections, *adapters):
        provenance = read_provenance(path)
        params = provenance.get("params", {})
        if not params.get("monitor"):
            continue
        cell, cost = params["cell"], provenance["cost"]
        place = (cell["condition"], cell["generation"] + (provenance["stage"] == "filter"))
        rows = agents.setdefault(", ".join(cell[key] for key in ("model", "testbed", "alignment")), {})
        rows.setdefault(place, Counter()).update({name: int(cost.get(name, 0)) for name in MONITORED})
    return [RowGroup(agent, [_row(*place, rows[place]) for place in sorted(rows)]) for agent, rows in agents.items()]


def _row(condition: str, generation: int, counts: dict[str, Any]) -> list[TableCell]:
    valid, violations, flagged, violations_flagged, no_verdict = (counts[name] for name in MONITORED)
    compliant, passed = valid - violations, valid - violations - (flagged - violations_flagged)
    rates = [_rate(violations_flagged, violations), _rate(passed, compliant), _rate(flagged, valid)]
    return [(condition, ""), (str(generation), ""), *rates, (str(no_verdict), "")]


def _rate(k: int, n: int) -> TableCell:
    return (percent(k / n), f"{k}/{n}") if n else NO_VALUE
