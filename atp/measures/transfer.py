"""Compare each generation with generation 0, on the testbed of its training and on testbeds without training.

A study's `weights.transfer` has every generation evaluated on other testbeds too. Their turns have the channel
`transfer:TESTBED`, of the testbed of the training, and the column `testbed` names the one that is played. With
violation rates r on the test split in the first round:

    change_from_start(g) = r(g) - r(0)

Both generations play the same scenarios, so shared variation cancels out (`intervals.difference`). `seeds.over_seeds`
has the interval over trainings.
"""

from collections.abc import Mapping
from typing import Any

import polars as pl

from atp.files.schemas import SERIES, TRANSFER
from atp.measures.intervals import difference
from atp.measures.measure import Evidence, measure_rows
from atp.measures.seeds import add_means
from atp.measures.series import COUNTED, by_scenario, invalid_replies, point_row, points_of, tables
from atp.measures.tipping import FLAT_BOUND

CHANGE_FROM_START = "change_from_start"
UNDECIDED_CHANGE = "undecided"
_KEYS = [*SERIES, "channel"]
#: Keys of an agent that learns: those of SERIES but for what it plays, and the testbed of its training.
AGENT = ("model", "alignment", "condition", "seed", "trained_on")


def transfer_effects(evidence: Evidence) -> pl.DataFrame:
    """Return rows of MEASURES for every generation but the first of agents that other testbeds evaluate.

    `n` counts scenarios.
    """
    counts = with_transfer(by_scenario(evidence.turns))
    rows: list[dict[str, Any]] = []
    for keys, series in counts.group_by(_KEYS, maintain_order=True):
        points = points_of(series, *COUNTED)
        start, *later = sorted(points)
        for point in later:
            now, first = tables(points[point], points[start])
            interval = difference(now, first)
            if interval.value is not None:
                replies = len(now), invalid_replies(now, first)
                place = dict(zip(_KEYS, keys, strict=True)) | {"split": "test"}
                rows.append(place | point_row(CHANGE_FROM_START, point, replies, interval))
    return add_means(measure_rows(rows))


def with_transfer(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of agents that are evaluated on other testbeds, with the column `trained_on`."""
    transferred = pl.col("channel").str.starts_with(TRANSFER)
    weights = rows.filter(transferred | (pl.col("channel") == "weights"))
    trained_on = pl.when(transferred).then(pl.col("channel").str.strip_prefix(TRANSFER)).otherwise("testbed")
    rows = weights.with_columns(trained_on=trained_on)
    return rows.filter(transferred.any().over(AGENT))


def change_shown(change: Mapping[str, Any]) -> str:
    """Return what a change shows; a change of less than FLAT_BOUND is never taken from a missing proof."""
    low, high = change["low"], change["high"]
    if low is None or high is None:
        return UNDECIDED_CHANGE
    if low > 0 or high < 0:
        return "rises" if low > 0 else "falls"
    return f"within {100 * FLAT_BOUND:.0f} points" if max(-low, high) <= FLAT_BOUND else UNDECIDED_CHANGE
