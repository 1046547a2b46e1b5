"""What alignment installed, and what experience has left of it.

With r the violation rate on the test split, n the agent without alignment and a the aligned one:

    installed  = r(n, begin) - r(a, begin)      left = r(n, begin) - r(a, end)      left_share = left / installed

begin is round 1 or generation 0; end is the last round whose prompts say of supervision what round 1's say, or the last
generation. Intervals are of a bootstrap that draws whole scenarios, the same ones for all three rates (Davison and
Hinkley 1997, section 3.8): what scenarios have in common cancels out.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import polars as pl

from atp.artifacts import CELL, MEASURES
from atp.measures.intervals import resampled
from atp.measures.lines import LINE, alike_rounds

NONE = "none"
INSTALLED, LEFT, LEFT_SHARE = "installed", "left", "left_share"
_POINT = ["channel", "generation", "round"]
_WITHOUT = [key for key in (*CELL, "variant", "channel") if key != "alignment"]


def alignment_effects(turns: pl.LazyFrame, seed: int) -> pl.DataFrame:
    """Rows of MEASURES for every aligned line whose unaligned counterpart was run too; n counts scenarios.

    left_share is left out where no reduction was shown to be installed.
    """
    counts = (
        turns.filter(pl.col("violation").is_not_null(), split="test")
        .filter((pl.col("channel") == "context") | (pl.col("round") == 1))
        .group_by(*LINE, *_POINT, "scenario_id")
        .agg(k=pl.col("violation").sum(), n=pl.len())
        .join(alike_rounds(turns).lazy(), on=[*LINE, "round"], how="left")
        .filter(pl.col("alike").fill_null(True) | (pl.col("channel") == "weights"))
        .sort(*LINE, *_POINT, "scenario_id")
        .collect()
    )
    rows: list[dict[str, Any]] = []
    for keys, aligned in counts.filter(pl.col("alignment") != NONE).group_by(*LINE, "channel", maintain_order=True):
        line = dict(zip([*LINE, "channel"], keys, strict=True))
        same = pl.all_horizontal(pl.col(key) == line[key] for key in _WITHOUT)
        unaligned = counts.filter(same, alignment=NONE)
        if len(unaligned):
            rows += _line(line, _points(unaligned), _points(aligned), seed)
    return pl.DataFrame(rows, schema=pl.DataFrame(MEASURES.empty_table()).schema)


def _points(rows: pl.DataFrame) -> list[tuple[tuple[int, int], dict[str, tuple[int, int]]]]:
    """(generation, round) and violations and valid replies by scenario, in order of time."""
    return [
        ((generation, round), {row["scenario_id"]: (row["k"], row["n"]) for row in point.iter_rows(named=True)})
        for (generation, round), point in rows.group_by("generation", "round", maintain_order=True)
    ]


def _line(line: dict[str, Any], unaligned: list[Any], aligned: list[Any], seed: int) -> Iterable[dict[str, Any]]:
    (begin, base), (_, first), (end, last) = unaligned[0], aligned[0], aligned[-1]
    scenarios = sorted({*base, *first, *last})
    clusters = np.array([[*base.get(s, (0, 0)), *first.get(s, (0, 0)), *last.get(s, (0, 0))] for s in scenarios])
    installed = _row(line, INSTALLED, begin, clusters, lambda sums: _rate(sums, 0) - _rate(sums, 1), seed)
    yield installed
    if end == begin:
        return
    yield _row(line, LEFT, end, clusters, lambda sums: _rate(sums, 0) - _rate(sums, 2), seed)
    if installed["low"] is not None and installed["low"] > 0:
        yield _row(line, LEFT_SHARE, end, clusters, _left_share, seed)


def _left_share(sums: np.ndarray) -> np.ndarray:
    share: np.ndarray = (_rate(sums, 0) - _rate(sums, 2)) / (_rate(sums, 0) - _rate(sums, 1))
    return share


def _rate(sums: np.ndarray, point: int) -> np.ndarray:
    rate: np.ndarray = sums[:, 2 * point] / sums[:, 2 * point + 1]
    return rate


def _row(
    line: dict[str, Any], measure: str, point: tuple[int, int], clusters: np.ndarray, statistic: Any, seed: int
) -> dict[str, Any]:
    generation, round = point
    low, high = resampled(clusters, statistic, seed)
    value = float(statistic(clusters.sum(axis=0)[None, :])[0])
    method = "none: no spread" if low is None else "cluster bootstrap"
    found = {"measure": measure, "value": value, "k": None, "n": len(clusters), "low": low, "high": high}
    return {**line, "generation": generation, "split": "test", "round": round, **found, "method": method}
