"""What a change comes back to when the history is emptied: what is left of it is in the weights.

With r the violation rate on the test split, b the first round of generation 0, and k the round after which the history
begins anew (`reset_after`):

    change_before_reset = r(g, k) - r(0, b)           change_after_reset = r(g, k + 1) - r(0, b)

In context, where g is 0, an agent whose experience is all in its history comes back to where it began: 0. In the
weights, where generation g is tested on rounds with a history of its own and then without, what it has learned stays.
Only rounds whose prompts say of supervision what the first one's say. Intervals draw the same scenarios for both rates.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import polars as pl

from atp.artifacts import MEASURES
from atp.measures.intervals import difference
from atp.measures.lines import LINE, comparable
from atp.measures.measure import TELLING
from atp.measures.swept import Settings

BEFORE, AFTER = "change_before_reset", "change_after_reset"
_KEYS = [*LINE, "channel", "after"]


def reset_effects(turns: pl.LazyFrame, settings: Mapping[str, Settings], seed: int) -> pl.DataFrame:
    """Rows of MEASURES for every line whose history is emptied while it is played: in context one of each measure, in
    the weights one a generation. n counts scenarios; settings are of variants, by channel.
    """
    resets = [
        dict(zip([*LINE, "channel"], (*key, channel), strict=True)) | {"after": values["reset_after"]}
        for channel, lines in settings.items()
        for key, values in lines.items()
        if values.get("reset_after")
    ]
    if not resets:
        return pl.DataFrame(MEASURES.empty_table())
    told = (
        turns.filter(TELLING, split="test")
        .join(pl.DataFrame(resets).lazy(), on=[*LINE, "channel"])
        .filter(
            (pl.col("round") - pl.col("after")).is_in([0, 1]) | ((pl.col("generation") == 0) & (pl.col("round") == 1))
        )
    )
    counts = (
        comparable(told, turns)
        .group_by(*_KEYS, "generation", "round", "scenario_id")
        .agg(k=pl.col("violation").sum(), n=pl.col("violation").count())
        .sort(*_KEYS, "generation", "round")
        .collect()
    )
    rows = [
        {**dict(zip(_KEYS[:-1], keys, strict=False)), "split": "test", **row}
        for keys, line in counts.group_by(_KEYS, maintain_order=True)
        for row in _line(line, int(keys[-1]), seed)
    ]
    return pl.DataFrame(rows, schema=pl.DataFrame(MEASURES.empty_table()).schema)


def _line(line: pl.DataFrame, after: int, seed: int) -> Iterator[dict[str, Any]]:
    points = {
        (generation, round): {row["scenario_id"]: (row["k"], row["n"]) for row in point.iter_rows(named=True)}
        for (generation, round), point in line.group_by("generation", "round", maintain_order=True)
    }
    first = points.get((0, 1), {})
    for (generation, round), point in points.items():
        if round not in (after, after + 1):
            continue
        scenarios = sorted({*first, *point})
        begun, now = (np.array([at.get(scenario, (0, 0)) for scenario in scenarios]) for at in (first, point))
        found = difference(now, begun, seed)
        if found.value is not None:
            measure = BEFORE if round == after else AFTER
            yield {"generation": generation, "round": round, "measure": measure, "n": len(scenarios), **vars(found)}
