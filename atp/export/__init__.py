"""A study's results in the formats of other tools."""
