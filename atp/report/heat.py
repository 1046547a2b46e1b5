"""A heat map of a measure over two settings, in panels, with theory's line over it. Knows cells and labels alone.

Cells are all of one size, whatever the settings' values are: a cell's place is its number along each axis, from 0.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from atp.report.figures import COLOURS, in_panels

#: From white paper to a brown that white text can be read on; printed in grey it darkens all the way.
SEQUENTIAL = ["#fbf3ec", "#f2c199", "#e08a45", "#b85000", "#6e2f00"]
#: With more cells, or more of them side by side, there is no text in them.
FEW, FEW_ACROSS = 24, 4
#: Of text on dark and on light cells.
INK = ("#ffffff", "#1b1f24")
#: Half the width of a cell, with a gap to the next.
HALF = 0.485


@dataclass(frozen=True)
class Axis:
    """What an axis is called, and the values along it, from its beginning on."""

    title: str
    labels: Sequence[str]


@dataclass(frozen=True)
class Line:
    """Theory's line: what it is called, and its pieces (panel, x, y, x2, y2), in cells' places."""

    name: str
    pieces: Sequence[tuple[str, float, float, float, float]]


def heat_map(
    cells: pl.DataFrame, across: Axis, up: Axis, title: str, share: bool = True, line: Line | None = None
) -> Any:
    """A panel for each `panel` of the cells.

    Args:
        cells: panel, x and y (places), value, and as they are written: rate, counts, interval.
        share: whether values are shares, whose colours go from 0 to 1; else from the least to the largest.
    """
    import altair as alt

    shown = cells.select("panel", "x", "y", "value", "rate", "counts", "interval")
    values = [row | {"across": across.labels[row["x"]], "up": up.labels[row["y"]]} for row in shown.to_dicts()]
    numbers = cells["value"].to_list()
    ends = [0.0, 1.0] if share else [min(numbers), max(numbers)]
    base = alt.Chart().transform_filter("!isValid(datum.line)")
    x, y = (alt.X("x:Q", **_axis(across)), alt.Y("y:Q", **_axis(up)))
    named = [("panel", "played by"), ("across", across.title), ("up", up.title)]
    tips = [alt.Tooltip(f"{name}:N", title=said) for name, said in named]
    tips += [alt.Tooltip(f"{name}:N") for name in ("counts", "rate", "interval")]
    written = "%" if share else ".3~s"
    legend = alt.Legend(title=title, tickCount=5 if share else 3, gradientLength=200, format=written)
    colour = alt.Color("value:Q", scale=alt.Scale(domain=ends, range=SEQUENTIAL), legend=legend)
    edges = {f"{side}{end}": f"datum.{side} {sign} {HALF}" for side in "xy" for end, sign in (("0", "-"), ("1", "+"))}
    rects = base.transform_calculate(**edges).mark_rect()
    layers: list[Any] = [
        rects.encode(
            x=alt.X("x0:Q", **_axis(across)),
            x2="x1:Q",
            y=alt.Y("y0:Q", **_axis(up)),
            y2="y1:Q",
            color=colour,
            tooltip=tips,
        )
    ]
    if line and line.pieces:
        values += [
            dict(zip(("panel", "x", "y", "x2", "y2"), piece, strict=True)) | {"line": line.name}
            for piece in line.pieces
        ]
        pieces = alt.Chart().transform_filter("isValid(datum.line)").encode(x=x, y=y, x2="x2:Q", y2="y2:Q")
        key = alt.Legend(title=None, labelLimit=0, symbolType="stroke", symbolStrokeWidth=3)
        stroke = alt.Stroke("line:N", scale=alt.Scale(domain=[line.name], range=[COLOURS[1]]), legend=key)
        layers += [
            pieces.mark_rule(strokeWidth=6, strokeCap="round", stroke="#ffffff"),
            pieces.mark_rule(strokeWidth=3, strokeCap="round").encode(stroke=stroke),
        ]
    if len(across.labels) * len(up.labels) <= FEW and len(across.labels) <= FEW_ACROSS:
        dark = f"datum.value > {ends[0] + 0.6 * (ends[1] - ends[0])}"
        ink, around = (alt.condition(dark, alt.value(one), alt.value(other)) for one, other in (INK, INK[::-1]))
        large = 13 if len(across.labels) < FEW_ACROSS else 11
        for text, size, dy in (("rate", large, -8), ("counts", large - 2, 9)):
            words = base.encode(x=x, y=y, text=f"{text}:N")
            mark: dict[str, Any] = {"fontSize": size, "dy": dy, "tooltip": None}
            if line:  # which would strike the text through
                layers.append(words.mark_text(**mark, strokeWidth=3, opacity=0.6).encode(stroke=around))
            layers.append(words.mark_text(**mark).encode(color=ink))
    chart = in_panels(cells, alt.layer(*layers, data=alt.Data(values=values)), 60 + 46 * len(up.labels))
    one_narrow = cells["panel"].n_unique() == 1 and len(across.labels) < 3
    return chart.properties(width=150 * len(across.labels), autosize="pad") if one_narrow else chart


def _axis(axis: Axis) -> dict[str, Any]:
    import altair as alt

    ticks = list(range(len(axis.labels)))
    said = f"{json.dumps(list(axis.labels))}[datum.value]"
    drawn = alt.Axis(values=ticks, labelExpr=said, labelAngle=0, grid=False, domain=False, ticks=False)
    return {
        "title": axis.title,
        "axis": drawn,
        "scale": alt.Scale(domain=[-0.5, len(ticks) - 0.5], nice=False, zero=False),
    }
