"""Scenarios as a Parquet file: one row each, whose columns are the fields of the testbed's scenario type."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from atp.errors import AtpError
from atp.files.columns import from_row, struct_of, to_arrow
from atp.files.provenance import Provenance
from atp.files.tables import read_table, write_table
from atp.parsing.labels import has_name, same_label
from atp.registry import find_testbed
from atp.testbed import Scenario, Testbed

SPLITS = ("train", "test")


def check_labels(scenario_id: str, first: str, second: str) -> None:
    """Raise AtpError unless a reply can name either of two options."""
    if same_label(first, second):
        raise AtpError(f"scenario {scenario_id}: both options have the label '{first}', they must differ")
    for label in (first, second):
        if not has_name(label):
            raise AtpError(f"scenario {scenario_id}: the label '{label}' has no letter, digit or sign")


def check_option(scenario_id: str, field: str, label: str, options: tuple[str, str]) -> None:
    """Raise AtpError unless a field names one of two options."""
    if label not in options:
        allowed = " or ".join(f"'{option}'" for option in options)
        raise AtpError(f"scenario {scenario_id}: {field} is '{label}', must be {allowed}")


def scenario_schema(testbed: Testbed) -> pa.Schema:
    """Return the columns of a testbed's scenario file: `testbed`, then the fields of its scenario type."""
    kind: type = testbed.scenario
    return pa.schema([pa.field("testbed", pa.string(), nullable=False), *struct_of(kind)])


def stable_id(template: str, *content: object) -> str:
    """Return an id that depends on a scenario's content alone: the template's name and 10 hex digits."""
    digest = hashlib.sha256("\x1f".join(map(str, content)).encode()).hexdigest()[:10]
    return f"{template.replace(' ', '-')}-{digest}"


def mark_seen(scenarios: Sequence[Scenario]) -> list[Scenario]:
    """Return scenarios that say whether the training split has their template."""
    seen = {scenario.template for scenario in scenarios if scenario.split == "train"}
    return [replace(each, template_seen=each.template in seen if seen else None) for each in scenarios]


def write_scenarios(testbed: Testbed, scenarios: Sequence[Scenario], path: Path | str, provenance: Provenance) -> None:
    """Write scenarios as Parquet."""
    columns = to_arrow(scenarios, testbed.scenario).flatten()
    names = pa.array([testbed.name] * len(scenarios), pa.string())
    write_table(pa.table([names, *columns], schema=scenario_schema(testbed)), path, provenance)


def read_scenarios(path: Path | str, testbed: str, split: str | None = None) -> list[Scenario]:
    """Read a scenario file in its order, or one split of it.

    Raises:
        AtpError: the file is unreadable, has scenarios of another testbed, impossible ones or none, or repeats a
            scenario_id.
    """
    kind = find_testbed(testbed)
    if scenario_testbed(path) != testbed:
        raise AtpError(f"{path}: has scenarios of testbed '{scenario_testbed(path)}', '{testbed}' is needed")
    rows = read_table(path, scenario_schema(kind), f"{testbed} scenario").to_pylist()
    ids = [row["scenario_id"] for row in rows]
    if len(set(ids)) < len(ids):
        repeated = next(name for name in ids if ids.count(name) > 1)
        raise AtpError(f"{path}: scenario_id '{repeated}' occurs more than once")
    try:
        scenarios: list[Scenario] = [from_row(row, kind.scenario) for row in rows if split in (None, row["split"])]
    except AtpError as error:
        raise AtpError(f"{path}: {error}") from error
    if not scenarios:
        raise AtpError(f"{path}: no scenarios{f' in split {split!r}' if split else ''}")
    return scenarios


def scenario_testbed(path: Path | str) -> str:
    """Return the testbed of a scenario file. Raises AtpError if the file has none, or several."""
    table = read_table(path)
    names = sorted(set(table["testbed"].to_pylist())) if "testbed" in table.column_names else []
    if len(names) != 1:
        raise AtpError(f"{path}: not a scenario file: must have one value in column 'testbed', found {names or 'none'}")
    return str(names[0])
