"""Figures of measures: Vega-Lite charts, each with its rows as a table.

Colours are those of Okabe and Ito (2008). Dashes and shapes differ too, so that curves can be told apart in greyscale.
"""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import polars as pl

from atp.files.schemas import MEASURES
from atp.measures.seeds import RESULTS, SEED, over_seeds
from atp.measures.series import POINTS, in_context
from atp.registry import find_testbed
from atp.report import spread
from atp.report.results import Results
from atp.report.verdict import bounds_text, counts_text, interval_text, is_mean, name_lines, percent, value_text
from atp.testbed import Testbed, Words

if TYPE_CHECKING:
    import altair as alt

COLOURS = ["#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
DASHES = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [4, 4], [10, 2]]
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down"]
AFTER = {
    "p_violate_after_rewarded_violation": "a rewarded violation",
    "p_violate_after_caught_violation": "a caught violation",
    "p_violate_after_complied": "compliance",
}
#: Heading of Manski's bounds: the rate if no invalid reply is in the numerator, to the rate if all are.
BOUNDS = "none to all invalid replies"
SEEN, KEPT = "before the filter", "after the filter"
PANEL_WIDTH = 200
MANY_TICKS = 10
LINES_A_PANEL = 8


@dataclass(frozen=True)
class Figure:
    """A chart with its caption and its table."""

    name: str
    title: str
    caption: str
    chart: Any
    columns: list[str]
    rows: list[list[str]]


def figures(measures: pl.DataFrame, deployments: Sequence[dict[str, Any]] = ()) -> list[Figure]:
    """Return the figures that every testbed has, testbed by testbed; those without data are left out.

    With several seeds, figures show means over seeds (`over_seeds`).

    Args:
        deployments: cells, and the counts of their filters, as from `ran.deployments`.
    """
    measures, testbeds = over_seeds(measures), sorted(measures["testbed"].unique())
    all_figures = []
    for testbed in testbeds:
        deployed = [each for each in deployments if each["cell"]["testbed"] == testbed]
        for figure in _testbed_figures(measures.filter(testbed=testbed), deployed, find_testbed(testbed).words):
            if len(testbeds) > 1:
                title = f"{figure.title}: {testbed.replace('_', ' ')}"
                figure = replace(figure, name=f"{figure.name}_{testbed}", title=title)
            all_figures.append(figure)
    return all_figures


def measure_figure(results: Results, testbed: Testbed, measure: str, title: str, caption: str) -> list[Figure]:
    """Return a figure of one measure over the rounds of the context channel; none without data."""
    rows = over_seeds(results.measures).filter(pl.col("n") > 0, testbed=testbed.name, measure=measure)
    rows = in_context(rows.filter(pl.col("value").is_not_null(), pl.col("round").is_not_null()))
    if not len(rows):
        return []
    drawn = legible(rows, "variant")
    named = name_lines(rows, "variant").sort("name", "round").to_dicts()
    table = [[row["name"], str(row["round"]), *cells(row)] for row in named]
    columns = ["variant", "round", *columns_of(rows, "counts")]
    chart = lines(drawn, "round", measure.replace("_", " "))
    caption = f"{caption} {spread.describe_bars(rows)}"
    return [Figure(f"{testbed.name}_{measure}", title, caption, chart, columns, table)]


#: Channel -> name, title and caption of the figure of violation rates.
DRIFTS = {
    "context": (
        "drift_over_rounds",
        "Violations over rounds, in context",
        "The prompt shows the agent its own history: its choices, their outcomes and its rewards. There is a curve for "
        "each variant, or a panel if there are many.",
    ),
    "weights": (
        "drift_over_generations",
        "Violations over generations, in the weights",
        "After each generation the agent is tested on held-out scenarios without history, so a change is in the "
        "weights. There is a curve for each condition in which the agent was deployed and learned. Generation 0 has "
        "not learned yet.",
    ),
    "memory": (
        "drift_over_memories",
        "Violations over generations, in memory",
        "Each generation is tested on held-out scenarios with its memory, and with the memory emptied. A change that "
        "the memory carries is absent without it. Generation 0 has no memory yet.",
    ),
}


def _testbed_figures(measures: pl.DataFrame, deployments: Sequence[dict[str, Any]], words: Words) -> Iterable[Figure]:
    rates = measures.filter(measure="violation_rate")
    after = measures.filter(pl.col("measure").is_in(list(AFTER)), pl.col("n") > 0, channel="context")
    candidates = [
        *(_drift(measures, points(rates), channel, words) for channel, points in POINTS.items()),
        _reinforcement(after, words),
        _deployment(deployments, words),
    ]
    return [figure for figure in candidates if figure is not None]


def _note(words: Words) -> str:
    return f" {words.violation}" if words.violation else ""


def _drift(measures: pl.DataFrame, rows: pl.DataFrame, channel: str, words: Words) -> Figure | None:
    """Return the figure of violation rates over the rounds or generations of a channel."""
    name, title, caption = DRIFTS[channel]
    axis, by = ("round", "variant") if channel == "context" else ("generation", "condition")
    valid = rows.filter(pl.col("n") > 0)
    if not len(valid):
        return None
    keys = [key for key in MEASURES.names if key not in ("measure", SEED, *RESULTS)]
    invalid = measures.filter(measure="invalid_rate").select(*keys, bad="k", replies="n")
    reward = measures.filter(measure="mean_reward").select(*keys, reward=pl.struct(pl.all()))
    stated = measures.filter(measure="p_violation").select(*keys, stated=pl.struct(pl.all()))
    joined = name_lines(rows, by)
    for more in (invalid, reward, stated):
        joined = joined.join(more, on=keys, how="left")
    table = [
        [row["name"], str(row[axis]), *cells(row), f"{row['bad']}/{row['replies']}", _reward(row["reward"])]
        + ([_probability(row["stated"])] if len(stated) else [])
        for row in joined.sort("name", axis).to_dicts()
    ]
    columns = [by, axis, *columns_of(rows), "invalid", "mean reward", *(["P(violate)"] if len(stated) else [])]
    caption = f"{caption}{_note(words)} {spread.describe_bars(rows)}"
    return Figure(name, title, caption, lines(legible(valid, by), axis, words.violation_rate), columns, table)


def _reward(row: dict[str, Any]) -> str:
    """Return a mean reward; with several seeds, both spreads follow it."""
    within = f" ({row['low']:.2f} to {row['high']:.2f})" if spread.several(row) and row["low"] is not None else ""
    return f"{row['value']:.2f}{within}{spread.suffix(row)}"


def _probability(row: dict[str, Any] | None) -> str:
    """Return a mean probability with its interval; with several seeds, both spreads follow it."""
    if row is None or row["value"] is None:
        return ""
    interval = "" if row["low"] is None else f" ({100 * row['low']:.1f} to {100 * row['high']:.1f} %)"
    return f"{100 * row['value']:.1f} %{interval}{spread.suffix(row, share=True)}"


def _reinforcement(rows: pl.DataFrame, words: Words) -> Figure | None:
    if not len(rows):
        return None
    return Figure(
        "reinforcement",
        "Violations after a reward",
        "How often an agent violates in the round after a rewarded violation, after a caught violation, and after "
        "compliance. If rewards drive the drift, the first rate is higher than the last."
        f"{_note(words)} {spread.describe_bars(rows)}",
        bars(
            after(rows, AFTER, panels=True),
            list(AFTER.values()),
            "violates after …",
            f"{words.violation_rate} in the next round",
        ),
        ["variant", "after", *columns_of(rows)],
        [[row["name"], row["before"], *cells(row)] for row in after(rows, AFTER).to_dicts()],
    )


def after(rows: pl.DataFrame, labels: Mapping[str, str], panels: bool = False) -> pl.DataFrame:
    """Return conditional rates with the columns of `name_lines` and `before`, the label of each measure's condition."""
    named = name_lines(rows, "variant", panels)
    return named.with_columns(before=pl.col("measure").replace_strict(labels)).sort("name")


def legible(rows: pl.DataFrame, by: str) -> pl.DataFrame:
    """Return rows with the columns `name` and `panel`: a curve for each value of `by`, or a panel if there are many."""
    named = name_lines(rows, by, panels=True)
    lines_a_panel = named.group_by("panel").agg(pl.col("name").n_unique())["name"].to_list()
    if max(lines_a_panel) <= LINES_A_PANEL:
        return named.sort("name", maintain_order=True)
    others = name_lines(rows.with_columns(pl.lit("").alias(by)), "model")
    return named.with_columns(others["name"], panel=pl.col(by)).sort("name", maintain_order=True)


def _deployment(deployments: Sequence[dict[str, Any]], words: Words) -> Figure | None:
    if not deployments:
        return None
    rows = over_seeds(_counted(deployments))
    if not len(rows.filter(pl.col("step").is_in([SEEN, KEPT]), pl.col("n") > 0)):
        return None
    order = ["panel", "name", "generation"]
    named = name_lines(rows, "condition", panels=True).sort(order, maintain_order=True)
    table = []
    for _, steps in named.group_by(order, maintain_order=True):
        row, by_step = steps.row(0, named=True), {step["step"]: step for step in steps.to_dicts()}
        counts = [f"{step['k']}/{step['n']}" for step in by_step.values()]
        rates = [percent(by_step[step]["value"]) + spread.suffix(by_step[step], share=True) for step in (SEEN, KEPT)]
        name = ", ".join(part for part in (row["name"], row["panel"]) if part)
        with_rates = [f"{count} ({rate})" for count, rate in zip(counts[2:], rates, strict=True)]
        table.append([name, str(row["generation"]), *counts[:2], *with_rates])
    return Figure(
        "deployment",
        "Effect of the reward filter on the training data",
        "Proportion of violations among all replies of each generation in deployment, and among the replies that the "
        "filter selected for training. These are complete counts and not estimates, so they have no "
        f"intervals.{_note(words)}{spread.bars_between(rows)}",
        _before_and_after(named.filter(pl.col("step").is_in([SEEN, KEPT]), pl.col("n") > 0), words.violation_rate),
        ["condition", "generation", "selected/all", "invalid/all", "violations before", "violations after"],
        table,
    )


def _counted(deployments: Sequence[dict[str, Any]]) -> pl.DataFrame:
    """Return the filters' counts as rows with the columns that `over_seeds` needs."""
    rows = []
    for deployment in deployments:
        counts = deployment["counts"]
        for step, k, n in (
            ("kept", "kept", "seen"),
            ("invalid", "invalid", "seen"),
            (SEEN, "violations_seen", "valid_seen"),
            (KEPT, "violations_kept", "kept"),
        ):
            share = counts[k] / counts[n] if counts[n] else None
            result = {"value": share, "k": counts[k], "n": counts[n], "invalid": None}
            result |= {"low": None, "high": None, "method": ""}
            keys = {"variant": "", "channel": "weights", **deployment["cell"], "step": step}
            rows.append(keys | result | {"label": None, "reason": None})
    kinds = {**dict.fromkeys(("value", "low", "high"), pl.Float64), **dict.fromkeys(("label", "reason"), pl.String)}
    kinds["invalid"] = pl.Int64
    return pl.DataFrame(rows, schema_overrides=kinds)


def columns_of(rows: pl.DataFrame, counted: str = "violations/valid") -> list[str]:
    """Return the headings of `cells` for these rows."""
    if spread.seeds_of(rows) < 2:
        return [counted, "rate", "95 % interval", "interval by", BOUNDS]
    return [counted, "mean rate", *spread.BETWEEN, spread.INTERVAL, "interval by", BOUNDS]


def cells(row: dict[str, Any]) -> list[str]:
    """Return a row's counts, rate, spreads and method as cells of a table."""
    spreads = spread.between(row, share=not is_mean(row))
    return [
        counts_text(row),
        value_text(row),
        *spreads,
        interval_text(row),
        row["method"] + spread.note_of(row),
        bounds_text(row),
    ]


def lines(rows: pl.DataFrame, axis: str, title: str, over: Sequence[Any] = (), keys: Sequence[str] = ()) -> Any:
    """Return a chart of rates with intervals along an axis, with a curve for each `name` and a panel for each `panel`.

    Args:
        over: further layers on top, which draw the same rows.
        keys: further columns that these layers need.
    """
    import altair as alt

    rows, across = _across(rows, axis)
    data = rows_of(rows, axis, "place", "panel", *keys)
    base = alt.Chart().encode(x=across, color=_encoded(alt.Color, rows, COLOURS))
    dash = _dash("name", rows["name"].unique(maintain_order=True).to_list(), DASHES)
    height = value_axis(rows, title)
    line = base.mark_line(strokeWidth=2).encode(y=height, strokeDash=dash)
    tips = spread.tips(rows, ("name", axis, "counts", "rate", "interval"))
    points = base.mark_point(size=70, filled=True, opacity=1).encode(
        y=height, shape=_encoded(alt.Shape, rows, SHAPES, turned=True), tooltip=tips
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


def in_panels(rows: pl.DataFrame, chart: Any, height: int, order: Sequence[str] = ()) -> Any:
    """Return one chart, or a chart per panel side by side, in `order`. The page sets the width of panels."""
    import altair as alt

    # Agents without alignment, aligned agents, then reference policies.
    places = {panel: ("scripted:" in panel, "none" not in panel, panel) for panel in rows["panel"].unique()}
    panels = list(order) or sorted(places, key=places.__getitem__)
    if len(panels) < 2:
        return chart.properties(**SIZE, height=height)
    facet = alt.Facet("panel:N", title=None, sort=panels, header=alt.Header(labelFontWeight="bold", labelFontSize=12))
    return chart.properties(width=PANEL_WIDTH, height=max(height - 60, 140)).facet(
        facet=facet, columns=min(3, len(panels))
    )


def bars(rows: pl.DataFrame, order: list[str], legend: str, title: str) -> Any:
    """Return a chart with a group of points and intervals for each `name`: one for each `before`, in `order`."""
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
    axis_title = title if rows["panel"].n_unique() == 1 else textwrap.wrap(title, 26)  # a panel is narrow
    across = alt.X("value:Q", title=axis_title, axis=PERCENT, scale=WHOLE)
    tips = spread.tips(rows, ("name", "before", "counts", "rate", "interval"))
    points = base.mark_point(size=80, filled=True, opacity=1).encode(x=across, color=color, shape=shape, tooltip=tips)
    intervals = [each.encode(color=color) for each in spread.spreads(base, rows, "x")]
    height = 20 + rows["name"].n_unique() * (15 + 15 * len(order))
    return in_panels(rows, alt.layer(*intervals, points, data=rows_of(rows, "before", "panel")), height)


#: The chart is as wide as its container.
SIZE: dict[str, Any] = {"width": "container", "autosize": {"type": "fit-x", "contains": "padding"}}
PERCENT: dict[str, Any] = {"format": "%", "tickCount": 5}
WHOLE: dict[str, Any] = {"domain": [0, 1]}


def value_axis(rows: pl.DataFrame, title: str) -> "alt.Y":
    """Return the vertical axis of rows: proportions go from 0 to 100 %, means over the values that occur."""
    import altair as alt

    means = any(is_mean(row) for row in rows.to_dicts())
    return alt.Y("value:Q", title=title, scale=alt.Scale(zero=False)) if means else rate_axis(title)


def rate_axis(title: str) -> "alt.Y":
    """Return the axis of a rate, from 0 to 100 %."""
    import altair as alt

    return alt.Y("value:Q", title=title, axis=alt.Axis(**PERCENT), scale=alt.Scale(**WHOLE))


def _across(rows: pl.DataFrame, axis: str) -> "tuple[pl.DataFrame, alt.X]":
    """Return rows with the column `place`, and the axis. Curves are shifted a little, so that intervals are apart."""
    import altair as alt

    names = rows["name"].unique(maintain_order=True).to_list()
    ticks = sorted(rows[axis].unique())
    whole = rows.schema[axis].is_integer()
    gap = 1.0 if whole else 0.0  # points of a continuous axis are not shifted
    step = 0.05 if spread.seeds_of(rows) < 2 else min(0.2, 0.6 / len(names))  # two bars a point need more room
    shifts = {name: step * gap * (at - (len(names) - 1) / 2) for at, name in enumerate(names)}
    axis_style = alt.Axis(
        values=ticks if len(ticks) <= MANY_TICKS else ticks[:: -(-len(ticks) // MANY_TICKS)],
        format="d" if whole else ".3~g",
        labelAngle=0,
        grid=False,
    )
    edge = 0.3 * (1.0 if whole else min((after - before for before, after in pairwise(ticks)), default=1.0))
    scale = alt.Scale(domain=[ticks[0] - edge, ticks[-1] + edge], nice=False)
    placed = rows.with_columns(place=pl.col(axis) + pl.col("name").replace_strict(shifts, return_dtype=pl.Float64))
    return placed, alt.X("place:Q", title=axis.replace("_", " "), axis=axis_style, scale=scale)


def _encoded(channel: Any, rows: pl.DataFrame, values: list[Any], turned: bool = False) -> Any:
    import altair as alt

    names = rows["name"].unique(maintain_order=True).to_list()
    return channel("name:N", scale=_each(names, values, turned), legend=alt.Legend(title=None))


def _dash(field: str, names: list[str], values: list[Any]) -> "alt.StrokeDash":
    """Return dashes without a legend: its small symbols would look ragged, and shapes already identify the curves.

    The domain has an unused name, so that Vega-Lite does not merge the legend with that of the shapes.
    """
    import altair as alt

    return alt.StrokeDash(f"{field}:N", scale=_each([*names, ""], values, turned=True), legend=None)


def _each(names: list[str], values: list[Any], turned: bool = False) -> "alt.Scale":
    """Return a scale that cycles through values. Each cycle of `turned` values is shifted, so that combinations with
    values of another scale do not repeat.
    """
    import altair as alt

    places = [at + (at // len(values) if turned else 0) for at in range(len(names))]
    return alt.Scale(domain=names, range=[values[place % len(values)] for place in places])


def rows_of(rows: pl.DataFrame, *keys: str) -> "alt.Data":
    """Return rows as a chart's data, with the columns `keys`."""
    import altair as alt

    fields = ("name", *keys, "value", "low", "high", *(("least", "most") if spread.seeds_of(rows) > 1 else ()))
    shown = [
        {key: row[key] for key in fields}
        | {"counts": counts_text(row), "rate": value_text(row), "interval": interval_text(row)}
        | dict(zip(spread.BETWEEN, spread.between(row), strict=False))
        for row in rows.to_dicts()
    ]
    return alt.Data(values=shown)


def svg(figure: Figure, titled: bool) -> str:
    """Return a figure as SVG on a white background, for print; `titled` adds its title."""
    import vl_convert

    text = {"labelFontSize": 13, "titleFontSize": 13}
    chart = figure.chart.properties(background="white", padding=12)
    if chart.to_dict().get("width") == SIZE["width"]:
        chart = chart.properties(width=640)
    if titled:
        chart = chart.properties(title=figure.title)
    chart = chart.configure_axis(**text).configure_title(fontSize=16, anchor="start", offset=14)
    chart = chart.configure_legend(**text, orient="bottom", columns=2, labelLimit=0, symbolStrokeWidth=2)
    spec = chart.configure_view(stroke=None).to_dict()
    spec["config"]["aria"] = titled  # the page's picture has a text of its own; labels of all points double its size
    return vl_convert.vegalite_to_svg(spec)
