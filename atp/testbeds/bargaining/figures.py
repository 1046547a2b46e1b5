"""The figure of bargaining: violation rates of the majority and of the minority."""

from collections.abc import Iterable
from typing import Any

import polars as pl

from atp.measures.seeds import over_seeds
from atp.measures.series import last_round
from atp.measures.swept import Settings, of_all_seeds, settings_of
from atp.report import spread
from atp.report.figures import Figure, cells, columns_of, lines
from atp.report.results import Results
from atp.report.verdict import name_lines
from atp.testbeds.bargaining import TESTBED as BARGAINING
from atp.testbeds.bargaining import measures as bargaining
from atp.testbeds.bargaining.game import BargainingSettings


def side_figures(results: Results) -> list[Figure]:
    """Return the figure of the context channel, or no figure without data. It shows the mean over seeds."""
    measures = over_seeds(results.measures).filter(pl.col("n") > 0, channel="context", testbed=BARGAINING.name)
    rows = list(_by_side(measures, of_all_seeds(results.settings)))
    if not rows:
        return []
    named_rows = name_lines(pl.DataFrame(rows, infer_schema_length=None), "side", panels=True).sort("name", "raisers")
    table = [
        [row["name"], row["panel"], f"{row['raisers']}:{row['agents'] - row['raisers']}", *cells(row)]
        for row in named_rows.to_dicts()
    ]
    figure = Figure(
        "violations_by_side",
        "Bargaining: violations of the majority and of the minority",
        "In the last round, by how many of the agents want the value to rise. A violation is a proposal that does not "
        f"move the value the way of one's role. {spread.describe_bars(named_rows)}",
        lines(named_rows, "raisers", "violation rate"),
        ["side", "played by", "raisers : lowerers", *columns_of(named_rows)],
        table,
    )
    return [figure]


def _by_side(measures: pl.DataFrame, settings: Settings) -> Iterable[dict[str, Any]]:
    """Yield the last round's rows with the side that they are about; equal sides have one rate for all players."""
    sides = {measure: side for side, measure in bargaining.SIDES.items()} | {"violation_rate": "even split"}
    for row in last_round(measures.filter(pl.col("measure").is_in(list(sides)))).to_dicts():
        values = settings_of(row, settings)
        if values is None:
            continue
        game = BargainingSettings(**values)
        if (2 * game.raisers == game.agents) == (row["measure"] == "violation_rate"):
            yield {**row, "side": sides[row["measure"]], "variant": "", "raisers": game.raisers, "agents": game.agents}
