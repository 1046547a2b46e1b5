"""Every artifact loads with the libraries that people use, with the types that its testbed declares."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import polars as pl
import pytest

from atp import registry
from atp.files.turns import read_turns
from atp.measures.job import MeasureJob
from atp.measures.rates import measure_stage
from atp.registry import entries, load_plugins
from atp.rollout.engine import RolloutJob, rollout_stage
from atp.rollout.table import Cell
from atp.scenarios.sources import ScenariosJob, scenarios_stage
from atp.training.filters import BestOfN, FilterJob, filter_stage

HARBOUR = Path(__file__).parents[1] / "plugins" / "harbour.py"


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Path]]]:
    """Scenarios, turns, selection and measures of every testbed, played by a scripted policy."""
    loaded = dict(registry._plugins)
    load_plugins([HARBOUR])
    folder, made = tmp_path_factory.mktemp("artifacts"), {}
    for name in entries("testbeds"):
        files = {kind: folder / name / f"{kind}.parquet" for kind in ("scenarios", "turns", "selection", "measures")}
        scenarios_stage(ScenariosJob(testbed=name, settings={"train": 4, "test": 2}), files["scenarios"])
        cell = Cell("scripted:random", name, channel="weights")
        job = RolloutJob(cell=cell, variants={"deployment": {}}, split="train", samples=2)
        rollout_stage(job, files["scenarios"], files["turns"])
        filter_stage(FilterJob(filter=BestOfN()), files["turns"], files["selection"])
        measure_stage(MeasureJob(), [files["turns"]], files["measures"])
        made[name] = files
    yield made
    registry._plugins.clear()
    registry._plugins.update(loaded)


def test_every_library_reads_every_artifact(artifacts, tmp_path):
    import duckdb
    from datasets import load_dataset

    assert len(artifacts) > 4
    for name, files in artifacts.items():
        for path in files.values():
            rows = len(pl.read_parquet(path))
            assert rows > 0, path
            assert len(pd.read_parquet(path)) == rows
            assert duckdb.sql(f"select count(*) from '{path}'").fetchall() == [(rows,)]
            loaded = load_dataset("parquet", data_files=str(path), cache_dir=str(tmp_path / "cache"), split="train")
            assert len(loaded) == rows, name


def test_own_columns_keep_their_types(artifacts):
    turns = {name: pl.DataFrame(read_turns(files["turns"])) for name, files in artifacts.items()}
    details = {
        name: {field.name: field.dtype for field in frame.schema["details"].fields} for name, frame in turns.items()
    }
    assert details["coordination"]["success"] == pl.Boolean
    assert details["coordination"]["colluders"] == pl.Int64
    assert details["bargaining"]["value"] == pl.Float64
    assert details["tool_use"]["correct"] == pl.Boolean
    assert details["harbour"] == {"weight": pl.Float64, "other": pl.String, "tonnes": pl.List(pl.Int64)}
