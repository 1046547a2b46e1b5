"""What alignment changes at the beginning and at the end of experience, as findings and figures."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from atp.files.schemas import SERIES
from atp.measures.alignment import (
    BELOW_START,
    BELOW_START_SHARE,
    CONVERGED,
    CONVERGENCE,
    CONVERGENCE_BOUND,
    GAP,
    GAP_CHANGE,
    GAP_CHANGE_LOG_ODDS,
    NONE,
    NOT_SHOWN,
)
from atp.measures.seeds import SEED, over_seeds
from atp.measures.tipping_series import DEPENDS
from atp.report import spread
from atp.report.conditions import points
from atp.report.figures import Figure, bars
from atp.report.verdict import Finding, Line, bounds_note, counts_text, name_lines, percent, rate_text, span

BEFORE, ALIGNED = "unaligned at first", "aligned at first"
MINUS = "\u2212"
#: Channel -> its name in a sentence, and the column that orders its points.
CHANNELS = {
    "context": ("in context", "round"),
    "weights": ("in the weights", "generation"),
    "memory": ("in memory", "generation"),
}
_UNALIGNED_KEYS = [key for key in SERIES if key != "alignment"]
_OF_END = (GAP_CHANGE, GAP_CHANGE_LOG_ODDS, BELOW_START, BELOW_START_SHARE, CONVERGENCE)

#: A series' name, channel and axis, and rows of measures: of the rates `before`, `aligned`, `unaligned_end`, `end`; of
#: the gaps `first_gap` and `last_gap`; and of _OF_END. Rows that do not exist are None.
Effect = dict[str, Any]


def effects(measures: pl.DataFrame) -> list[Effect]:
    """Return the effect of alignment on each aligned series, over the seeds that it was run with."""
    keys = [key for key in (*SERIES, "channel") if key != SEED]
    parts = []
    for values, gaps in measures.filter(measure=GAP).group_by(keys, maintain_order=True):
        place = dict(zip(keys, values, strict=True))
        same = pl.all_horizontal(pl.col(key) == place[key] for key in keys if key != "alignment")
        aligned = pl.col("alignment").is_in([NONE, place["alignment"]])
        seeds = pl.col(SEED).is_null() | pl.col(SEED).is_in(gaps[SEED].unique().to_list())
        parts.append((place, over_seeds(measures.filter(same, aligned, seeds))))
    if not parts:
        return []
    gaps = pl.concat([rows.filter(measure=GAP) for _, rows in parts])
    names = name_lines(gaps.with_columns(pl.lit(None, pl.Int64).alias(SEED)), "alignment").unique(keys)
    rows = [
        _effect(str(names.filter(**place)["name"][0]), place["channel"], part.filter(split="test"))
        for place, part in parts
    ]
    return sorted(rows, key=lambda effect: (list(CHANNELS).index(effect["channel"]), effect["name"]))


def _effect(name: str, channel: str, rows: pl.DataFrame) -> Effect:
    axis = CHANNELS[channel][1]
    gaps = rows.filter(measure=GAP).sort(axis)
    first, last = gaps.row(0, named=True), gaps.row(-1, named=True)
    ended = first[axis] < last[axis]
    rates = rows.filter(measure="violation_rate")

    def rate(at: Mapping[str, Any], aligned: bool) -> dict[str, Any]:
        alignment = first["alignment"] if aligned else NONE
        where = {key: at[key] for key in _UNALIGNED_KEYS} | {"generation": at["generation"], "round": at["round"]}
        return _matching(rates, where | {"alignment": alignment}).row(0, named=True)

    return {
        "name": name,
        "channel": channel,
        "axis": axis,
        "before": rate(first, aligned=False),
        "aligned": rate(first, aligned=True),
        "first_gap": first,
        "unaligned_end": rate(last, aligned=False) if ended else None,
        "end": rate(last, aligned=True) if ended else None,
        "last_gap": last if ended else None,
        **{measure: next(rows.filter(measure=measure).iter_rows(named=True), None) for measure in _OF_END},
    }


def _matching(rows: pl.DataFrame, keys: Mapping[str, Any]) -> pl.DataFrame:
    return rows.filter(*(pl.col(key).eq_missing(value) for key, value in keys.items()))


def alignment_finding(rows: list[Effect]) -> list[Finding]:
    """Return the finding about alignment; no finding if no agent was aligned."""
    lines = [_line(effect) for effect in rows]
    return [Finding("Effect of alignment at first, and at the end", lines)] if lines else []


def _line(effect: Effect) -> Line:
    first, last, axis = effect["first_gap"], effect["last_gap"], effect["axis"]
    name = f"{effect['name']}, {CHANNELS[effect['channel']][0]}"
    effect_at_first = {1: "lowers", -1: "raises", 0: "is not shown to lower"}[_sign(first)] + " the rate at first"
    rates = _rates_at(effect, "before", "aligned", first[axis])
    evidence = f"Unaligned {rate_text(effect['before'])}, aligned {rate_text(effect['aligned'])}"
    evidence += f"; gap {_points(first)} points"
    if last is None:
        return Line(name, effect_at_first, rates, evidence + _note(first))
    rates += f"; {_rates_at(effect, 'unaligned_end', 'end', last[axis])}"
    ends = [rate_text(effect[name]) for name in ("unaligned_end", "end")]
    evidence += f"; then {' and '.join(ends)}, gap {_points(last)} points"
    if change := effect[GAP_CHANGE]:
        log_odds = effect[GAP_CHANGE_LOG_ODDS]
        evidence += f"; the gap {_changed(change)}: {_points(change)} points, {_log_odds(log_odds)} in log-odds"
    label, reason = _convergence(effect)
    evidence += f"; {reason.replace('-', MINUS)}{_note(last)}"
    return Line(name, _words(label), f"Alignment {effect_at_first}. {_now(effect)} ({rates})", evidence)


def _rates_at(effect: Effect, unaligned: str, aligned: str, point: int) -> str:
    rates = [percent(effect[each]["value"]) for each in (aligned, unaligned)]
    return f"aligned {rates[0]}, unaligned {rates[1]} at {effect['axis']} {point}"


def _now(effect: Effect) -> str:
    """Return how the aligned agent at the end compares with the unaligned one at first, and at the end."""
    than = {1: "less than", -1: "more than"}
    below, gap = _sign(effect[BELOW_START]), _sign(effect["last_gap"])
    if below:
        now = f"{than[gap]} it does now" if gap else "is not shown to differ from it now"
        at_first = f"violates {than[below]} the unaligned agent did at first"
    else:
        now = f"violates {than[gap]} it does now" if gap else "nor from it now"
        at_first = "is not shown to differ from the unaligned agent at first"
    return f"At the end the agent {at_first}, {'yet' if below < 0 < gap else 'and'} {now}".replace(", and nor", ", nor")


def _words(label: str) -> str:
    words = {CONVERGED: f"converged to within {100 * CONVERGENCE_BOUND:.0f} points", NOT_SHOWN: "convergence not shown"}
    return words.get(label, label)


def _convergence(effect: Effect) -> tuple[str, str]:
    """Return the label of convergence, and its reason."""
    row = effect[CONVERGENCE]
    return (row["label"], row["reason"]) if row else (NOT_SHOWN, "an agent has no valid reply at the last point")


def _changed(row: Mapping[str, Any]) -> str:
    return {1: "grew", -1: "shrank", 0: "is not shown to change"}[_sign(row)]


def _sign(row: Mapping[str, Any] | None) -> int:
    """Return the sign of a difference whose interval excludes 0, whatever invalid replies would have been, else 0."""
    if row is None or row["low"] is None or row["label"] == DEPENDS:
        return 0
    return 1 if row["low"] > 0 else -1 if row["high"] < 0 else 0


def _note(row: Mapping[str, Any]) -> str:
    return "; one training: intervals are for other scenarios" if spread.trained_once(row) else ""


def alignment_figures(rows: list[Effect]) -> list[Figure]:
    """Return a figure for each channel with an aligned agent."""
    by_channel = {channel: [effect for effect in rows if effect["channel"] == channel] for channel in CHANNELS}
    return [_figure(channel, each) for channel, each in by_channel.items() if each]


def _figure(channel: str, rows: list[Effect]) -> Figure:
    where, axis = CHANNELS[channel]
    ends = [f"{agent} at the last {axis}" for agent in ("unaligned", "aligned")]
    steps = [BEFORE, ALIGNED, *ends]
    drawn, table = [], []
    for effect in rows:
        rates = [effect[point] for point in ("before", "aligned", "unaligned_end", "end")]
        drawn += [
            {**row, "name": effect["name"], "before": step} for step, row in zip(steps, rates, strict=True) if row
        ]
        texts = [_rate(row) if row else "–" for row in rates]
        gaps = [effect["first_gap"], effect["last_gap"], effect[GAP_CHANGE]]
        log_odds, below = effect[GAP_CHANGE_LOG_ODDS], effect[BELOW_START]
        label = _convergence(effect)[0] if effect["last_gap"] else "–"
        cells = [*texts[:2], _points(gaps[0]), *texts[2:], *map(_points, gaps[1:]), _log_odds(log_odds)]
        table.append([effect["name"], *cells, label, _points(below)])
        table += _spreads(*rates[:2], gaps[0], *rates[2:], *gaps[1:], log_odds, None, below)
    chart_rows = pl.DataFrame(drawn, infer_schema_length=None)
    return Figure(
        f"alignment_{channel}",
        f"Effect of alignment at first, and at the end, {where}",
        f"Violation rates on the test split, of the unaligned and of the aligned agent, at the first {axis} and at the "
        f"last {axis} whose prompts have the same sentence about supervision. The gap is the unaligned agent's rate "
        "minus the aligned agent's at the same point, in percentage points; its change is also given in log-odds. The "
        "agents have converged if the gap's interval at the end lies within 10 points. The last column compares the "
        "aligned agent's end with the unaligned agent's beginning. Intervals draw the same scenarios for all rates. "
        f"A number that {DEPENDS} has its interval at their bounds, where those of one agent, or of one point, are all "
        "violations and the others none. "
        f"{spread.describe_bars(chart_rows)}",
        bars(chart_rows, steps, "", "violation rate"),
        [
            *("series", BEFORE, ALIGNED, "gap at first, points", *ends, "gap at the end, points"),
            *("change of the gap, points", "in log-odds", "converged", "end below unaligned start, points"),
        ],
        table,
    )


def _spreads(*rows: dict[str, Any] | None) -> list[list[str]]:
    """Return further table rows for several seeds: each number's interval and its spread between seeds."""
    if not any(row and spread.between(row) for row in rows):
        return []
    table = [[spread.INTERVAL], *([heading] for heading in spread.BETWEEN)]
    for row in rows:
        share = row is None or row["measure"] != GAP_CHANGE_LOG_ODDS
        interval = span(row) if row and share else "–" if row is None else _log_odds(row).partition(" ")[2].strip("()")
        texts = ["–"] * 4 if row is None else [interval, *spread.between(row, share)]
        # The columns of differences are in points already.
        unit = "" if row and row["measure"] == "violation_rate" else "\u00a0%"
        for line, text in zip(table, texts, strict=True):
            line.append(text.removesuffix(unit).replace("-", "\u2212") if unit else text)
    return table


def _rate(row: Mapping[str, Any]) -> str:
    """Return a rate with its counts, and its bounds for invalid replies if there are any."""
    details = "; ".join(filter(None, (counts_text(row), bounds_note(row))))
    return f"{percent(row['value'])} ({details})"


def _points(row: dict[str, Any] | None) -> str:
    """Return a difference of rates in percentage points, with its interval."""
    value, details = points(row and {**row, "least": None})
    return f"{value} ({details})" if row else value


def _log_odds(row: Mapping[str, Any] | None) -> str:
    """Return a difference of log-odds, with its interval if it has one."""
    if row is None:
        return "–"
    interval = "" if row["low"] is None else f" ({row['low']:.2f} to {row['high']:.2f})"
    return f"{row['value']:.2f}{interval}".replace("-", "\u2212")
