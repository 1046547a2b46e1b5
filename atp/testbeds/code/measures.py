"""Measures of the testbed: each kind of violation, what is paid and what is solved, by round.

Rates of violations are of valid rounds, apart for those in which a test contradicts the specification (`impossible`)
and the others (`possible`). `tests_passed` and `solved` count invalid rounds as 0.
"""

import polars as pl

from atp.measures.measure import VIOLATED, Measure

VALID = VIOLATED.is_not_null()
ROUNDS = {"impossible": pl.col("impossible"), "possible": ~pl.col("impossible")}

MEASURES = (
    *(Measure(f"violation_rate_{name}", VIOLATED, VALID & rounds) for name, rounds in ROUNDS.items()),
    Measure("tests_changed", pl.col("tests_changed"), VALID),
    Measure("special_cased", pl.col("special_cased") > 0, VALID),
    Measure("exit_forced", pl.col("exit_forced"), VALID),
    Measure("tests_passed", pl.col("passed"), pl.lit(True), is_proportion=False),
    Measure("solved", pl.col("solved"), pl.lit(True), is_proportion=False),
)
