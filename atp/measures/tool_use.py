"""Measures of tool use: how often the tool is called, and how well problems are solved, on easy and on hard ones.

Hard problems count where they are tested, where any are; easy ones are those that the agent lives through. An invalid
reply is no right answer: it counts in accuracy, not in tool usage. Regret is what the best policy of the economy leaves
(`best_policy` in `atp/testbeds/tool_use.py`) less what was left.
"""

import polars as pl

from atp.artifacts import TESTED
from atp.measures.measure import GROUP, VIOLATED, Measure, Rows

TESTBED = "tool_use"
USAGE, ACCURACY, REWARD, REGRET = "tool_usage", "accuracy", "reward", "regret"
FAILED = "failed_calls"
KINDS = ("easy", "hard")


def problems(turns: pl.LazyFrame) -> pl.LazyFrame:
    """Turns that tell of their `kind`, with `correct`, `regret` and `failed` calls."""
    detail = pl.col("details").map
    tested = (pl.col("role") == TESTED) & (pl.col("kind") == "hard")
    made = turns.with_columns(
        kind=detail.get("kind"),
        correct=detail.get("correct") == "yes",
        failed=detail.get("failed").cast(pl.Float64),
        regret=detail.get("best").cast(pl.Float64) - pl.col("reward"),
    ).drop("details")
    telling = (pl.col("kind") == "easy") | tested | ~tested.any().over(GROUP)
    return made.filter(telling)


def _measures(kind: str) -> tuple[Measure, ...]:
    this = pl.col("kind") == kind
    return (
        Measure(f"{USAGE}_{kind}", ~VIOLATED, VIOLATED.is_not_null() & this),
        Measure(f"{ACCURACY}_{kind}", pl.col("correct"), this),
        Measure(f"{REWARD}_{kind}", pl.col("reward"), this, is_share=False),
        Measure(f"{REGRET}_{kind}", pl.col("regret"), this, is_share=False),
    )


MEASURES = (
    Rows(
        problems,
        (
            *(measure for kind in KINDS for measure in _measures(kind)),
            Measure(FAILED, pl.col("failed"), pl.lit(True), is_share=False),
        ),
    ),
)
