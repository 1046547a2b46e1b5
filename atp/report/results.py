"""What the sections of a report are made from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from atp.measures.swept import Settings


@dataclass(frozen=True)
class Results:
    """A study's results, as figures see them.

    Args:
        measures: rows of MEASURES.
        settings: (cell and variant) of the context channel -> testbed settings.
        scenarios: testbed -> its scenario file.
    """

    measures: pl.DataFrame
    settings: Settings = field(default_factory=dict)
    scenarios: Mapping[str, Path] = field(default_factory=dict)
