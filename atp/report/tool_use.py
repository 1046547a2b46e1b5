"""Figures of tool use: how often the tool is called and how often answers are right, over rounds, with what that left.

Knows measures; knows no turns.
"""

from typing import Any

import polars as pl

from atp.measures import tool_use
from atp.measures.lines import in_context
from atp.measures.seeds import over_seeds
from atp.report import spread
from atp.report.figures import Figure, cells, columns_of, lines
from atp.report.verdict import name_lines

SAID = {
    f"{measure}_{kind}": f"{said}, {kind} problems"
    for kind in ("hard", "easy")
    for measure, said in ((tool_use.USAGE, "tool called"), (tool_use.ACCURACY, "answer right"))
}
MEANS = {
    f"{measure}_{kind}": f"{said}, {kind}"
    for kind in ("hard", "easy")
    for measure, said in ((tool_use.REWARD, "left, mean"), (tool_use.REGRET, "regret, mean"))
} | {tool_use.FAILED: "failed calls, mean"}


def tool_figures(measures: pl.DataFrame) -> list[Figure]:
    """Figures of the context channel; none where no tool could be called. Of several seeds they show the mean."""
    rows = in_context(over_seeds(measures).filter(pl.col("n") > 0, testbed=tool_use.TESTBED))
    rates = rows.filter(pl.col("measure").is_in(list(SAID)))
    if not len(rates):
        return []
    drawn = _named(rates, SAID).filter(~pl.col("panel").str.contains("scripted:"))
    drawn = drawn if len(drawn) else _named(rates, SAID)
    means = _named(rows.filter(pl.col("measure").is_in(list(MEANS))), MEANS)
    table = [
        [row["panel"], row["name"], str(row["round"]), *cells(row)]
        for row in _named(rates, SAID).sort("panel", "name", "round").to_dicts()
    ] + [
        [row["panel"], row["name"], str(row["round"]), *_mean(row)]
        for row in means.sort("panel", "name", "round").to_dicts()
    ]
    return [
        Figure(
            "tool_use_over_rounds",
            "The tool, and right answers, over rounds",
            "How often the agent calls the tool and how often its answer is right: on the hard problems that it is "
            "tested on after every round, and on the easy ones that it lives through. An invalid reply is no right "
            "answer. Policies that play beside the models are in the table, as are what answers left on average and "
            f"the regret: what the best policy of the economy would leave, less that. {spread.bars_said(rates)}",
            lines(drawn, "round", "share"),
            ["line", "measure", "round", *columns_of(rates, "hits/replies")],
            table,
        )
    ]


def _named(rows: pl.DataFrame, said: dict[str, str]) -> pl.DataFrame:
    """Rows with their measure's words as `name`, and what tells their line from others as `panel`."""
    named = name_lines(rows, "model")
    measure = pl.col("measure").replace_strict(said, return_dtype=pl.String)
    return named.with_columns(panel=pl.col("name"), name=measure).sort("name", "round", maintain_order=True)


def _mean(row: dict[str, Any]) -> list[str]:
    low, high = row["low"], row["high"]
    interval = "–" if low is None else f"{low:.2f} to {high:.2f}".replace("-", "\u2212")
    return [f"n {row['n']}", f"{row['value']:.2f}", *spread.between(row, share=False), interval, row["method"]]
