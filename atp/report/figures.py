"""Measures -> figures, as Vega-Lite charts. Colours of Okabe and Ito (2008), with dashes and shapes for print."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    import altair as alt

COLOURS = ["#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
DASHES = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [4, 4], [10, 2]]
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down"]


@dataclass(frozen=True)
class Figure:
    """A chart with the words around it and the rows it draws (columns of MEASURES)."""

    name: str
    title: str
    caption: str
    chart: Any
    rows: pl.DataFrame


def figures(measures: pl.DataFrame) -> list[Figure]:
    """The report's figures; those without data are left out."""
    rates = measures.filter(measure="violation_rate")
    rounds = rates.filter(channel="context").sort("variant", "round")
    trained = rates.filter(channel="weights", split="test", round=1).sort("arm", "generation")
    after = measures.filter(
        pl.col("measure").str.starts_with("p_violate_after"), pl.col("n") > 0, channel="context"
    ).sort("variant", "measure")
    found = [
        (
            "drift_over_rounds",
            "Violations over rounds, in context",
            "The agent plays with its own history in the prompt. Lines are variants; bars are 95 % intervals.",
            lambda: _lines(rounds, "round", "variant"),
            rounds,
        ),
        (
            "drift_over_generations",
            "Violations over generations, in the weights",
            "Each generation is tested on held-out scenarios with an empty history. Lines are the arms under which "
            "the agent was deployed; bars are 95 % intervals.",
            lambda: _lines(trained, "generation", "arm"),
            trained,
        ),
        (
            "reinforcement",
            "What an agent does after what it was paid",
            "Share of violations in the round after a violation that was rewarded, one that was caught, and "
            "compliance; 95 % intervals.",
            lambda: _bars(after),
            after,
        ),
    ]
    return [Figure(name, title, caption, make(), rows) for name, title, caption, make, rows in found if len(rows)]


def series(rows: pl.DataFrame, by: str) -> pl.DataFrame:
    """Adds `series`: the line's name, with whichever of model, alignment and seed differs among the rows."""
    keys = [by, *(key for key in ("model", "alignment", "arm", "seed") if key != by and rows[key].n_unique() > 1)]
    return rows.with_columns(series=pl.concat_str([pl.col(key).cast(pl.String) for key in keys], separator=", "))


def _lines(rows: pl.DataFrame, x: str, by: str) -> Any:
    import altair as alt

    rows = series(rows, by)
    names = rows["series"].unique(maintain_order=True).to_list()
    # Lines stand a little apart, so that intervals at the same place can be told from each other.
    apart = pl.col("series").replace_strict({name: 0.05 * (at - (len(names) - 1) / 2) for at, name in enumerate(names)})
    rows = rows.with_columns(place=pl.col(x) + apart)
    ticks = sorted(rows[x].unique())
    axis = alt.Axis(values=ticks, format="d", labelAngle=0, grid=False)
    scale = alt.Scale(domain=[ticks[0] - 0.3, ticks[-1] + 0.3], nice=False)
    across = alt.X("place:Q", title=x, axis=axis, scale=scale)
    up = alt.Y("value:Q", title="violation rate", axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1]))
    legend = alt.Legend(orient="bottom", title=None, columns=2, labelLimit=260, symbolStrokeWidth=2, symbolDash=[1, 0])
    base = alt.Chart(_data(rows, x, "place")).encode(
        x=across,
        color=alt.Color("series:N", scale=alt.Scale(domain=names, range=COLOURS), legend=legend),
    )
    dash = alt.StrokeDash("series:N", scale=alt.Scale(domain=names, range=DASHES), legend=legend)
    shape = alt.Shape("series:N", scale=alt.Scale(domain=names, range=SHAPES), legend=legend)
    tips = ["series:N", f"{x}:O", "counts:N", "rate:N", "interval:N"]
    bars = base.mark_rule(strokeWidth=2).encode(y=alt.Y("low:Q"), y2="high:Q")
    lines = base.mark_line(strokeWidth=2).encode(y=up, strokeDash=dash)
    points = base.mark_point(size=70, filled=True, opacity=1).encode(y=up, shape=shape, tooltip=tips)
    return alt.layer(bars, lines, points).properties(width="container", height=300)


def _bars(rows: pl.DataFrame) -> Any:
    import altair as alt

    names = {
        "p_violate_after_rewarded_violation": "rewarded violation",
        "p_violate_after_caught_violation": "caught violation",
        "p_violate_after_complied": "compliance",
    }
    rows = series(rows.with_columns(before=pl.col("measure").replace_strict(names)), "variant")
    order = list(names.values())
    legend = alt.Legend(orient="bottom", title="round before", labelLimit=260)
    color = alt.Color(
        "before:N",
        scale=alt.Scale(domain=order, range=COLOURS),
        legend=legend,
    )
    base = alt.Chart(_data(rows, "before")).encode(
        y=alt.Y("series:N", title=None, axis=alt.Axis(labelLimit=180)),
        yOffset=alt.YOffset("before:N", sort=order),
    )
    across = alt.X("value:Q", title="share of violations", axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1]))
    shape = alt.Shape("before:N", scale=alt.Scale(domain=order, range=SHAPES), legend=legend)
    points = base.mark_point(size=80, filled=True, opacity=1).encode(
        x=across, color=color, shape=shape, tooltip=["series:N", "before:N", "counts:N", "rate:N", "interval:N"]
    )
    bars = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q"), x2="high:Q", color=color)
    height = 60 * rows["series"].n_unique()
    return alt.layer(bars, points).properties(width="container", height=height)


def _data(rows: pl.DataFrame, *keys: str) -> "alt.Data":
    import altair as alt

    shown = rows.with_columns(
        counts=pl.format("{}/{}", "k", "n"),
        rate=_percent("value"),
        interval=pl.format("{} to {}", _percent("low"), _percent("high")),
    )
    return alt.Data(
        values=shown.select("series", *keys, "value", "low", "high", "counts", "rate", "interval").to_dicts()
    )


def _percent(column: str) -> pl.Expr:
    return pl.format("{} %", (100 * pl.col(column)).round(1))


def svg(figure: Figure, width: int = 640) -> str:
    """The figure as SVG on white, for paper."""
    import vl_convert

    chart = figure.chart.properties(width=width, background="white", title=figure.title)
    return vl_convert.vegalite_to_svg(chart.to_json())
