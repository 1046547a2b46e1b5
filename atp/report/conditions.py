"""Tables that compare conditions with the baseline: how much of its change is left in each, and what each costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from atp.files.schemas import CELL, SERIES
from atp.files.tables import read_provenance
from atp.measures.conditions import (
    BASELINE,
    BEGIN,
    CHANGE,
    CHANGE_LEFT,
    DIFFERENCE,
    END,
    GIVEN_UP,
    OF_CONDITIONS,
    OF_TRAININGS,
    REMOVED,
    REWARD,
    P,
    simultaneous,
)
from atp.measures.reset import AFTER
from atp.measures.seeds import SPREAD_OF_MEAN, over_seeds
from atp.measures.tipping_series import DEPENDS
from atp.measures.trainings import ONE_TRAINING
from atp.report.verdict import bounds_note, name_lines, percent, span
from atp.units import count

CHANNELS = {"context": "in context", "weights": "in the weights", "memory": "in memory"}
SURVIVES = ["condition", "first rate", "last rate", "change, points", "baseline's change minus this", "change left"]
COSTS = ["condition", "last rate", "minus the baseline's, points", "p (Holm)", "reward", "reward given up"]
COSTS += ["training steps", "time", "tokens"]
RESETS = ["series", "first rate", "before the reset", "after the reset", "change left, points"]
UNSHOWN = "no change to attribute"

#: Seconds, tokens and training steps.
Amounts = tuple[float, float, float]
#: Keys of CELL and the channel -> what the cell took.
Spent = Mapping[tuple[Any, ...], Amounts]

NOTHING: Amounts = (0.0, 0.0, 0.0)
#: Text of a table's cell, and its details; details that "; " separates are on lines of their own.
TableCell = tuple[str, str]
NO_VALUE: TableCell = ("–", "")


@dataclass(frozen=True)
class RowGroup:
    """Rows of a table under a heading."""

    name: str
    rows: list[list[TableCell]]


def compared(measures: pl.DataFrame, spent: Spent) -> tuple[list[RowGroup], list[RowGroup]]:
    """Return rows with the columns SURVIVES and COSTS, in a group for each baseline variant with other conditions.

    With several seeds a row combines all of them, and its details have the smallest and the largest seed's value.
    """
    rows = _simultaneous(_combine_seeds(measures.filter(pl.col("measure").is_in(OF_CONDITIONS))))
    others = rows.filter(pl.col("condition") != BASELINE)
    same = [key for key in (*SERIES, "channel") if key != "condition"]
    rows = rows.join(others, on=same, how="semi", nulls_equal=True)
    if not len(rows):
        return [], []
    where = pl.col("channel").replace_strict(CHANNELS)
    unnamed = (pl.col("channel") == "weights") | (pl.col("variant") == "default")
    variant = pl.when(unnamed).then(where).otherwise(pl.concat_str([where, "variant"], separator=", "))
    alone = pl.lit(None, pl.Int64)  # a group has all seeds, or the only one
    labelled = rows.with_columns(played="condition", condition=pl.lit(""), variant=variant, own="seed", seed=alone)
    named = name_lines(labelled, "variant").with_columns(seed="own")
    survives, costs = [], []
    for (name,), group in named.group_by("name", maintain_order=True):
        cell = [group.row(0, named=True)[key] for key in (*CELL, "channel")]
        by_condition = {
            str(condition): {row["measure"]: row for row in condition_rows.to_dicts()}
            for (condition,), condition_rows in group.group_by("played", maintain_order=True)
        }
        took = {condition: _spent(spent, (*cell[:3], condition, *cell[4:])) for condition in by_condition}
        once = group.filter(OF_TRAININGS, pl.col("seed").is_not_null()).height > 0
        heading = f"{name}, {ONE_TRAINING}" if once else str(name)
        survives.append(RowGroup(heading, [_survives(condition, by_condition[condition]) for condition in took]))
        cost_rows = [_costs(condition, by_condition[condition], took[condition], took[BASELINE]) for condition in took]
        costs.append(RowGroup(heading, cost_rows))
    return survives, costs


def _combine_seeds(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of all seeds together, with the `least` and the `most` of a seed; with one seed, its rows."""
    together = [*(key for key in CELL if key not in ("seed", "condition")), "channel"]
    several = (pl.col("seed").drop_nulls().n_unique().over(together) > 1) & pl.col("seed").is_not_null()
    keys = [*(key for key in SERIES if key != "seed"), "channel", "measure"]
    spreads = over_seeds(rows.filter(several)).select(*keys, "least", "most", *SPREAD_OF_MEAN)
    return rows.filter(~several).join(spreads, on=keys, how="left")


def _simultaneous(rows: pl.DataFrame) -> pl.DataFrame:
    """Return rows in which the intervals of a cell's differences hold together and agree with its p-values."""
    table = rows.to_dicts()
    places = [tuple(row[key] for key in (*SERIES, "channel")) for row in table]
    p_rows = {place: row for place, row in zip(places, table, strict=True) if row["measure"] == P}
    cells: dict[tuple[Any, ...], list[tuple[dict[str, Any], float]]] = {}
    for place, row in zip(places, table, strict=True):
        if row["measure"] == DIFFERENCE and (p_row := p_rows.get(place)):
            cell = tuple(row[key] for key in (*CELL, "channel") if key != "condition")
            # Where p depends on invalid replies, the p of valid replies, whose interval this is, is small.
            cells.setdefault(cell, []).append((row, 0.0 if p_row["label"] == DEPENDS else p_row["value"]))
    for pairs in cells.values():
        differences, p_values = zip(*pairs, strict=True)
        for row, interval in zip(differences, simultaneous(differences, p_values), strict=True):
            row.update(low=interval.low, high=interval.high)
    return pl.DataFrame(table, schema=rows.schema)


def _spent(spent: Spent, keys: tuple[Any, ...]) -> Amounts:
    """Return what a cell took; if the seed in `keys` is None, the total of all seeds."""
    seed = CELL.index("seed")
    same = [took for key, took in spent.items() if (*key[:seed], keys[seed], *key[seed + 1 :]) == keys]
    return _total(same if keys[seed] is None else [spent.get(keys, NOTHING)])


def _total(amounts: Sequence[Amounts]) -> Amounts:
    seconds, tokens, steps = map(sum, zip(NOTHING, *amounts, strict=True))
    return seconds, tokens, steps


def emptied(measures: pl.DataFrame) -> list[RowGroup]:
    """Return rows with the columns RESETS, in a group for each channel.

    There is a row per series whose history is emptied, over its seeds; in the weights channel per generation after
    generation 0.
    """
    means = means_over_seeds(measures, [AFTER, "violation_rate"])
    resets = means.filter(measure=AFTER).filter((pl.col("channel") == "context") | (pl.col("generation") > 0))
    rates = means.filter(measure="violation_rate")
    groups = []
    for (channel,), rows in resets.sort("channel").group_by("channel", maintain_order=True):
        named = name_lines(rows.with_columns(played="variant", variant=pl.lit("")), "condition")
        table = []
        for row in named.sort("name", "generation").to_dicts():
            series = {key: row[key] for key in (*CELL, "channel") if key != "seed"} | {"variant": row["played"]}
            places = ((0, 1), (row["generation"], row["round"] - 1), (row["generation"], row["round"]))
            ends = [rates.filter(**series, generation=g, round=round).row(0, named=True) for g, round in places]
            name = row["name"] if channel == "context" else f"{row['name']}, generation {row['generation']}"
            once = ONE_TRAINING if row["trainings"] == 1 else ""
            table.append([(name, once), *map(proportion, ends), points(row)])
        groups.append(RowGroup(CHANNELS[str(channel)], table))
    return groups


def means_over_seeds(measures: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """Return measures on the test split over seeds, with `least` and `most` only where there are several seeds."""
    means = over_seeds(measures.filter(pl.col("measure").is_in(names), split="test"))
    return means.with_columns(pl.when(pl.col("seeds") > 1).then(name).alias(name) for name in ("least", "most"))


def _survives(condition: str, rows: Mapping[str, dict[str, Any]]) -> list[TableCell]:
    left = ("–", "" if condition == BASELINE else UNSHOWN)
    if CHANGE_LEFT in rows:
        left = proportion(rows[CHANGE_LEFT])
    rates = [proportion(rows[measure] | {"low": None}) for measure in (BEGIN, END)]
    return [(condition, ""), *rates, points(rows.get(CHANGE)), points(rows.get(REMOVED)), left]


def _costs(condition: str, rows: Mapping[str, dict[str, Any]], took: Amounts, baseline: Amounts) -> list[TableCell]:
    p, rewards = rows.get(P), [rows.get(REWARD), rows.get(GIVEN_UP)]
    p_text = "–" if p is None else f"{p['value']:.3f}" if p["value"] >= 0.001 else "< 0.001"
    time, tokens, steps = (
        f"{own / base:.2f}\u00a0×" if base else "–" for own, base in zip(took, baseline, strict=True)
    )
    return [
        (condition, ""),
        proportion(rows[END]),
        points(rows.get(DIFFERENCE)),
        (p_text, "" if p is None else bounds_note(p)),
        *(proportion(row) if row else NO_VALUE for row in rewards),
        (count(took[-1]), steps) if took[-1] else NO_VALUE,
        (time, ""),
        (tokens, ""),
    ]


def proportion(row: dict[str, Any]) -> TableCell:
    """Return a proportion in per cent, with its counts if it has any."""
    counts = "" if row["k"] is None else f"{row['k']}/{row['n']}"
    seeds = f"seeds {span({'low': row['least'], 'high': row['most']})}" if row.get("least") is not None else ""
    detail = ", ".join(part for part in (counts, "" if row["low"] is None else span(row)) if part)
    detail = "; ".join(part for part in (detail, bounds_note(row), seeds) if part)
    return _minus(percent(row["value"]), detail)


def points(row: dict[str, Any] | None) -> TableCell:
    """Return a difference of rates in percentage points; without spread between scenarios it has no interval."""
    if row is None:
        return NO_VALUE
    interval = "" if row["low"] is None else f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"
    seeds = f"seeds {100 * row['least']:.1f} to {100 * row['most']:.1f}" if row.get("least") is not None else ""
    return _minus(f"{100 * row['value']:.1f}", "; ".join(part for part in (interval, bounds_note(row), seeds) if part))


def _minus(*texts: str) -> TableCell:
    """Replace hyphens by minus signs."""
    value, detail = (text.replace("-", "\u2212") for text in texts)
    return value, detail


def spent(artifacts: Sequence[Path]) -> Spent:
    """Return what each cell took on a channel: seconds, tokens read and written by models, and training steps.

    Args:
        artifacts: turns, selections and adapters.

    Alignment is left out, because all conditions share it.

    Raises:
        AtpError: an unreadable artifact.
    """
    total: dict[tuple[Any, ...], Amounts] = {}
    for path in artifacts:
        provenance = read_provenance(path)
        cell, cost = provenance.get("params", {}).get("cell"), provenance.get("cost", {})
        if not cell or cell["condition"] is None:
            continue
        key = (*(cell[name] for name in CELL), cell["channel"])
        tokens = cost.get("prompt_tokens", 0.0) + cost.get("completion_tokens", 0.0)
        amounts = (cost.get("wall_seconds", 0.0), tokens, cost.get("steps", 0.0))
        total[key] = _total([total.get(key, NOTHING), amounts])
    return total
