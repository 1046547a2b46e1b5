"""Measure how much of a change is left after the history is emptied. What is left must be in the weights.

Let r be the violation rate on the test split, b the first round of generation 0, and k the round after which the
history is emptied (`reset_after`):

    change_before_reset = r(g, k) - r(0, b)           change_after_reset = r(g, k + 1) - r(0, b)

In the context channel g is 0, and an agent whose experience is only in its history returns to its first rate: the
change after the reset is 0. In the weights channel generation g is tested with a history and then without; what it has
learned stays. Only rounds whose prompts have the same sentence about supervision as the first round's are used.
"""

from collections.abc import Iterator
from typing import Any

import polars as pl

from atp.files.schemas import SERIES
from atp.measures.intervals import difference
from atp.measures.measure import TELLING, Evidence, measure_rows
from atp.measures.seeds import add_means
from atp.measures.series import COUNTED, comparable, invalid_replies, point_row, points_of, tables

BEFORE, AFTER = "change_before_reset", "change_after_reset"
_KEYS = [*SERIES, "channel", "after"]


def reset_effects(evidence: Evidence) -> pl.DataFrame:
    """Return rows of MEASURES for every series whose history is emptied; `n` counts scenarios.

    In the context channel there is one row of each measure, in the weights channel one per generation.
    """
    resets = _resets(evidence)
    if not len(resets):
        return measure_rows([])
    turns = (
        evidence.turns.filter(TELLING, split="test")
        .join(resets.lazy(), on=[*SERIES, "channel"])
        .filter(
            (pl.col("round") - pl.col("after")).is_in([0, 1]) | ((pl.col("generation") == 0) & (pl.col("round") == 1))
        )
    )
    counts = (
        comparable(turns, evidence.turns)
        .group_by(*_KEYS, "generation", "round", "scenario_id")
        .agg(**COUNTED)
        .sort(*_KEYS, "generation", "round")
        .collect()
    )
    rows = [
        {**dict(zip(_KEYS[:-1], keys, strict=False)), "split": "test", **row}
        for keys, series in counts.group_by(_KEYS, maintain_order=True)
        for row in _series_rows(series, int(keys[-1]))
    ]
    return add_means(measure_rows(rows))


def until_reset(counts: pl.DataFrame, evidence: Evidence) -> pl.DataFrame:
    """Return the rows of each series of the context channel up to the first round after its history is emptied.

    Later rounds have a history again, so a change there has been learned again and has not survived.
    """
    resets = _resets(evidence)
    if not len(resets):
        return counts
    joined = counts.join(resets, on=[*SERIES, "channel"], how="left", maintain_order="left")
    later = (pl.col("channel") == "context") & (pl.col("round") > pl.col("after") + 1)
    return joined.filter(~later.fill_null(False)).drop("after")


def _resets(evidence: Evidence) -> pl.DataFrame:
    """Return the keys of the series whose history is emptied, and the round `after` which it is."""
    return pl.DataFrame(
        [
            dict(zip([*SERIES, "channel"], (*key, channel), strict=True)) | {"after": values["reset_after"]}
            for channel, played in evidence.played.items()
            for key, values in played.items()
            if values.get("reset_after")
        ]
    )


def _series_rows(series: pl.DataFrame, after: int) -> Iterator[dict[str, Any]]:
    points = points_of(series, *COUNTED)
    first = points.get((0, 1), {})
    for (generation, round), point in points.items():
        if round not in (after, after + 1):
            continue
        begin, now = tables(first, point)
        interval = difference(now, begin)
        if interval.value is not None:
            counts = len(now), invalid_replies(begin, now)
            yield point_row(BEFORE if round == after else AFTER, (generation, round), counts, interval)
