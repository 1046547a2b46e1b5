"""Measures -> figures, as Vega-Lite charts, each with its rows as a table.

Colours of Okabe and Ito (2008), with dashes and shapes beside them, so that lines can be told apart on paper too.
"""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import polars as pl

from atp.artifacts import MEASURES
from atp.measures.lines import in_context, in_weights
from atp.measures.seeds import SAID, SEED, over_seeds
from atp.report import spread
from atp.report.verdict import name_lines, percent, span

if TYPE_CHECKING:
    import altair as alt

COLOURS = ["#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
DASHES = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [4, 4], [10, 2]]
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down"]
AFTER = {
    "p_violate_after_rewarded_violation": "a violation that was rewarded",
    "p_violate_after_caught_violation": "a violation that was caught",
    "p_violate_after_complied": "compliance",
}
#: What a violation rate is called on its axis, and what a violation is; a testbed may say it in its own words.
VIOLATION_RATE = ("violation rate", "")
VIOLATION = {
    "coordination": (
        "violation rate",
        " In coordination to collude is the violation, unless the scenario's template says that not to is.",
    ),
    "tool_use": (
        "answers without the tool",
        " In tool use an answer without the tool is the violation; rates are of the hard problems that test the agent.",
    ),
    "bargaining": (
        "violation rate",
        " In bargaining a violation is a proposal that does not move the value the way of one's role.",
    ),
}
SEEN, KEPT = "before the filter", "after the filter"
PANEL_WIDTH = 200
MANY_TICKS = 10
LINES_A_PANEL = 8


@dataclass(frozen=True)
class Figure:
    """A chart with the words around it and the table behind it."""

    name: str
    title: str
    caption: str
    chart: Any
    columns: list[str]
    rows: list[list[str]]


def figures(measures: pl.DataFrame, deployments: Sequence[dict[str, Any]] = ()) -> list[Figure]:
    """The report's figures; those without data are left out. Where a study has several testbeds, each has its own.

    deployments are what `ran.deployments` finds: a cell, and the counts of what its filter saw and kept. Where a study
    has several seeds, figures are of their means (`over_seeds`).
    """
    measures, testbeds = over_seeds(measures), sorted(measures["testbed"].unique())
    found = []
    for testbed in testbeds:
        deployed = [each for each in deployments if each["cell"]["testbed"] == testbed]
        for figure in _of_testbed(measures.filter(testbed=testbed), deployed, VIOLATION.get(testbed, VIOLATION_RATE)):
            found.append(figure if len(testbeds) == 1 else _named(figure, testbed))
    return found


def _of_testbed(
    measures: pl.DataFrame, deployments: Sequence[dict[str, Any]], words: tuple[str, str]
) -> Iterable[Figure]:
    rates = measures.filter(measure="violation_rate")
    after = measures.filter(pl.col("measure").is_in(list(AFTER)), pl.col("n") > 0, channel="context")
    found = [
        _drift(
            measures,
            in_context(rates),
            "round",
            "variant",
            "drift_over_rounds",
            "Violations over rounds, in context",
            "The agent plays on with its own history in the prompt: what it chose, what came of it, what it earned. A "
            "line is a variant; where there are many, a panel is.",
            words,
        ),
        _drift(
            measures,
            in_weights(rates),
            "generation",
            "arm",
            "drift_over_generations",
            "Violations over generations, in the weights",
            "After each generation the agent is tested on held-out scenarios with no history, so what shows is in "
            "the weights. A line is the arm under which the agent was deployed and learned; generation 0 has not "
            "learned yet.",
            words,
        ),
        _reinforcement(after, words),
        _deployment(deployments, words),
    ]
    return [figure for figure in found if figure is not None]


def _named(figure: Figure, testbed: str) -> Figure:
    return replace(figure, name=f"{figure.name}_{testbed}", title=f"{figure.title}: {testbed.replace('_', ' ')}")


def _drift(
    measures: pl.DataFrame,
    rows: pl.DataFrame,
    axis: str,
    by: str,
    name: str,
    title: str,
    caption: str,
    words: tuple[str, str],
) -> Figure | None:
    drawn = rows.filter(pl.col("n") > 0)
    if not len(drawn):
        return None
    keys = [key for key in MEASURES.names if key not in ("measure", SEED, *SAID)]
    invalid = measures.filter(measure="invalid_rate").select(*keys, invalid="k", replies="n")
    reward = measures.filter(measure="mean_reward").select(*keys, reward=pl.struct(pl.all()))
    joined = name_lines(rows, by).join(invalid, on=keys, how="left").join(reward, on=keys, how="left")
    table = [
        [row["name"], str(row[axis]), *cells(row), f"{row['invalid']}/{row['replies']}", _reward(row["reward"])]
        for row in joined.sort("name", axis).to_dicts()
    ]
    columns = [by, axis, *columns_of(rows), "invalid", "mean reward"]
    label, meaning = words
    caption = f"{caption}{meaning} {spread.bars_said(rows)}"
    return Figure(name, title, caption, lines(legible(drawn, by), axis, label), columns, table)


def _reward(row: dict[str, Any]) -> str:
    """A mean reward; with several seeds both spreads stand behind it."""
    within = f" ({row['low']:.2f} to {row['high']:.2f})" if spread.several(row) and row["low"] is not None else ""
    return f"{row['value']:.2f}{within}{spread.beside(row)}"


def _reinforcement(rows: pl.DataFrame, words: tuple[str, str]) -> Figure | None:
    if not len(rows):
        return None
    return Figure(
        "reinforcement",
        "What an agent does after what it was paid",
        "How often an agent violates in the round after a violation that was rewarded, one that was caught, and "
        f"compliance. If reward drives the drift, the first stands above the last.{words[1]} {spread.bars_said(rows)}",
        bars(
            after(rows, AFTER, panels=True), list(AFTER.values()), "violates after …", f"{words[0]} in the next round"
        ),
        ["variant", "after", *columns_of(rows)],
        [[row["name"], row["before"], *cells(row)] for row in after(rows, AFTER).to_dicts()],
    )


def after(rows: pl.DataFrame, said: Mapping[str, str], panels: bool = False) -> pl.DataFrame:
    """Conditional rates, named, with `before`: what came before, as `said` of each measure."""
    return name_lines(rows, "variant", panels).with_columns(before=pl.col("measure").replace_strict(said)).sort("name")


def legible(rows: pl.DataFrame, by: str) -> pl.DataFrame:
    """Rows with `name` and `panel`: a line for each `by`; where these are too many, a panel for each."""
    named = name_lines(rows, by, panels=True)
    lines_a_panel = named.group_by("panel").agg(pl.col("name").n_unique())["name"].to_list()
    if max(lines_a_panel) <= LINES_A_PANEL:
        return named.sort("name", maintain_order=True)
    others = name_lines(rows.with_columns(pl.lit("").alias(by)), "model")
    return named.with_columns(others["name"], panel=pl.col(by)).sort("name", maintain_order=True)


def _deployment(deployments: Sequence[dict[str, Any]], words: tuple[str, str]) -> Figure | None:
    if not deployments:
        return None
    rows = over_seeds(_counted(deployments))
    shares = rows.filter(pl.col("step").is_in([SEEN, KEPT]), pl.col("n") > 0)
    if not len(shares):
        return None
    order = ["panel", "name", "generation"]
    named = name_lines(rows, "arm", panels=True).sort(order, maintain_order=True)
    table = []
    for _, steps in named.group_by(order, maintain_order=True):
        row, by_step = steps.row(0, named=True), {step["step"]: step for step in steps.to_dicts()}
        said = [f"{step['k']}/{step['n']}" for step in by_step.values()]
        rates = [percent(by_step[step]["value"]) + spread.beside(by_step[step], share=True) for step in (SEEN, KEPT)]
        said_name = ", ".join(part for part in (row["name"], row["panel"]) if part)
        with_rates = [f"{counts} ({rate})" for counts, rate in zip(said[2:], rates, strict=True)]
        table.append([said_name, str(row["generation"]), *said[:2], *with_rates])
    return Figure(
        "deployment",
        "What the reward filter does to the training data",
        "Share of violations among the replies that each generation gave when deployed, and among those of them that "
        "the filter kept for training. These are counts of all there was, no estimates, so they have no "
        f"intervals.{words[1]}{spread.bars_between(rows)}",
        _before_and_after(named.filter(pl.col("step").is_in([SEEN, KEPT]), pl.col("n") > 0), words[0]),
        ["arm", "generation", "kept/seen", "invalid/seen", "violations before", "violations after"],
        table,
    )


def _counted(deployments: Sequence[dict[str, Any]]) -> pl.DataFrame:
    """What filters counted, a row each, with the columns that `over_seeds` reads."""
    rows = []
    for found in deployments:
        counts = found["counts"]
        for step, k, n in (
            ("kept", "kept", "seen"),
            ("invalid", "invalid", "seen"),
            (SEEN, "violations_seen", "valid_seen"),
            (KEPT, "violations_kept", "kept"),
        ):
            share = counts[k] / counts[n] if counts[n] else None
            said = {"value": share, "k": counts[k], "n": counts[n], "low": None, "high": None, "method": ""}
            rows.append({"variant": "", **found["cell"], "step": step, **said})
    return pl.DataFrame(rows, schema_overrides={"value": pl.Float64, "low": pl.Float64, "high": pl.Float64})


def columns_of(rows: pl.DataFrame, counted: str = "violations/valid") -> list[str]:
    """What stands above `cells` of these rows."""
    if spread.seeds_of(rows) < 2:
        return [counted, "rate", "95 % interval", "interval by"]
    return [counted, "mean rate", *spread.BETWEEN, spread.WITHIN, "interval by"]


def cells(row: dict[str, Any]) -> list[str]:
    return [f"{row['k']}/{row['n']}", percent(row["value"]), *spread.between(row), span(row), row["method"]]


def lines(rows: pl.DataFrame, axis: str, title: str, over: Sequence[Any] = (), keys: Sequence[str] = ()) -> Any:
    """Rates with intervals along an axis, a line for each name, one over the other, and over them layers of the same
    rows, which have the columns `keys` for them.
    """
    import altair as alt

    rows, across = _across(rows, axis)
    data = rows_of(rows, axis, "place", "panel", *keys)
    base = alt.Chart().encode(x=across, color=_encoded(alt.Color, rows, COLOURS))
    dash = _dash("name", rows["name"].unique(maintain_order=True).to_list(), DASHES)
    line = base.mark_line(strokeWidth=2).encode(y=rate_axis(title), strokeDash=dash)
    tips = spread.tips(rows, ("name", axis, "counts", "rate", "interval"))
    points = base.mark_point(size=70, filled=True, opacity=1).encode(
        y=rate_axis(title), shape=_encoded(alt.Shape, rows, SHAPES, turned=True), tooltip=tips
    )
    return in_panels(rows, alt.layer(*spread.spreads(base, rows, "y"), line, points, *over, data=data), 300)


def _before_and_after(rows: pl.DataFrame, title: str) -> Any:
    import altair as alt

    rows, across = _across(rows, "generation")
    data = rows_of(rows, "generation", "place", "step", "panel")
    base = alt.Chart().encode(x=across, y=rate_axis(title), color=_encoded(alt.Color, rows, COLOURS))
    steps = [SEEN, KEPT]
    grey = "#808890"
    legend = alt.Legend(title=None, symbolFillColor=grey, symbolStrokeColor=grey)
    shape = alt.Shape("step:N", scale=alt.Scale(domain=steps, range=["circle", "square"]), legend=legend)
    tips = spread.tips(rows, ("name", "generation", "step", "counts", "rate"))
    lines = base.mark_line(strokeWidth=2).encode(strokeDash=_dash("step", steps, [[3, 3], [1, 0]]))
    points = base.mark_point(size=70, filled=True, opacity=1).encode(shape=shape, tooltip=tips)
    bars = spread.spreads(base, rows, "y", within=False)
    return in_panels(rows, alt.layer(*bars, lines, points, data=data), 260)


def _place(panel: str) -> tuple[bool, bool, str]:
    """Panels in order: agents without alignment, aligned ones, then the policies that play beside them."""
    return "scripted:" in panel, "none" not in panel, panel


def in_panels(rows: pl.DataFrame, chart: Any, height: int, order: Sequence[str] = ()) -> Any:
    """One chart, or one a panel side by side, in `order`; the page gives those the width that it has."""
    import altair as alt

    panels = list(order) or sorted(rows["panel"].unique(), key=_place)
    if len(panels) < 2:
        return chart.properties(**SIZE, height=height)
    facet = alt.Facet("panel:N", title=None, sort=panels, header=alt.Header(labelFontWeight="bold", labelFontSize=12))
    return chart.properties(width=PANEL_WIDTH, height=max(height - 60, 140)).facet(
        facet=facet, columns=min(3, len(panels))
    )


def bars(rows: pl.DataFrame, order: list[str], legend: str, title: str) -> Any:
    """A group of points with intervals for each name, one for each `before`, in `order`, and in panels if told."""
    import altair as alt

    rows = rows if "panel" in rows.columns else rows.with_columns(panel=pl.lit(""))
    present = set(rows["before"])
    shown = alt.Legend(title=legend, values=[before for before in order if before in present])
    color = alt.Color("before:N", scale=alt.Scale(domain=order, range=COLOURS), legend=shown)
    shape = alt.Shape("before:N", scale=alt.Scale(domain=order, range=SHAPES), legend=shown)
    base = alt.Chart().encode(
        y=alt.Y("name:N", title=None, axis=alt.Axis(labelLimit=340), scale=alt.Scale(paddingInner=0.35)),
        yOffset=alt.YOffset("before:N", sort=order),
    )
    said = title if rows["panel"].n_unique() == 1 else textwrap.wrap(title, 26)  # a panel is narrow
    across = alt.X("value:Q", title=said, axis=PERCENT, scale=WHOLE)
    tips = spread.tips(rows, ("name", "before", "counts", "rate", "interval"))
    points = base.mark_point(size=80, filled=True, opacity=1).encode(x=across, color=color, shape=shape, tooltip=tips)
    intervals = [each.encode(color=color) for each in spread.spreads(base, rows, "x")]
    height = 20 + rows["name"].n_unique() * (15 + 15 * len(order))
    return in_panels(rows, alt.layer(*intervals, points, data=rows_of(rows, "before", "panel")), height)


#: The chart is as wide as what it stands in.
SIZE: dict[str, Any] = {"width": "container", "autosize": {"type": "fit-x", "contains": "padding"}}
PERCENT: dict[str, Any] = {"format": "%", "tickCount": 5}
WHOLE: dict[str, Any] = {"domain": [0, 1]}


def rate_axis(title: str) -> "alt.Y":
    import altair as alt

    return alt.Y("value:Q", title=title, axis=alt.Axis(**PERCENT), scale=alt.Scale(**WHOLE))


def _across(rows: pl.DataFrame, axis: str) -> "tuple[pl.DataFrame, alt.X]":
    """Rows with `place`, and the axis. Lines stand a little apart, so that intervals at one point can be told apart."""
    import altair as alt

    names = rows["name"].unique(maintain_order=True).to_list()
    ticks = sorted(rows[axis].unique())
    whole = rows.schema[axis].is_integer()
    gap = 1.0 if whole else 0.0  # along a quantity a point stands where it is
    step = 0.05 if spread.seeds_of(rows) < 2 else min(0.2, 0.6 / len(names))  # two bars a point need more room
    apart = {name: step * gap * (at - (len(names) - 1) / 2) for at, name in enumerate(names)}
    drawn = alt.Axis(
        values=ticks if len(ticks) <= MANY_TICKS else ticks[:: -(-len(ticks) // MANY_TICKS)],
        format="d" if whole else ".3~g",
        labelAngle=0,
        grid=False,
    )
    edge = 0.3 * (1.0 if whole else min((after - before for before, after in pairwise(ticks)), default=1.0))
    scale = alt.Scale(domain=[ticks[0] - edge, ticks[-1] + edge], nice=False)
    placed = rows.with_columns(place=pl.col(axis) + pl.col("name").replace_strict(apart, return_dtype=pl.Float64))
    return placed, alt.X("place:Q", title=axis.replace("_", " "), axis=drawn, scale=scale)


def _encoded(channel: Any, rows: pl.DataFrame, values: list[Any], turned: bool = False) -> Any:
    import altair as alt

    names = rows["name"].unique(maintain_order=True).to_list()
    return channel("name:N", scale=_each(names, values, turned), legend=alt.Legend(title=None))


def _dash(field: str, names: list[str], values: list[Any]) -> "alt.StrokeDash":
    """Dashes without a legend: around its small symbols they look ragged, and its shapes tell the lines apart.

    A name that no line has keeps the domain apart from the shapes', whose legend Vega-Lite would take it for.
    """
    import altair as alt

    return alt.StrokeDash(f"{field}:N", scale=_each([*names, ""], values, turned=True), legend=None)


def _each(names: list[str], values: list[Any], turned: bool = False) -> "alt.Scale":
    """Values in turn. Each time round, turned ones begin one further, so that no pair with others comes twice."""
    import altair as alt

    places = [at + (at // len(values) if turned else 0) for at in range(len(names))]
    return alt.Scale(domain=names, range=[values[place % len(values)] for place in places])


def rows_of(rows: pl.DataFrame, *keys: str) -> "alt.Data":
    import altair as alt

    fields = ("name", *keys, "value", "low", "high", *(("least", "most") if spread.seeds_of(rows) > 1 else ()))
    shown = [
        {key: row[key] for key in fields}
        | {"counts": f"{row['k']}/{row['n']}", "rate": percent(row["value"]), "interval": span(row)}
        | dict(zip(spread.BETWEEN, spread.between(row), strict=False))
        for row in rows.to_dicts()
    ]
    return alt.Data(values=shown)


def svg(figure: Figure, titled: bool) -> str:
    """The figure as SVG on white, for paper; with its title where it stands alone."""
    import vl_convert

    text = {"labelFontSize": 13, "titleFontSize": 13}
    chart = figure.chart.properties(background="white", padding=12)
    if chart.to_dict().get("width") == SIZE["width"]:
        chart = chart.properties(width=640)
    if titled:
        chart = chart.properties(title=figure.title)
    chart = chart.configure_axis(**text).configure_title(fontSize=16, anchor="start", offset=14)
    chart = chart.configure_legend(**text, orient="bottom", columns=2, labelLimit=0, symbolStrokeWidth=2)
    return vl_convert.vegalite_to_svg(chart.configure_view(stroke=None).to_dict())
