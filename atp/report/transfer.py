"""The table of transfer: how violation rates change on testbeds that an agent was not trained on."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from atp.measures.seeds import over_seeds
from atp.measures.trainings import ONE_TRAINING
from atp.measures.transfer import AGENT, CHANGE_FROM_START, change_shown, with_transfer
from atp.report import spread
from atp.report.conditions import RowGroup, points, proportion

COLUMNS = ["testbed played", "generation", "rate of generation 0", "rate", "change, points", "shown"]
_GROUP = [key for key in AGENT if key != "seed"]
_POINT = ["testbed", "generation"]


def transfers(measures: pl.DataFrame) -> list[RowGroup]:
    """Return rows with the columns COLUMNS, in a group for each agent that learns, over its seeds."""
    names = ("violation_rate", CHANGE_FROM_START)
    agents = with_transfer(measures.filter(pl.col("measure").is_in(names), split="test"))
    if not len(agents):
        return []
    rows = over_seeds(agents)
    changes, rates = rows.filter(measure=CHANGE_FROM_START), rows.filter(measure="violation_rate")
    groups = []
    for keys, group in changes.sort(*_GROUP, pl.col("channel") != "weights", *_POINT).group_by(
        _GROUP, maintain_order=True
    ):
        agent = dict(zip(_GROUP, keys, strict=True))
        name = f"{agent['model']}, {agent['alignment']}, {agent['condition']}, trained on {_words(agent['trained_on'])}"
        own = rates.filter(**agent)
        groups.append(RowGroup(name, [_row(change, own) for change in group.to_dicts()]))
    return groups


def _row(change: Mapping[str, Any], rates: pl.DataFrame) -> list[tuple[str, str]]:
    """Return the cells of a generation on one testbed."""
    played = rates.filter(testbed=change["testbed"], variant=change["variant"], round=change["round"])
    first, now = (played.filter(generation=g).row(0, named=True) for g in (0, change["generation"]))
    once = ONE_TRAINING if spread.trained_once(change) else ""
    name = _words(change["testbed"]) + (" (trained)" if change["channel"] == "weights" else "")
    cells = [proportion({**row, "least": None}) for row in (first, now)]
    ends = {} if spread.several(change) else {"least": None}
    shown = change_shown(change) if change["label"] is None else change["label"]
    return [(name, ""), (str(change["generation"]), ""), *cells, points({**change, **ends}), (shown, once)]


def _words(testbed: str) -> str:
    return testbed.replace("_", " ")
