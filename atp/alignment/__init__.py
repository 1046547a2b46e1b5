"""Alignment before deployment: pairs of decisions, and the adapter of generation 0."""
