"""Measures of bargaining: violation rates of the majority and of the minority."""

import polars as pl

from atp.measures.measure import VIOLATED, Measure

SIDES = {"majority": "violation_rate_majority", "minority": "violation_rate_minority"}

MEASURES = tuple(Measure(name, VIOLATED, pl.col("side") == side, of_valid=True) for side, name in SIDES.items())
