"""What the sections of a report are made from."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from atp.files.tables import read_table
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

    def own_settings(self, testbed: str, settings: Collection[str]) -> set[str]:
        """Return those of the settings that some of a testbed's scenarios define themselves, in columns of this name.

        Raises:
            AtpError: an unreadable scenario file.
        """
        if testbed not in self.scenarios or not settings:
            return set()
        table = read_table(self.scenarios[testbed])
        return {name for name in {*settings} & {*table.column_names} if table[name].null_count < len(table)}
