"""The figure of tool use: over rounds, how often the tool is called, how often answers are right, and rewards."""

from typing import Any

import polars as pl

from atp.measures.seeds import over_seeds
from atp.measures.series import in_context
from atp.report import spread
from atp.report.figures import Figure, cells, columns_of, lines
from atp.report.results import Results
from atp.report.verdict import bounds_text, name_lines
from atp.testbeds.tool_use import TESTBED as TOOL_USE
from atp.testbeds.tool_use import measures as tool_use

#: Names of rates, which the chart and the table have.
RATES = {
    f"{measure}_{kind}": f"{name}, {kind} problems"
    for kind in ("hard", "easy")
    for measure, name in ((tool_use.USAGE, "tool called"), (tool_use.ACCURACY, "answer right"))
}
#: Names of the means, which only the table has.
MEANS = {
    f"{measure}_{kind}": f"{name}, {kind}"
    for kind in ("hard", "easy")
    for measure, name in ((tool_use.REWARD, "reward, mean"), (tool_use.REGRET, "regret, mean"))
} | {tool_use.FAILED: "failed calls, mean"}


def tool_figures(results: Results) -> list[Figure]:
    """Return the figure of the context channel; none without replies. It shows the mean over seeds."""
    rows = in_context(over_seeds(results.measures).filter(pl.col("n") > 0, testbed=TOOL_USE.name))
    rates = rows.filter(pl.col("measure").is_in(list(RATES)))
    if not len(rates):
        return []
    curves = _named(rates, RATES)
    of_models = curves.filter(~pl.col("panel").str.contains("scripted:"))
    means = _named(rows.filter(pl.col("measure").is_in(list(MEANS))), MEANS)
    table = [
        [row["panel"], row["name"], str(row["round"]), *cells(row)]
        for row in curves.sort("panel", "name", "round").to_dicts()
    ] + [
        [row["panel"], row["name"], str(row["round"]), *_mean(row)]
        for row in means.sort("panel", "name", "round").to_dicts()
    ]
    return [
        Figure(
            "tool_use_over_rounds",
            "Tool calls and right answers over rounds",
            "How often the agent calls the tool, and how often its answer is right: on the hard problems that test it "
            "after every round, and on the easy ones of deployment. An invalid reply counts as a wrong answer. "
            "Reference policies are in the table, and so are the mean reward after costs and the mean regret, which is "
            f"the reward of the best policy minus the agent's. {spread.describe_bars(rates)}",
            lines(of_models if len(of_models) else curves, "round", "proportion"),
            ["curve", "measure", "round", *columns_of(rates, "k/n")],
            table,
        )
    ]


def _named(rows: pl.DataFrame, names: dict[str, str]) -> pl.DataFrame:
    """Return rows with the measure's name as `name`, and the curve's name as `panel`."""
    named = name_lines(rows, "model")
    measure = pl.col("measure").replace_strict(names, return_dtype=pl.String)
    return named.with_columns(panel=pl.col("name"), name=measure).sort("name", "round", maintain_order=True)


def _mean(row: dict[str, Any]) -> list[str]:
    low, high = row["low"], row["high"]
    interval = "–" if low is None else f"{low:.2f} to {high:.2f}".replace("-", "\u2212")
    return [
        f"n {row['n']}",
        f"{row['value']:.2f}",
        *spread.between(row, share=False),
        interval,
        row["method"],
        bounds_text(row),
    ]
