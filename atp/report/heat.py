"""Draw a heat map of a measure over two settings, in panels, with an optional theory curve.

All cells have the same size: coordinates are a cell's index along each axis, from 0, not the setting's value.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from atp.report.figures import COLOURS, in_panels

#: From near-white to a brown on which white text is readable; darkens monotonically in greyscale.
SEQUENTIAL = ["#fbf3ec", "#f2c199", "#e08a45", "#b85000", "#6e2f00"]
#: Cells contain text only up to these numbers of cells per panel and of columns.
MAX_TEXT_CELLS, MAX_TEXT_COLUMNS = 24, 4
#: Text colours on dark and on light cells.
INK = ("#ffffff", "#1b1f24")
#: Half the width of a cell; below 0.5, so that there is a gap between cells.
HALF = 0.485


@dataclass(frozen=True)
class Axis:
    """An axis: its title and the labels of the values along it, in order."""

    title: str
    labels: Sequence[str]


@dataclass(frozen=True)
class Line:
    """A theory curve: its name and segments (panel, x, y, x2, y2) in cell coordinates."""

    name: str
    pieces: Sequence[tuple[str, float, float, float, float]]


def heat_map(
    cells: pl.DataFrame, across: Axis, up: Axis, title: str, share: bool = True, line: Line | None = None
) -> Any:
    """Return a chart with one panel for each `panel` of the cells.

    Args:
        cells: columns panel, x and y (cell coordinates), value, and as text rate, counts, interval.
        share: whether values are proportions, with colours from 0 to 1; else from the smallest to the largest value.
        line: theory curve to draw on top.
    """
    import altair as alt

    columns = cells.select("panel", "x", "y", "value", "rate", "counts", "interval")
    values = [row | {"across": across.labels[row["x"]], "up": up.labels[row["y"]]} for row in columns.to_dicts()]
    numbers = cells["value"].to_list()
    domain = [0.0, 1.0] if share else [min(numbers), max(numbers)]
    base = alt.Chart().transform_filter("!isValid(datum.line)")
    x, y = (alt.X("x:Q", **_axis(across)), alt.Y("y:Q", **_axis(up)))
    titles = [("panel", "played by"), ("across", across.title), ("up", up.title)]
    tooltips = [alt.Tooltip(f"{name}:N", title=heading) for name, heading in titles]
    tooltips += [alt.Tooltip(f"{name}:N") for name in ("counts", "rate", "interval")]
    number_format = "%" if share else ".3~s"
    legend = alt.Legend(title=title, tickCount=5 if share else 3, gradientLength=200, format=number_format)
    colour = alt.Color("value:Q", scale=alt.Scale(domain=domain, range=SEQUENTIAL), legend=legend)
    edges = {f"{side}{end}": f"datum.{side} {sign} {HALF}" for side in "xy" for end, sign in (("0", "-"), ("1", "+"))}
    rects = base.transform_calculate(**edges).mark_rect()
    layers: list[Any] = [
        rects.encode(
            x=alt.X("x0:Q", **_axis(across)),
            x2="x1:Q",
            y=alt.Y("y0:Q", **_axis(up)),
            y2="y1:Q",
            color=colour,
            tooltip=tooltips,
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
    if len(across.labels) * len(up.labels) <= MAX_TEXT_CELLS and len(across.labels) <= MAX_TEXT_COLUMNS:
        dark = f"datum.value > {domain[0] + 0.6 * (domain[1] - domain[0])}"
        ink, outline = (alt.condition(dark, alt.value(one), alt.value(other)) for one, other in (INK, INK[::-1]))
        font_size = 13 if len(across.labels) < MAX_TEXT_COLUMNS else 11
        for text, size, dy in (("rate", font_size, -8), ("counts", font_size - 2, 9)):
            text_base = base.encode(x=x, y=y, text=f"{text}:N")
            mark: dict[str, Any] = {"fontSize": size, "dy": dy, "tooltip": None}
            if line:  # an outline keeps the text readable on the curve
                layers.append(text_base.mark_text(**mark, strokeWidth=3, opacity=0.6).encode(stroke=outline))
            layers.append(text_base.mark_text(**mark).encode(color=ink))
    chart = in_panels(cells, alt.layer(*layers, data=alt.Data(values=values)), 60 + 46 * len(up.labels))
    one_narrow = cells["panel"].n_unique() == 1 and len(across.labels) < 3
    return chart.properties(width=150 * len(across.labels), autosize="pad") if one_narrow else chart


def _axis(axis: Axis) -> dict[str, Any]:
    import altair as alt

    ticks = list(range(len(axis.labels)))
    label_expr = f"{json.dumps(list(axis.labels))}[datum.value]"
    axis_style = alt.Axis(values=ticks, labelExpr=label_expr, labelAngle=0, grid=False, domain=False, ticks=False)
    return {
        "title": axis.title,
        "axis": axis_style,
        "scale": alt.Scale(domain=[-0.5, len(ticks) - 0.5], nice=False, zero=False),
    }
