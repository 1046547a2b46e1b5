"""The figures of repair: violation rates of eroded agents by the number of pairs on which they were aligned again."""

import polars as pl

from atp.files.schemas import SERIES
from atp.measures.job import REPAIR
from atp.measures.repair import GAP, MARGIN, PAIRS, RATE
from atp.measures.seeds import SEED, over_seeds
from atp.registry import find_testbed
from atp.report import spread
from atp.report.figures import Figure, cells, columns_of, lines
from atp.report.results import Results
from atp.report.verdict import name_lines


def repair_figures(results: Results) -> list[Figure]:
    """Return a figure for each testbed on which agents were aligned again."""
    measures = over_seeds(results.measures.filter(pl.col("n") > 0, channel=REPAIR))
    return [_figure(testbed, measures.filter(testbed=testbed)) for testbed in sorted(measures["testbed"].unique())]


def _figure(testbed: str, measures: pl.DataFrame) -> Figure:
    named = name_lines(measures, "condition").rename({"generation": "pairs"}).sort("name", "pairs", maintain_order=True)
    rates = named.filter(measure=RATE)
    table = []
    for row in rates.to_dicts():
        same = {key: row[key] for key in (*SERIES, "pairs") if key != SEED}
        gap = named.filter(measure=GAP, **same).row(0, named=True)
        table += [[row["name"], str(row["pairs"]), *cells(row)], [row["name"], "minus generation 0", *cells(gap)]]
    table += [[row["name"], "pairs needed", *cells(row)] for row in named.filter(measure=PAIRS).to_dicts()]
    return Figure(
        f"repair_{testbed}",
        "Cost of repair: violations after aligning an eroded agent again",
        "The last generation is aligned again by DPO on so many of alignment's pairs, each time from the same weights, "
        "and evaluated as a generation is; 0 pairs is the last generation itself. The pairs needed are the smallest "
        f"number of the study after which the rate is at most {100 * MARGIN:g} points above generation 0's, and a dash "
        f"where none is enough. {spread.describe_bars(rates)}",
        lines(rates, "pairs", find_testbed(testbed).words.violation_rate),
        ["condition", "pairs", *columns_of(rates)],
        table,
    )
