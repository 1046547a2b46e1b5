"""Alignment before deployment: pairs of decisions, and the adapter of generation 0."""

#: How the yield of asking for preference pairs is said.
YIELD = "{pairs:.0f} pairs of {scenarios:.0f} scenarios, in {tries:.0f} tries ({invalid:.0f} invalid)"
