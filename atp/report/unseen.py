"""Table of the rates on templates that training used and on those that it did not."""

import polars as pl

from atp.files.schemas import SERIES
from atp.files.tables import read_table
from atp.measures.alignment import NONE
from atp.measures.series import in_context, in_weights
from atp.measures.templates import SEEN, UNSEEN, UNSEEN_MINUS_SEEN
from atp.measures.trainings import ONE_TRAINING
from atp.report.conditions import CHANNELS, RowGroup, TableCell, means_over_seeds, points, proportion
from atp.report.results import Results
from atp.report.verdict import name_lines

COLUMNS = ["series", "seen templates", "unseen templates", "unseen minus seen, points"]
_MEASURES = (SEEN, UNSEEN, UNSEEN_MINUS_SEEN)


def by_template(results: Results) -> list[RowGroup]:
    """Return rows with the columns COLUMNS, in a group for each testbed and channel.

    A series has its first and its last point. In the context channel, where nothing is trained, only aligned agents
    and those that they are compared with have rows.
    """
    measures = means_over_seeds(results.measures, _MEASURES)
    aligned = measures.filter(pl.col("alignment") != NONE)
    in_study = measures.join(aligned, on=["model", "testbed"], how="semi")
    groups = []
    for rows, axis in ((in_context(in_study), "round"), (in_weights(measures), "generation")):
        for (testbed, channel), own in rows.sort("testbed").group_by("testbed", "channel", maintain_order=True):
            heading = f"{testbed}, {CHANNELS[str(channel)]}{_counts(results, str(testbed))}"
            groups.append(RowGroup(heading, _rows(own, axis)))
    return groups


def _rows(rows: pl.DataFrame, axis: str) -> list[list[TableCell]]:
    by = "variant" if axis == "round" else "condition"
    first, last = (getattr(pl.col(axis), end)().over(*SERIES) for end in ("min", "max"))
    named = name_lines(rows.filter((pl.col(axis) == first) | (pl.col(axis) == last)), by).sort("name", axis)
    table = []
    for (name, point), own in named.group_by("name", axis, maintain_order=True):
        row = {each["measure"]: each for each in own.to_dicts()}
        once = ONE_TRAINING if row[SEEN]["trainings"] == 1 else ""
        rates = proportion(row[SEEN]), proportion(row[UNSEEN])
        table.append([(f"{name}, {axis} {point}", once), *rates, points(row[UNSEEN_MINUS_SEEN])])
    return table


def _counts(results: Results, testbed: str) -> str:
    """Return the numbers of templates and of their test scenarios, as the end of a heading."""
    if testbed not in results.scenarios:
        return ""
    scenarios = pl.DataFrame(read_table(results.scenarios[testbed])).filter(split="test")
    kinds = [
        f"{rows['template'].n_unique()} {kind} templates with {len(rows)} test scenarios"
        for kind, rows in ((kind, scenarios.filter(template_seen=kind == "seen")) for kind in ("seen", "unseen"))
    ]
    return f": {', '.join(kinds)}"
