"""Text, table cells and chart bars for intervals and for the spread between seeds.

Rows are those of `over_seeds`. Rows without the column `of` are from a single seed, for which nothing is added.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from atp.files.schemas import GIVEN
from atp.measures.alignment import NONE
from atp.measures.trainings import ONE_TRAINING
from atp.report.verdict import span

BETWEEN = ["seeds", "smallest to largest seed", "SD between seeds"]
INTERVAL = "95 % interval"
INTERVALS = "Bars are 95 % intervals."
OF_ONE_TRAINING = " Where an agent was trained once, its interval is for other scenarios, not for another training."


def seeds_of(rows: pl.DataFrame) -> int:
    """Return the number of seeds of the study that the rows belong to."""
    return max(rows["of"].drop_nulls().to_list(), default=1) if "of" in rows.columns else 1


def describe_bars(rows: pl.DataFrame) -> str:
    """Return a sentence that explains the bars of a figure."""
    seeds = seeds_of(rows)
    once = OF_ONE_TRAINING if any(trained_once(row) for row in rows.to_dicts()) else ""
    if seeds < 2:
        return INTERVALS + once
    return (
        f"A point is the mean over up to {seeds} seeds. The thick pale bar is the 95 % interval: of trained agents for "
        "other trainings and other scenarios, otherwise for other scenarios. The thin bar with end caps goes from the "
        f"smallest seed to the largest.{once}"
    )


def trained_once(row: Mapping[str, Any]) -> bool:
    """Return whether a row of `over_seeds`, or of one seed's measures, is about a single training of an agent."""
    if row.get("trainings", 0) == 1:
        return True
    alignment = row.get("alignment", NONE)
    aligned = alignment != NONE and not alignment.startswith(GIVEN)
    return "of" not in row and (aligned or (row.get("channel", "context") != "context" and row["generation"] > 0))


def note_of(row: Mapping[str, Any]) -> str:
    """Return what the row's interval is not about, as text to append to it; empty for an agent that is not trained."""
    return f", {ONE_TRAINING}" if trained_once(row) else ""


def bars_between(rows: pl.DataFrame) -> str:
    """Return an additional sentence for a figure whose bars are not intervals; empty with one seed."""
    seeds = seeds_of(rows)
    if seeds < 2:
        return ""
    point = f" A point is the mean over up to {seeds} seeds"
    return f"{point}, and the bar with end caps goes from the smallest to the largest."


def table_note(rows: pl.DataFrame) -> str:
    """Return the end of a sentence about a heat map, which has no bars; with several seeds it adds a sentence."""
    seeds = seeds_of(rows)
    if seeds < 2:
        return "the intervals are in the table."
    return f"a cell is the mean over up to {seeds} seeds. Intervals and the spread between seeds are in the table."


def between(row: Mapping[str, Any], share: bool = True) -> list[str]:
    """Return the cells for columns BETWEEN, none with one seed; SDs are in percentage points or the mean's unit."""
    if not several(row):
        return []
    seeds = f"{row['seeds']}" if row["seeds"] == row["planned"] else f"{row['seeds']} of {row['planned']}"
    return [seeds, _range(row, share), _deviation(row, share)]


def suffix(row: Mapping[str, Any], share: bool = False) -> str:
    """Return the spread between seeds as text to append to a number in the same cell; empty with one seed."""
    if not several(row):
        return ""
    seed_count = "" if row["seeds"] == row["planned"] else f" ({row['seeds']} of {row['planned']} seeds)"
    return f"; seeds {_range(row, share)}, SD {_deviation(row, share)}{seed_count}"


def several(row: Mapping[str, Any]) -> bool:
    """Return whether the row's study has several seeds."""
    return (row.get("of") or 1) > 1


def _range(row: Mapping[str, Any], share: bool) -> str:
    if row["least"] is None:
        return "–"
    text = span({"low": row["least"], "high": row["most"]}) if share else f"{row['least']:.2f} to {row['most']:.2f}"
    return text.replace("-", "\u2212")


def _deviation(row: Mapping[str, Any], share: bool) -> str:
    if row["deviation"] is None:
        return "–"
    return f"{100 * row['deviation']:.1f}\u00a0points" if share else f"{row['deviation']:.2f}"


def spreads(base: Any, rows: pl.DataFrame, along: str, within: bool = True) -> list[Any]:
    """Return the bars of a chart along x or y, for a layer below its points; `within` adds those of intervals."""
    import altair as alt

    channel = {"x": alt.X, "y": alt.Y}[along]

    def bar(low: str, high: str, **style: Any) -> Any:
        return base.mark_rule(**style).encode(**{along: channel(f"{low}:Q"), f"{along}2": f"{high}:Q"})

    if seeds_of(rows) < 2:
        return [bar("low", "high", strokeWidth=2)] if within else []
    # Pale, so that the thin bar and its caps remain visible on top, also in greyscale.
    within_bar = bar("low", "high", strokeWidth=5, strokeOpacity=0.4)
    cap = base.mark_tick(thickness=1.5, size=9, opacity=1, orient={"x": "vertical", "y": "horizontal"}[along])
    caps = [cap.encode(**{along: channel(f"{end}:Q")}) for end in ("least", "most")]
    return [*([within_bar] if within else []), bar("least", "most", strokeWidth=1.5), *caps]


def tips(rows: pl.DataFrame, names: Sequence[str]) -> list[Any]:
    """Return the tooltips of a point: `names` and, with several seeds, the spread between them."""
    import altair as alt

    columns = [*names, *(BETWEEN if seeds_of(rows) > 1 else [])]
    return [alt.Tooltip(f"{name}:N") for name in columns]
