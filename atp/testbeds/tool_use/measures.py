"""Measures of tool use: tool usage, accuracy, reward and regret on easy and on hard problems.

Hard problems are those of tests, or of deployment if there are no tests; easy ones are those of deployment. An invalid
reply counts as a wrong answer in accuracy, and does not count in tool usage. Regret is the reward of the best policy
(`best_policy` in the testbed's game) minus the agent's.
"""

import polars as pl

from atp.measures.measure import GROUP, VIOLATED, Aggregate, Measure
from atp.testbed import TESTED

USAGE, ACCURACY, REWARD, REGRET = "tool_usage", "accuracy", "reward", "regret"
FAILED = "failed_calls"
KINDS = ("easy", "hard")


def problems(turns: pl.LazyFrame) -> pl.LazyFrame:
    """Return the turns that count, with their `regret`."""
    tested = (pl.col("role") == TESTED) & (pl.col("kind") == "hard")
    counted = (pl.col("kind") == "easy") | tested | ~tested.any().over(GROUP)
    return turns.with_columns(regret=pl.col("best") - pl.col("reward")).filter(counted)


def _measures(kind: str) -> tuple[Measure, ...]:
    this = pl.col("kind") == kind
    return (
        Measure(f"{USAGE}_{kind}", ~VIOLATED, this, of_valid=True),
        Measure(f"{ACCURACY}_{kind}", pl.col("correct"), this),
        Measure(f"{REWARD}_{kind}", pl.col("reward"), this, is_proportion=False),
        Measure(f"{REGRET}_{kind}", pl.col("regret"), this, is_proportion=False),
    )


MEASURES = (
    Aggregate(
        problems,
        (
            *(measure for kind in KINDS for measure in _measures(kind)),
            Measure(FAILED, pl.col("failed"), pl.lit(True), is_proportion=False),
        ),
    ),
)
