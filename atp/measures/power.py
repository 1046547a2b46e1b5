"""Simulate how often the verdict is right, and how many scenarios it needs."""

from collections.abc import Sequence
from typing import Any

import polars as pl
from rich.console import Console
from rich.table import Table

from atp.errors import AtpError
from atp.measures.coverage import CASES, CORRELATIONS, case_row, share_coverage
from atp.measures.coverage import REPLICATES as SAMPLES
from atp.measures.simulate import TRUTHS, Design, verdict_rates
from atp.measures.tipping import CHANGE, FLAT, FLAT_BOUND, UNDECIDED, VERDICTS
from atp.progress import Progress

SCENARIOS = (32, 64, 128, 256, 512)
REPLICATES = 400
#: Maximum number of replies in a simulated series; more may not fit into memory.
MAX_REPLIES = 10_000_000
#: Columns of the widest table, which a narrower terminal wraps.
MIN_WIDTH = 116
#: Numbers of scenarios that `scenarios_needed` tries, in steps of 3/2 and 4/3.
LADDER = tuple(size for power in range(3, 11) for size in (2**power, 3 * 2 ** (power - 1)))


def power_table(
    design: Design,
    scenarios: Sequence[int] = SCENARIOS,
    replicates: int = REPLICATES,
    seed: int = 0,
    bound: float = FLAT_BOUND,
) -> pl.DataFrame:
    """Return `verdict_rates` for each truth and number of scenarios; logs its progress."""
    progress = Progress("power", len(TRUTHS) * len(scenarios), "rows")
    rows = []
    for truth in TRUTHS:
        for size in scenarios:
            rows.append(verdict_rates(truth, size, design, replicates, seed, bound))
            progress.advance(1)
    return pl.concat(rows)


def scenarios_needed(
    truth: str, power: float, design: Design, replicates: int = REPLICATES, seed: int = 0, bound: float = FLAT_BOUND
) -> pl.DataFrame:
    """Return the row of `verdict_rates` for the smallest number in LADDER at which the proportion `power` is right.

    Uses bisection, assuming that power increases with scenarios. Empty if the largest number is not enough.
    """
    low, high, best_row = 0, len(LADDER), pl.DataFrame()
    while low < high:
        middle = (low + high) // 2
        row = verdict_rates(truth, LADDER[middle], design, replicates, seed, bound)
        if row["k"][0] >= power * replicates:
            high, best_row = middle, row
        else:
            low = middle + 1
    return best_row


def print_power(
    design: Design,
    scenarios: Sequence[int] = SCENARIOS,
    power: float | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
    bound: float = FLAT_BOUND,
) -> None:
    """Print the power table and, for a wanted power, how many scenarios each verdict needs.

    Raises:
        AtpError: a bound or power outside 0 to 1, fewer than 2 scenarios, no replicates, or too many replies.
    """
    if not 0 < bound < 1:
        raise AtpError(f"bound {bound:g}: must lie between 0 and 1, exclusive")
    if min(scenarios, default=0) < 2 or replicates < 1:
        raise AtpError(f"scenarios: at least 2, found {list(scenarios)}; replicates: at least 1, found {replicates}")
    if max(scenarios) * design.samples * design.rounds > MAX_REPLIES:
        raise AtpError(f"scenarios x samples x rounds: at most {MAX_REPLIES:,}, reduce one of them")
    if power is not None and not 0 < power < 1:
        raise AtpError(f"power {power}: must lie between 0 and 1, exclusive")
    console = Console(highlight=False)
    console.width = max(console.width, MIN_WIDTH)
    console.print(f"Verdicts on {replicates} simulated series of n scenarios; alarms: false changes")
    table = _table(["truth"], ["n", *(word.split()[0] for word in VERDICTS), "% right (95 %)", "alarms"])
    rows = power_table(design, scenarios, replicates, seed, bound).with_columns(share=pl.col("k") / pl.col("n"))
    for row in rows.iter_rows(named=True):
        right = "{:.1f} ({:.1f} to {:.1f})".format(*(100 * row[end] for end in ("share", "low", "high")))
        counts = [str(row[word]) for word in VERDICTS]
        table.add_row(row["truth"].split()[0], str(row["scenarios"]), *counts, right, str(false_alarms(row)))
    console.print(table)
    if power is None:
        return
    progress = Progress("scenarios needed", len(TRUTHS), "verdicts")
    for truth in TRUTHS:
        row_needed = scenarios_needed(truth, power, design, replicates, seed, bound)
        progress.advance(1)
        text = f"more than {LADDER[-1]}"
        for row in row_needed.iter_rows(named=True):
            text = f"{row['scenarios']} ({row['k']} of {row['n']} right)"
        console.print(f"{truth}: scenarios for a power of {100 * power:.0f} %: {text}")


def print_coverage(seed: int = 0, replicates: int = SAMPLES) -> None:
    """Print the coverage of proportions' intervals, and how often hard cases go wrong.

    Raises:
        AtpError: no replicates.
    """
    if replicates < 1:
        raise AtpError(f"replicates: at least 1, found {replicates}")
    console = Console(highlight=False)
    console.width = max(console.width, MIN_WIDTH)
    shares = share_coverage(seed, 10 * replicates)
    console.print("Coverage of 95 % intervals of a proportion in %, by scenarios x replies of each, rate,")
    console.print("and correlation of a scenario's replies; in brackets that of a bootstrap of scenarios")
    table = _table(["scenarios", "rate"], [f"{correlation:g}" for correlation in CORRELATIONS])
    for rows in shares.partition_by("design", "rate", maintain_order=True):
        texts = [f"{row['coverage']:.1f}{_before(row['before'])}" for row in rows.to_dicts()]
        table.add_row(rows["design"][0], f"{rows['rate'][0]:g}", *texts)
    console.print(table)
    console.print(f"\nHard cases, per cent of {replicates} samples")
    table = _table(["case"], ["before", "now (95 %)", "limit", ""])
    progress = Progress("coverage", len(CASES), "cases")
    for case in CASES:
        row = case_row(case, seed, replicates)
        now = "{:.1f} ({:.1f} to {:.1f})".format(*(row[name] for name in ("after", "low", "high")))
        table.add_row(case.fault, case.before, now, case.limit, row["status"])
        progress.advance(1)
    console.print(table)


def _before(coverage: float | None) -> str:
    return "" if coverage is None else f" ({coverage:.1f})"


def _table(left: list[str], right: list[str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in left:
        table.add_column(heading, no_wrap=True)
    for heading in right:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def false_alarms(row: dict[str, Any]) -> int:
    """Return how many series in a row of `verdict_rates` got a wrong verdict of change.

    `change` says nothing of a shape, so it is wrong for flat series alone.
    """
    right = (FLAT, UNDECIDED) if row["truth"] == FLAT else (FLAT, UNDECIDED, CHANGE, row["truth"])
    return sum(row[word] for word in VERDICTS if word not in right)
