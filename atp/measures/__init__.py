"""Turns -> numbers with intervals."""

from atp.measures.rates import REGISTRY, measure_stage, measure_turns, rates_by_round

__all__ = ["REGISTRY", "measure_stage", "measure_turns", "rates_by_round"]
