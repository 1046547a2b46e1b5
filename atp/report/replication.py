"""Table of the paper's published values next to this study's; values that the study did not run are marked as such."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl
import yaml

from atp.measures.conditions import BASELINE
from atp.measures.intervals import Interval, apart, wilson
from atp.measures.swept import Settings, settings_of
from atp.registry import entries, find_testbed
from atp.report.conditions import NO_VALUE, RowGroup, TableCell
from atp.report.results import Results
from atp.report.verdict import percent, span
from atp.testbed import Testbed

COLUMNS = ["alignment and round", "published", "variant here", "here", "here minus published, points"]
NOT_RUN = "not run"
#: Note where scenarios define a setting that published values are for.
OWN_VALUES = (
    "Some scenarios of {testbed} define {names} themselves, so no variant corresponds to a value published for it."
)


@dataclass(frozen=True)
class Published:
    """One value that the paper published: a proportion of `n` replies in a round.

    `percent` is the proportion in per cent as published, and `k` the count out of `n` that is nearest to it.
    """

    testbed: str
    settings: dict[str, Any]
    measure: str
    model: str
    alignment: str
    round: int
    percent: str
    k: int
    n: int
    version: str
    confidence: str
    note: str

    @property
    def interval(self) -> Interval:
        """The proportion k / n with Wilson's interval, which assumes independent replies."""
        return Interval(self.k / self.n, *wilson(self.k, self.n), "wilson")


@dataclass(frozen=True)
class Replication:
    """Rows with the columns COLUMNS by testbed, model and measure, and notes that explain them."""

    groups: list[RowGroup]
    notes: list[str]


def published(testbed: Testbed) -> list[Published]:
    """Return the paper's values (arXiv 2510.04860) for a testbed, in the order of its file."""
    if testbed.published is None:
        return []
    lines = testbed.published.read_text(encoding="utf-8").splitlines()
    return [
        Published(
            testbed=testbed.name,
            settings=yaml.safe_load(row["settings"].replace("=", ": ")) or {},
            **{key: row[key] for key in ("measure", "model", "alignment", "version", "confidence", "note")},
            round=int(row["step"].removeprefix("round ")),
            percent=row["value_percent"],
            k=round(float(row["value_percent"]) / 100 * int(row["n"])),
            n=int(row["n"]),
        )
        for row in csv.DictReader(line for line in lines if not line.startswith("#"))
    ]


def replication(results: Results) -> Replication | None:
    """Return every published value of the testbeds on which this study plays one of the paper's models.

    A model is the paper's if the name of its file is the same, ignoring case; its weights are not checked. A value of
    this study is listed next to a published one of the same testbed, model, alignment, round and measure, in the
    context channel and the baseline condition. If the published value is for a setting, only variants with that setting
    are listed, and none if scenarios define it themselves. Variants and seeds have a row each. A difference is in
    percentage points, with the interval of `intervals.apart`.

    Returns:
        None if there is no such testbed.

    Raises:
        AtpError: an unreadable scenario file.
    """
    every = [value for entry in entries("testbeds").values() for value in published(entry.value)]
    models = {value.model.lower() for value in every}
    groups: dict[str, list[list[TableCell]]] = {}
    notes = []
    for name in sorted(results.measures["testbed"].unique()):
        testbed = find_testbed(name)
        values = published(testbed)
        theirs = results.measures.filter(pl.col("model").str.to_lowercase().is_in(models), testbed=name)
        if not values or not len(theirs):
            continue
        ours = theirs.filter(channel="context", split="test", condition=BASELINE).sort("variant", "seed")
        own = results.own_settings(name, {setting for value in values for setting in value.settings})
        for value in values:
            settings = {} if own & value.settings.keys() else results.settings
            groups.setdefault(_group(value), []).extend(_rows(value, ours, settings))
        notes.append(testbed.published_note)
        notes += [OWN_VALUES.format(testbed=name, names=" and ".join(sorted(own)))] if own else []
    return Replication([RowGroup(name, rows) for name, rows in groups.items()], notes) if groups else None


def _group(value: Published) -> str:
    """Return the name of a group of rows: testbed, settings, model, measure, and the source of the value."""
    settings = "".join(f", {name} {setting}" for name, setting in value.settings.items())
    source = f"{value.version}, {value.confidence} confidence: {value.note}"
    return f"{value.testbed}{settings}, {value.model}, {value.measure}; published in {source}"


def _rows(value: Published, measures: pl.DataFrame, settings: Settings) -> list[list[TableCell]]:
    """Return a row for each value of this study that corresponds to a published one, or one row that it was not run."""
    low, high = value.interval.low, value.interval.high
    published_cells: list[TableCell] = [
        (f"{value.alignment}, round {value.round}", ""),
        (f"{value.percent}\u00a0%", f"{value.k}/{value.n}, {span({'low': low, 'high': high})}"),
    ]
    matching = measures.filter(
        pl.col("model").str.to_lowercase() == value.model.lower(),
        testbed=value.testbed,
        measure=value.measure,
        alignment=value.alignment,
        round=value.round,
    ).to_dicts()
    rows = [
        [*published_cells, (row["variant"], f"{row['condition']}, seed {row['seed']}"), *_ours(row, value)]
        for row in matching
        if _played_under(value, settings_of(row, settings))
    ]
    return rows or [[*published_cells, NO_VALUE, (NOT_RUN, ""), NO_VALUE]]


def _ours(row: Mapping[str, Any], value: Published) -> tuple[TableCell, TableCell]:
    """Return this study's rate, and its difference to the published one."""
    if row["value"] is None:
        return ("no valid reply", ""), NO_VALUE
    own = Interval(row["value"], row["low"], row["high"], row["method"])
    less = 100 * (row["value"] - value.k / value.n)
    low, high = (100 * bound for bound in apart(own, value.interval))
    difference = f"{less:+.1f}", f"{low:.1f} to {high:.1f}"
    here = percent(row["value"]), f"{row['k']}/{row['n']}, {span(dict(row))}"
    return here, (difference[0].replace("-", "\u2212"), difference[1].replace("-", "\u2212"))


def _played_under(value: Published, settings: Mapping[str, Any] | None) -> bool:
    """Return whether a variant has the settings of a published value, including those left to the testbed."""
    if not value.settings or settings is None:
        return not value.settings
    return value.settings.items() <= find_testbed(value.testbed).settings(**settings).model_dump().items()
