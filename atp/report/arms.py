"""Arms beside plain: what of its change survives in each, and what each costs, as rows of two tables.

Knows measures and files' metadata; knows nothing of pages.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from atp.artifacts import CELL, read_provenance
from atp.measures import arms
from atp.measures.lines import LINE
from atp.measures.reset import AFTER
from atp.report.verdict import name_lines, percent, span

CHANNELS = {"context": "in context", "weights": "in the weights"}
SURVIVES = ["arm", "rate at first", "rate at last", "change, points", "plain's less this", "survives"]
COSTS = ["arm", "rate at last", "less plain's, points", "p (Holm)", "reward given up", "time", "tokens"]
RESETS = ["line", "rate at first", "before the history is emptied", "after it", "change that is left, points"]
UNSHOWN = "no change to attribute"
#: A model's folder of one generation, from the study's: model, testbed, alignment, seed, arm, generation, adapter.
DEEP = 7

#: What a cell's arm took on a channel, by the keys of CELL and the channel: seconds and tokens.
Spent = Mapping[tuple[Any, ...], tuple[float, float]]


#: What a cell of a table says, and what that rests on, in lines that "; " parts.
Cell = tuple[str, str]


@dataclass(frozen=True)
class Lines:
    """Plain and the arms beside it, a row each, under the name of what they share."""

    name: str
    rows: list[list[Cell]]


def compared(measures: pl.DataFrame, spent: Spent) -> tuple[list[Lines], list[Lines]]:
    """The rows of SURVIVES and those of COSTS; none where plain has no arm beside it. With several seeds they are of
    all of these together, and the smallest and the largest seed's value stand with each.
    """
    found = _of_seeds(measures.filter(pl.col("measure").is_in(arms.OF_ARMS)))
    beside = found.filter(pl.col("arm") != arms.PLAIN)
    found = found.join(beside, on=[key for key in (*LINE, "channel") if key != "arm"], how="semi", nulls_equal=True)
    if not len(found):
        return [], []
    where = pl.col("channel").replace_strict(CHANNELS)
    unnamed = (pl.col("channel") == "weights") | (pl.col("variant") == "default")
    variant = pl.when(unnamed).then(where).otherwise(pl.concat_str([where, "variant"], separator=", "))
    named = name_lines(found.with_columns(played="arm", arm=pl.lit(""), variant=variant), "variant")
    survives, costs = [], []
    for (name,), line in named.group_by("name", maintain_order=True):
        cell = [line.row(0, named=True)[key] for key in (*CELL, "channel")]
        by_arm = {
            str(arm): {row["measure"]: row for row in rows.to_dicts()}
            for (arm,), rows in line.group_by("played", maintain_order=True)
        }
        own = {arm: _spent(spent, (*cell[:3], arm, *cell[4:])) for arm in by_arm}
        survives.append(Lines(str(name), [_survives(arm, rows) for arm, rows in by_arm.items()]))
        costs.append(Lines(str(name), [_costs(arm, rows, own[arm], own[arms.PLAIN]) for arm, rows in by_arm.items()]))
    return survives, costs


def _of_seeds(found: pl.DataFrame) -> pl.DataFrame:
    """Rows of all seeds, with `least` and `most` of each; of the one seed, where there are not several."""
    if not found["seed"].null_count():
        return found.with_columns(least=pl.lit(None, pl.Float64), most=pl.lit(None, pl.Float64))
    keys = [*(key for key in LINE if key != "seed"), "channel", "measure"]
    each = found.filter(pl.col("seed").is_not_null()).group_by(keys)
    ends = each.agg(least=pl.col("value").min(), most=pl.col("value").max())
    return found.filter(pl.col("seed").is_null()).join(ends, on=keys, how="left")


def _spent(spent: Spent, keys: tuple[Any, ...]) -> tuple[float, float]:
    """What a cell's arm took; of all seeds where the keys have none."""
    seed = CELL.index("seed")
    same = [took for key, took in spent.items() if (*key[:seed], keys[seed], *key[seed + 1 :]) == keys]
    mine = same if keys[seed] is None else [spent.get(keys, (0.0, 0.0))]
    return sum(seconds for seconds, _ in mine), sum(tokens for _, tokens in mine)


def emptied(measures: pl.DataFrame) -> list[Lines]:
    """The rows of RESETS, one a line whose history was emptied, in the weights one a generation after 0; a group for
    each channel.
    """
    found = measures.filter(measure=AFTER).filter((pl.col("channel") == "context") | (pl.col("generation") > 0))
    rates = measures.filter(measure="violation_rate", split="test")
    groups = []
    for (channel,), mine in found.sort("channel").group_by("channel", maintain_order=True):
        named = name_lines(mine.with_columns(played="variant", variant=pl.lit("")), "arm")
        rows = []
        for row in named.sort("name", "generation").to_dicts():
            line = {key: row[key] for key in (*CELL, "channel")} | {"variant": row["played"]}
            places = ((0, 1), (row["generation"], row["round"] - 1), (row["generation"], row["round"]))
            ends = [rates.filter(**line, generation=g, round=round).row(0, named=True) for g, round in places]
            name = row["name"] if channel == "context" else f"{row['name']}, generation {row['generation']}"
            rows.append([(name, ""), *map(_share, ends), points(row)])
        groups.append(Lines(CHANNELS[str(channel)], rows))
    return groups


def _survives(arm: str, rows: Mapping[str, dict[str, Any]]) -> list[Cell]:
    left = ("–", "" if arm == arms.PLAIN else UNSHOWN)
    if arms.CHANGE_LEFT in rows:
        left = _share(rows[arms.CHANGE_LEFT])
    rates = [_share(rows[measure] | {"low": None}) for measure in (arms.BEGIN, arms.END)]
    return [(arm, ""), *rates, points(rows.get(arms.CHANGE)), points(rows.get(arms.REMOVED)), left]


def _costs(
    arm: str, rows: Mapping[str, dict[str, Any]], own: tuple[float, float], plain: tuple[float, float]
) -> list[Cell]:
    p, given_up = rows.get(arms.P), rows.get(arms.GIVEN_UP)
    said = "–" if p is None else f"{p['value']:.3f}" if p["value"] >= 0.001 else "< 0.001"
    times = [f"{mine / theirs:.2f}\u00a0×" if theirs else "–" for mine, theirs in zip(own, plain, strict=True)]
    return [
        (arm, ""),
        _share(rows[arms.END]),
        points(rows.get(arms.DIFFERENCE)),
        (said, ""),
        _share(given_up) if given_up else ("–", ""),
        *((time, "") for time in times),
    ]


def _share(row: dict[str, Any]) -> Cell:
    """A share in per cent, with its counts where it has some."""
    counts = "" if row["k"] is None else f"{row['k']}/{row['n']}"
    seeds = f"seeds {span({'low': row['least'], 'high': row['most']})}" if row.get("least") is not None else ""
    detail = ", ".join(part for part in (counts, "" if row["low"] is None else span(row)) if part)
    detail = "; ".join(part for part in (detail, seeds) if part)
    return _minus(percent(row["value"]), detail)


def points(row: dict[str, Any] | None) -> Cell:
    """A difference of rates in percentage points."""
    if row is None:
        return ("–", "")
    value, low, high = (f"{100 * row[name]:.1f}" for name in ("value", "low", "high"))
    seeds = f"; seeds {100 * row['least']:.1f} to {100 * row['most']:.1f}" if row.get("least") is not None else ""
    return _minus(value, f"{low} to {high}{seeds}")


def _minus(*texts: str) -> Cell:
    value, detail = (text.replace("-", "\u2212") for text in texts)
    return value, detail


def spent(turns: Sequence[Path], adapters: Sequence[Path], root: Path) -> Spent:
    """What each arm of a cell took on a channel: seconds, training among them, and tokens read and written in play.

    Raises:
        AtpError: an unreadable artifact.
    """
    total: dict[tuple[Any, ...], tuple[float, float]] = {}
    for path in (*turns, *adapters):
        found = read_provenance(path)
        cell, cost = found.get("params", {}).get("cell"), found.get("cost", {})
        parts = path.relative_to(root).parts if path in adapters else ()
        if len(parts) == DEEP:
            model, testbed, alignment, seed, arm, *_ = parts
            key: tuple[Any, ...] = (model, testbed, alignment, arm, int(seed.removeprefix("seed")), "weights")
        elif cell and not parts:
            key = (*(cell[name] for name in CELL), cell["channel"])
        else:
            continue
        seconds, tokens = total.get(key, (0.0, 0.0))
        more = cost.get("prompt_tokens", 0.0) + cost.get("completion_tokens", 0.0)
        total[key] = (seconds + cost.get("wall_seconds", 0.0), tokens + more)
    return total
