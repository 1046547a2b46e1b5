"""Measure what a memory carries: how much its agent violates with it and with the memory emptied.

Each generation of the memory channel plays the same held-out scenarios in two variants, with the same random numbers.
With violation rates r of the first round:

    memory_effect(g) = r(g, with memory) - r(g, emptied)

Shared variation cancels out (`intervals.difference`). Each seed is another memory, so `seeds.over_seeds` computes an
interval over memories as it does over trainings.
"""

from typing import Any

import polars as pl

from atp.files.schemas import CELL, EMPTIED, WITH_MEMORY
from atp.measures.intervals import difference
from atp.measures.measure import Evidence, measure_rows
from atp.measures.seeds import add_means
from atp.measures.series import COUNTED, by_scenario, invalid_replies, point_row, points_of, tables

MEMORY_EFFECT = "memory_effect"
_KEYS = [*CELL, "channel"]


def memory_effects(evidence: Evidence) -> pl.DataFrame:
    """Return rows of MEASURES for every generation of the memory channel; `n` counts scenarios."""
    counts = by_scenario(evidence.turns.filter(channel="memory"))
    rows: list[dict[str, Any]] = []
    for keys, cell in counts.group_by(_KEYS, maintain_order=True):
        place = dict(zip(_KEYS, keys, strict=True)) | {"split": "test", "variant": WITH_MEMORY}
        remembering, emptied = (points_of(cell.filter(variant=name), *COUNTED) for name in (WITH_MEMORY, EMPTIED))
        for point in sorted(remembering.keys() & emptied.keys()):
            now, without = tables(remembering[point], emptied[point])
            interval = difference(now, without)
            if interval.value is not None:
                replies = len(now), invalid_replies(now, without)
                rows.append(place | point_row(MEMORY_EFFECT, point, replies, interval))
    return add_means(measure_rows(rows))
