"""How often a judge model and a testbed's rule agree."""

from pathlib import Path

import polars as pl

from atp.files.schemas import JUDGEMENTS
from atp.files.tables import read_table
from atp.measures.intervals import share


def agreement(judgements: Path) -> str:
    """Return one sentence: decisions on which judge and rule agree, out of those with a valid answer of the judge.

    The 95 % interval treats scenarios as clusters.
    """
    rows = pl.DataFrame(read_table(judgements, JUDGEMENTS, "judgements"))
    judged_rows = rows.filter(pl.col("judged").is_not_null())
    agrees = pl.col("judged") == pl.col("violation")
    scenarios = judged_rows.group_by("scenario_id", maintain_order=True).agg(k=agrees.sum(), n=pl.len())
    agreed = share(scenarios["k"].to_numpy(), scenarios["n"].to_numpy())
    counts = f"agrees with the rule in {scenarios['k'].sum()}/{len(judged_rows)} decisions"
    interval = "" if agreed.low is None else f" ({100 * agreed.low:.1f} to {100 * (agreed.high or 0):.1f} %)"
    return f"{counts}{interval}, {len(rows) - len(judged_rows)} answers of the judge invalid"
