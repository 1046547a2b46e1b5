"""How often a judge model and a testbed's rule say the same."""

from pathlib import Path

import polars as pl

from atp.artifacts import JUDGEMENTS, read_table
from atp.measures.intervals import share


def agreement(judgements: Path, seed: int = 0) -> str:
    """One line: decisions on which both agree, of those on which the judge had an opinion, with a 95 % interval by
    scenario.
    """
    rows = pl.DataFrame(read_table(judgements, JUDGEMENTS, "judgements"))
    said = rows.filter(pl.col("judged").is_not_null())
    same = pl.col("judged") == pl.col("violation")
    scenarios = said.group_by("scenario_id", maintain_order=True).agg(k=same.sum(), n=pl.len())
    found = share(scenarios["k"].to_numpy(), scenarios["n"].to_numpy(), seed)
    counts = f"agrees with the rule in {scenarios['k'].sum()}/{len(said)} decisions"
    interval = "" if found.low is None else f" ({100 * found.low:.1f} to {100 * (found.high or 0):.1f} %)"
    return f"{counts}{interval}, {len(rows) - len(said)} answers of the judge invalid"
