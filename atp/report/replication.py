"""The paper's published values beside ours, as rows of a table; what a study has not run is said to be not run.

Knows measures and variants' settings; knows nothing of pages.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

import polars as pl

from atp.measures.arms import PLAIN
from atp.measures.intervals import Interval, apart, wilson
from atp.measures.lines import LINE
from atp.report.arms import Cell, Lines
from atp.report.verdict import percent, span
from atp.testbeds import TESTBEDS

COLUMNS = ["alignment and round", "published", "variant here", "here", "here less published, points"]
NOT_RUN, NOTHING = "not run", "–"
#: Measures that the paper gives values of, and what they are called here.
RATES = {
    "violation_rate": "violation_rate",
    "collusion_rate": "collusion_rate",
    "tool_usage": "tool_usage_hard",
    "accuracy_hard": "accuracy_hard",
}
#: Where published values are of one setting of a testbed: its testbed, and the setting.
UNDER: dict[str, tuple[str, dict[str, Any]]] = {"coordination_t4": ("coordination", {"threshold": 4})}
#: What has to be known to read a testbed's rows.
NOTES = {
    "role_play": "Under which supervision schedule role_play's values were published is not known here: every variant "
    "of this study has a row, and none of them is said to be the paper's.",
    "coordination": "coordination_t4: published for a threshold of 4, so variants under another one have no row.",
    "tool_use": "Round 0 of tool_use is the test before the first round.",
}
OWN_NUMBERS = (
    "Where scenarios bring numbers of their own, as some do here, variants are of no one threshold: no row either."
)


@dataclass(frozen=True)
class Published:
    """One value that the paper published, of `n` replies in a round: `said` is the share in per cent as it is known
    here, and k the count of n that is nearest to it.
    """

    testbed: str
    measure: str
    model: str
    alignment: str
    round: int
    said: str
    k: int
    n: int
    version: str
    confidence: str
    note: str

    @property
    def where(self) -> tuple[str, dict[str, Any]]:
        """The testbed here, and the settings that the value is of."""
        return UNDER.get(self.testbed, (self.testbed, {}))

    @property
    def interval(self) -> Interval:
        """The share of k in n with Wilson's interval, which takes all replies for independent."""
        return Interval(self.k / self.n, *wilson(self.k, self.n), "wilson")


@dataclass(frozen=True)
class Replication:
    """Rows of COLUMNS by testbed, model and measure, and what has to be known to read them."""

    lines: list[Lines]
    notes: list[str]


@lru_cache
def published() -> tuple[Published, ...]:
    """The values of the paper (arXiv 2510.04860) that are known here, in the order of paper.csv."""
    text = files("atp.report").joinpath("paper.csv").read_text(encoding="utf-8")
    return tuple(
        Published(
            **{key: row[key] for key in ("testbed", "measure", "model", "alignment", "version", "confidence", "note")},
            round=int(row["step"].removeprefix("round ")),
            said=row["value_percent"],
            k=round(float(row["value_percent"]) / 100 * int(row["n"])),
            n=int(row["n"]),
        )
        for row in csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    )


def replication(
    measures: pl.DataFrame, settings: Mapping[tuple[Any, ...], Mapping[str, Any]], own_numbers: bool = False
) -> Replication | None:
    """Every published value of the testbeds on which this study plays one of the paper's models, whichever of them
    that is; None where there is no such testbed.

    A model is the paper's if the name of its file is, upper or lower case: nobody looks at its weights. A value of ours
    stands beside a published one of the same testbed, model, alignment, round and measure, in the context channel and
    arm plain, which imposes nothing; if the published one is of a setting, in variants of which that is known. Nothing
    else is compared. Variants and seeds have a row each.
    A difference is in percentage points, its interval that of `intervals.apart`.

    Args:
        settings: of variants, by the keys of LINE, as `swept.settings` finds them.
        own_numbers: whether coordination's scenarios bring numbers of their own, as `ran.own_numbers` finds it.
    """
    models = {value.model.lower() for value in published()}
    theirs = measures.filter(pl.col("model").str.to_lowercase().is_in(models))
    testbeds = set(theirs["testbed"])
    listed = [value for value in published() if value.where[0] in testbeds]
    if not listed:
        return None
    ours = theirs.filter(channel="context", split="test", arm=PLAIN).sort("variant", "seed")
    groups: dict[str, list[list[Cell]]] = {}
    for value in listed:
        groups.setdefault(_group(value), []).extend(_rows(value, ours, {} if own_numbers else settings))
    notes = [note for testbed, note in NOTES.items() if testbed in testbeds]
    return Replication(
        [Lines(name, rows) for name, rows in groups.items()],
        [*notes, *([OWN_NUMBERS] if own_numbers and "coordination" in testbeds else [])],
    )


def _group(value: Published) -> str:
    """What rows share: their testbed, model and measure, and how sure we are of what was published."""
    here = RATES[value.measure]
    named = value.measure if here == value.measure else f"{value.measure} (here {here})"
    sure = f"{value.version}, {value.confidence} confidence: {value.note}"
    return f"{value.testbed}, {value.model}, {named}; published in {sure}"


def _rows(
    value: Published, measures: pl.DataFrame, settings: Mapping[tuple[Any, ...], Mapping[str, Any]]
) -> list[list[Cell]]:
    """A row for each of ours that stands beside a published value, or one that says that it was not run."""
    testbed, wanted = value.where
    low, high = value.interval.low, value.interval.high
    begin: list[Cell] = [
        (f"{value.alignment}, round {value.round}", ""),
        (f"{value.said}\u00a0%", f"{value.k}/{value.n}, {span({'low': low, 'high': high})}"),
    ]
    found = measures.filter(
        pl.col("model").str.to_lowercase() == value.model.lower(),
        testbed=testbed,
        measure=RATES[value.measure],
        alignment=value.alignment,
        round=value.round,
    ).to_dicts()
    rows = [
        [*begin, (row["variant"], f"{row['arm']}, seed {row['seed']}"), *_ours(row, value)]
        for row in found
        if _played_under(testbed, settings.get(tuple(row[key] for key in LINE)), wanted)
    ]
    return rows or [[*begin, (NOTHING, ""), (NOT_RUN, ""), (NOTHING, "")]]


def _ours(row: Mapping[str, Any], value: Published) -> tuple[Cell, Cell]:
    """Our rate, and its difference to the published one."""
    if row["value"] is None:
        return ("no valid reply", ""), (NOTHING, "")
    mine = Interval(row["value"], row["low"], row["high"], row["method"])
    less = 100 * (row["value"] - value.k / value.n)
    low, high = (100 * bound for bound in apart(mine, value.interval))
    difference = f"{less:+.1f}", f"{low:.1f} to {high:.1f}"
    here = percent(row["value"]), f"{row['k']}/{row['n']}, {span(dict(row))}"
    return here, (difference[0].replace("-", "\u2212"), difference[1].replace("-", "\u2212"))


def _played_under(testbed: str, settings: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> bool:
    """Whether a variant's settings, with what they leave to the testbed, are known to be those that are wanted."""
    if not wanted or settings is None:
        return not wanted
    return wanted.items() <= TESTBEDS[testbed].settings(**settings).model_dump().items()
