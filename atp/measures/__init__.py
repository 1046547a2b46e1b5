"""Turns to numbers with intervals."""
