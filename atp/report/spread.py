"""How figures and tables show several seeds: the spread within a seed and the spread between seeds, apart.

Knows rows of `over_seeds`; a row without the column `of` is of one seed, for which nothing is added.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from atp.report.verdict import span

BETWEEN = ["seeds", "smallest to largest seed", "SD between seeds"]
WITHIN = "95 % interval in a seed"
INTERVALS = "Bars are 95 % intervals."


def seeds_of(rows: pl.DataFrame) -> int:
    """How many seeds the study has that rows are of."""
    return max(rows["of"].drop_nulls().to_list(), default=1) if "of" in rows.columns else 1


def bars_said(rows: pl.DataFrame) -> str:
    """What the bars of a figure are, in one sentence."""
    seeds = seeds_of(rows)
    if seeds < 2:
        return INTERVALS
    return (
        f"A point is the mean over {seeds} seeds: the thick pale bar is the average 95 % interval within a seed (other "
        "scenarios could have been drawn), and the thin bar with end caps goes from the smallest seed to the largest "
        "(other random numbers, the same scenarios)."
    )


def bars_between(rows: pl.DataFrame) -> str:
    """A further sentence on the bars of a figure without intervals; nothing with one seed."""
    seeds = seeds_of(rows)
    if seeds < 2:
        return ""
    return f" A point is the mean over {seeds} seeds, and the bar with end caps goes from the smallest to the largest."


def in_table(rows: pl.DataFrame) -> str:
    """The end of a sentence on a heat map, which has no bars; with several seeds one more."""
    seeds = seeds_of(rows)
    if seeds < 2:
        return "the intervals are in the table."
    return f"a cell is the mean over {seeds} seeds. The spreads within a seed and between seeds are in the table."


def between(row: Mapping[str, Any], share: bool = True) -> list[str]:
    """The cells under BETWEEN; none with one seed. A share's deviation is in points, a mean's in its own unit."""
    if not several(row):
        return []
    seeds = f"{row['seeds']}" if row["seeds"] == row["of"] else f"{row['seeds']} of {row['of']}"
    return [seeds, _reach(row, share), _deviation(row, share)]


def beside(row: Mapping[str, Any], share: bool = False) -> str:
    """What stands behind a number in the same cell of what differs between seeds; nothing with one seed."""
    if not several(row):
        return ""
    some = "" if row["seeds"] == row["of"] else f" ({row['seeds']} of {row['of']} seeds)"
    return f"; seeds {_reach(row, share)}, SD {_deviation(row, share)}{some}"


def several(row: Mapping[str, Any]) -> bool:
    """Whether the study that a row is of has several seeds."""
    return (row.get("of") or 1) > 1


def _reach(row: Mapping[str, Any], share: bool) -> str:
    if row["least"] is None:
        return "–"
    reach = span({"low": row["least"], "high": row["most"]}) if share else f"{row['least']:.2f} to {row['most']:.2f}"
    return reach.replace("-", "\u2212")


def _deviation(row: Mapping[str, Any], share: bool) -> str:
    if row["deviation"] is None:
        return "–"
    return f"{100 * row['deviation']:.1f}\u00a0points" if share else f"{row['deviation']:.2f}"


def spreads(base: Any, rows: pl.DataFrame, along: str, within: bool = True) -> list[Any]:
    """The bars of a chart along x or y, to be drawn below its points; without `within` those between seeds alone."""
    import altair as alt

    channel = {"x": alt.X, "y": alt.Y}[along]

    def bar(low: str, high: str, **how: Any) -> Any:
        return base.mark_rule(**how).encode(**{along: channel(f"{low}:Q"), f"{along}2": f"{high}:Q"})

    if seeds_of(rows) < 2:
        return [bar("low", "high", strokeWidth=2)] if within else []
    # Pale, so that the thin bar and its caps are seen upon it, in grey print too.
    thick = bar("low", "high", strokeWidth=5, strokeOpacity=0.4)
    cap = base.mark_tick(thickness=1.5, size=9, opacity=1, orient={"x": "vertical", "y": "horizontal"}[along])
    caps = [cap.encode(**{along: channel(f"{end}:Q")}) for end in ("least", "most")]
    return [*([thick] if within else []), bar("least", "most", strokeWidth=1.5), *caps]


def tips(rows: pl.DataFrame, names: Sequence[str]) -> list[Any]:
    """Tooltips of a point: `names`, and with several seeds what differs between them."""
    import altair as alt

    shown = [*names, *(BETWEEN if seeds_of(rows) > 1 else [])]
    return [alt.Tooltip(f"{name}:N") for name in shown]
