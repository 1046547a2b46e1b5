"""The figures of ramps: violation rates by the level of a setting that changes within an episode, both ways."""

import polars as pl

from atp.files.schemas import SERIES
from atp.measures.hysteresis import AFTER_RAMP, AREA, BACK, OF_CONTROL, OVER_CONTROL, THERE, settings_of
from atp.measures.seeds import over_seeds
from atp.measures.swept import of_all_seeds
from atp.registry import find_testbed
from atp.report import spread
from atp.report.figures import Figure, cells, columns_of, lines
from atp.report.phase import words
from atp.report.results import Results
from atp.report.verdict import name_lines

HALVES = {THERE: "first half", BACK: "second half"}
LOOPS = {
    name + suffix: f"{words(name)}{text}"
    for name in (AREA, AFTER_RAMP)
    for suffix, text in (("", ""), (OF_CONTROL, " without the ramp"), (OVER_CONTROL, ", difference"))
}


def hysteresis_figures(results: Results) -> list[Figure]:
    """Return a figure for each testbed and setting that a ramp changes; none without ramps."""
    played = {key: settings_of(key, values) for key, values in of_all_seeds(results.settings).items()}
    measures = over_seeds(results.measures.filter(pl.col("measure").is_in([*HALVES, *LOOPS]), pl.col("n") > 0))
    figures: dict[tuple[str, str], list[dict[str, object]]] = {}
    for row in measures.to_dicts():
        settings = played[tuple(row[key] for key in SERIES)]
        (setting,) = settings.ramp
        level = settings.level(row["round"]) if row["round"] else None
        figures.setdefault((row["testbed"], setting), []).append({**row, "level": level})
    return [_figure(*key, pl.DataFrame(rows, infer_schema_length=None)) for key, rows in sorted(figures.items())]


def _figure(testbed: str, setting: str, rows: pl.DataFrame) -> Figure:
    rows = name_lines(rows, "variant").rename({"name": "series"}).drop("panel").sort("series", maintain_order=True)
    rates = rows.filter(pl.col("measure").is_in(list(HALVES)))
    rates = rates.with_columns(pl.col("measure").replace_strict(HALVES).alias("name"), panel="series")
    whole = (rates["level"] == rates["level"].round()).all()
    rates = rates.rename({"level": setting}).with_columns(pl.col(setting).cast(pl.Int64 if whole else pl.Float64))
    table = [[row["series"], f"{row[setting]:.3g}", row["name"], *cells(row)] for row in rates.to_dicts()]
    for row in rows.filter(pl.col("measure").is_in(list(LOOPS)), pl.col("value").is_not_null()).to_dicts():
        table.append([row["series"], "", LOOPS[row["measure"]], *cells(row)])
    title = f"Hysteresis: violations while {words(setting)} changes and returns"
    return Figure(
        f"hysteresis_{testbed}_{setting}",
        title,
        f"Violation rates by {words(setting)}, which changes within an episode without announcement, and returns in "
        "the second half. If behaviour depended on the level alone, both curves would be equal. The loop area is the "
        "mean difference between them (second half minus first half, as a proportion), and the change after the ramp "
        "that between the last round and the first. A trend over rounds makes a loop too, and so does a response that "
        "is a round late: the table has both numbers without the ramp, and the difference. "
        f"{spread.describe_bars(rates)}",
        lines(rates, setting, find_testbed(testbed).words.violation_rate),
        ["played by", words(setting), "rounds", *columns_of(rates)],
        table,
    )
