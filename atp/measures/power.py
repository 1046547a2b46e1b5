"""How often the verdict is right, and how many scenarios it needs: by simulation."""

from typing import Any

import polars as pl
from rich.console import Console
from rich.table import Table

from atp.errors import AtpError
from atp.measures.simulate import TRUTHS, Design, hit_rates
from atp.measures.tipping import BOUND, FLAT, UNDECIDED, VERDICTS
from atp.progress import Progress

SCENARIOS = (32, 64, 128, 256, 512)
REPLICATES = 400
#: Replies of a simulated line that still fit into memory.
MOST = 10_000_000
#: Numbers of scenarios that `needed` looks at: each half as many again as the last, or a third.
LADDER = tuple(size for power in range(3, 11) for size in (2**power, 3 * 2 ** (power - 1)))


def power_table(
    design: Design,
    scenarios: tuple[int, ...] = SCENARIOS,
    replicates: int = REPLICATES,
    seed: int = 0,
    bound: float = BOUND,
) -> pl.DataFrame:
    """`hit_rates` for each truth and number of scenarios, with progress."""
    progress = Progress("power", len(TRUTHS) * len(scenarios), "rows")
    rows = []
    for truth in TRUTHS:
        for size in scenarios:
            rows.append(hit_rates(truth, size, design, replicates, seed, bound))
            progress.advance(1)
    return pl.concat(rows)


def needed(
    truth: str, power: float, design: Design, replicates: int = REPLICATES, seed: int = 0, bound: float = BOUND
) -> pl.DataFrame:
    """The row of `hit_rates` of the fewest scenarios on LADDER with which that share of lines gets the right verdict.

    Found by halving, which takes power to grow with scenarios. Empty where the last of LADDER is not enough.
    """
    low, high, found = 0, len(LADDER), pl.DataFrame()
    while low < high:
        middle = (low + high) // 2
        row = hit_rates(truth, LADDER[middle], design, replicates, seed, bound)
        if row["k"][0] >= power * replicates:
            high, found = middle, row
        else:
            low = middle + 1
    return found


def print_power(
    design: Design,
    scenarios: tuple[int, ...] = SCENARIOS,
    power: float | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
    bound: float = BOUND,
) -> None:
    """The table on a terminal, and below it, for a wanted power, how many scenarios each verdict needs.

    Raises:
        AtpError: fewer than 2 scenarios, no replicates, or a power that is no share.
    """
    if not 0 < bound < 1:
        raise AtpError(f"bound {bound:g}: must lie between 0 and 1, and be neither")
    if min(scenarios, default=0) < 2 or replicates < 1:
        raise AtpError("scenarios: at least 2; replicates: at least 1")
    if max(scenarios) * design.samples * design.rounds > MOST:
        raise AtpError(f"scenarios x samples x rounds: at most {MOST:,}")
    if power is not None and not 0 < power < 1:
        raise AtpError(f"power {power}: must lie between 0 and 1, and be neither")
    console = Console(highlight=False)
    console.print(f"Verdicts on {replicates} simulated lines of n scenarios; alarms: a change that is not so")
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("truth", no_wrap=True)
    for heading in ("n", *VERDICTS, "% right (95 %)", "alarms"):
        table.add_column(heading, justify="right", no_wrap=True)
    rows = power_table(design, scenarios, replicates, seed, bound).with_columns(share=pl.col("k") / pl.col("n"))
    for row in rows.iter_rows(named=True):
        right = "{:.1f} ({:.1f} to {:.1f})".format(*(100 * row[end] for end in ("share", "low", "high")))
        counts = [str(row[word]) for word in VERDICTS]
        table.add_row(row["truth"], str(row["scenarios"]), *counts, right, str(false_alarms(row)))
    console.print(table)
    if power is None:
        return
    progress = Progress("scenarios needed", len(TRUTHS), "verdicts")
    for truth in TRUTHS:
        found = needed(truth, power, design, replicates, seed, bound)
        progress.advance(1)
        said = f"more than {LADDER[-1]}"
        for row in found.iter_rows(named=True):
            said = f"{row['scenarios']} ({row['k']} of {row['n']} right)"
        console.print(f"{truth}: scenarios for a power of {100 * power:.0f} %: {said}")


def false_alarms(row: dict[str, Any]) -> int:
    """Lines of a row of `hit_rates` that got a verdict of change that is not theirs."""
    return sum(row[word] for word in VERDICTS if word not in (FLAT, UNDECIDED, row["truth"]))
