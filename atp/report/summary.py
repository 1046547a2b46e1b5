"""The report's first screen: the answer to its question, the changes behind it, and what is not shown."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import polars as pl

from atp.files.schemas import EMPTIED, SERIES, WITH_MEMORY
from atp.measures.alignment import NONE
from atp.measures.conditions import BASELINE
from atp.measures.seeds import SEED, over_seeds
from atp.measures.tipping import FLAT, RECOVERY
from atp.measures.trainings import ONE_TRAINING
from atp.report.conditions import CHANNELS, points
from atp.report.primary import Registration
from atp.report.verdict import FELL, OPEN, ROSE, Finding, Line, name_lines

#: Maximum number of series in the summary, which is one screen.
MAX_ROWS = 12
#: What the question is about, where a study has it: agents that are not scripted, that are aligned, in the baseline.
ABOUT: Sequence[Callable[[Mapping[str, Any]], bool]] = (
    lambda series: not series["model"].startswith("scripted:"),
    lambda series: series["alignment"] != NONE,
    lambda series: series["condition"] == BASELINE,
)
#: A change in both directions.
TURNED = "turned"
#: What a series shows -> words after "the violation rate"; the remaining ones show neither a change nor its absence.
KINDS = {
    ROSE: "rises in",
    RECOVERY: "rises and falls back in",
    TURNED: "changes in both directions in",
    FELL: "falls in",
    FLAT: "stays flat in",
}
COLUMNS = ("series", "points (95 % interval)", "verdict")
_KEYS = [key for key in (*SERIES, "channel") if key != SEED]


@dataclass(frozen=True)
class Row:
    """A series of the summary: its change in points with the interval, and where both are drawn.

    Args:
        direction: as that of a `Line`.
        places: the low end, the change and the high end, in per cent of the width of the drawing; 50 is no change.
    """

    name: str
    change: str
    interval: str
    verdict: str
    direction: str
    places: tuple[float, float, float]


@dataclass(frozen=True)
class Summary:
    """The answer, a sentence about it, the rows of its chart, and sentences about what is not shown.

    Args:
        total: number of series that the answer is about; `rows` has up to MAX_ROWS of them.
        extent: the largest change that the drawing has room for, in points.
    """

    answer: str
    text: str
    rows: list[Row]
    total: int
    extent: int
    not_shown: list[str]


def summarize(
    findings: Sequence[Finding], measures: pl.DataFrame, corrected: str, invalid: str, registration: Registration
) -> Summary:
    """Return the summary of a study.

    Args:
        findings: those of `verdict.findings`.
        measures: rows of MEASURES.
        corrected, invalid: the sentences of `discoveries` and `invalid_words`.
    """
    lines = every = [line for finding in findings for line in finding.lines]
    for is_about in ABOUT:
        lines = [line for line in lines if is_about(line.series)] or lines
    kinds = Counter(map(_kind, lines))
    changes = _of_series(measures, "change", lines)
    shown, extent = _rows(lines, changes)
    not_shown = [
        _undecided(kinds[""], _of_series(measures, "detectable_change", [each for each in lines if not _kind(each)])),
        corrected,
        invalid,
        _hypotheses(registration),
    ]
    text = _sentence(kinds, lines, every, changes) if lines else "No series has two points to compare."
    return Summary(_answer(kinds), text, shown, len(lines), extent, [sentence for sentence in not_shown if sentence])


def _kind(line: Line) -> str:
    """Return the key of KINDS that a series has; empty if it shows neither a change nor its absence."""
    labels = {*(line.by_seed or [line.verdict])}
    if line.direction in (ROSE, FELL):
        return line.direction
    if line.direction == OPEN or len(labels) > 1:
        return ""
    label = labels.pop()
    return label if label in (FLAT, RECOVERY) else TURNED


def _answer(kinds: Counter[str]) -> str:
    if not kinds:
        return "Not measured"
    if any(kinds[kind] for kind in (ROSE, RECOVERY, TURNED)):
        return "No" if kinds[ROSE] == kinds.total() else "Not in every series"
    return "Not shown" if kinds[""] else "Yes, in every series"


def _sentence(kinds: Counter[str], lines: list[Line], every: list[Line], changes: list[dict[str, Any]]) -> str:
    """Return how many series change in which direction, and the smallest and the largest change."""
    aligned = " of aligned agents" if all(ABOUT[1](line.series) for line in lines) else ""
    only = all(ABOUT[2](line.series) for line in lines) and not all(ABOUT[2](line.series) for line in every)
    baseline = " in the baseline condition" if only else ""
    counts = [f"{words} {kinds[kind]}" for kind, words in KINDS.items() if kinds[kind]]
    counts += [f"is not shown to change or to stay flat in {kinds['']}"] if kinds[""] else []
    text = f"Of {len(lines)} series{aligned}{baseline}, the violation rate {_and(counts)}."
    measured = sorted((row for row in changes if row["value"] is not None), key=lambda row: row["value"])
    if not measured:
        return text
    ends = " to ".join(" ".join(_points(row)) for row in (measured[0], measured[-1])[: len(measured)])
    return (
        f"{text} The change, in points with its 95\u00a0% interval, {'ranges from' if measured[1:] else 'is'} {ends}."
    )


def _and(parts: list[str]) -> str:
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if parts[1:] else parts[0]


def _points(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return a change in points and its interval, without the spread between seeds."""
    value, interval = points({**row, "least": None})
    return value, f"({interval or 'no interval'})"


def _of_series(measures: pl.DataFrame, measure: str, lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Return a measure of each line's series on the test split, over seeds, with the columns `name` and `verdict`."""
    rows = over_seeds(measures.filter(measure=measure, split="test")).unique(_KEYS, keep="last", maintain_order=True)
    if not lines or not len(rows):
        return []
    keys = pl.DataFrame([{**line.series, "verdict": line.verdict} for line in lines])
    joined = keys.join(rows, on=_KEYS, how="left", maintain_order="left")
    swept = (pl.col("channel") == "context") & (pl.col("variant") != "default")
    of_memory = pl.col("variant").replace({WITH_MEMORY: "with memory", EMPTIED: "memory emptied"})
    places = pl.when(swept).then("variant").when(pl.col("channel") == "memory").then(of_memory)
    place = places.otherwise(pl.col("channel").replace_strict(CHANNELS))
    testbed = pl.col("testbed").str.replace_all("_", " ")
    named = name_lines(joined.with_columns(testbed=testbed, variant=place, seed=0), "testbed")
    return named.with_columns(pl.col("name").str.replace(", alignment ", ", ")).to_dicts()


def _rows(lines: Sequence[Line], changes: Sequence[dict[str, Any]]) -> tuple[list[Row], int]:
    """Return up to MAX_ROWS rows, of all testbeds and channels in turn, and the extent of their drawing."""
    groups: Counter[tuple[str, str]] = Counter()
    ranks = []
    for row in changes:
        ranks.append(groups[row["testbed"], row["channel"]])
        groups[row["testbed"], row["channel"]] += 1
    selected = sorted(sorted(range(len(changes)), key=lambda at: (ranks[at], at))[:MAX_ROWS])
    drawn = [(lines[at], row) for at in selected if (row := changes[at])["value"] is not None]
    ends = [abs(row[end] or 0.0) for _, row in drawn for end in ("low", "value", "high")]
    extent = min(100, max(10, 10 * ceil(10 * max(ends, default=0.0))))
    rows = []
    for line, row in drawn:
        ends = [row["value"] if row[end] is None else row[end] for end in ("low", "value", "high")]
        low, middle, high = (50 + 5000 * end / extent for end in ends)
        rows.append(Row(row["name"], *_points(row), line.verdict, line.direction, (low, middle, high)))
    return rows, extent


def _undecided(number: int, detectable: Sequence[Mapping[str, Any]]) -> str:
    """Return a sentence about the series that show neither a change nor its absence."""
    if not number:
        return ""
    several = [row["value"] for row in detectable if row["verdict"] != ONE_TRAINING]
    once = f" ({len(detectable) - len(several)} of them about one training)" if len(several) < len(detectable) else ""
    text = f"In {number} series{once} neither a change nor its absence is shown, which is no sign of safety"
    values = [value for value in several if value is not None]
    return (
        f"{text}: changes of up to {100 * max(values):.1f} points could have gone unnoticed." if values else f"{text}."
    )


def _hypotheses(registration: Registration) -> str:
    """Return a sentence about the hypotheses that were fixed beforehand."""
    if not registration.rows:
        return registration.note
    counts = Counter(result.partition(":")[0] for _, result, *_ in registration.rows)
    results = ", ".join(f"{count} {result}" for result, count in counts.items())
    return f"Hypotheses {'that were changed' if registration.changed else 'fixed beforehand'}: {results}."
