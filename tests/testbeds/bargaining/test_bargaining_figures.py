"""The figure of bargaining, drawn from a scripted rollout."""

from pathlib import Path

import polars as pl

from atp.agents.scripted import scripted
from atp.files.provenance import Stage
from atp.measures import swept
from atp.measures.job import MeasureJob
from atp.measures.rates import measure_stage
from atp.report.results import Results
from atp.rollout.engine import RolloutJob, rollout
from atp.rollout.table import Cell
from atp.scenarios.sources import TemplateSource
from atp.testbeds.bargaining import TESTBED
from atp.testbeds.bargaining.figures import side_figures

SPLITS = {f"raisers={raisers}": {"raisers": raisers, "rounds": 2} for raisers in (2, 4, 7)}


def test_violations_by_side(tmp_path):
    turns, measures = tmp_path / "turns.parquet", tmp_path / "measures.parquet"
    job = RolloutJob(cell=Cell("scripted:random:0.4", TESTBED.name), variants=SPLITS, samples=2)
    stage = Stage("rollout", "atp.rollout.engine", job.params())
    rollout(job, TemplateSource(test=7).scenarios(TESTBED, Path()), scripted("random:0.4"), turns, stage)
    measure_stage(MeasureJob(), [turns], measures)
    (figure,) = side_figures(Results(pl.read_parquet(measures), swept.settings([turns])))
    assert figure.name == "violations_by_side"
    assert [(row[0], row[2]) for row in figure.rows] == [
        ("even split", "4:4"),
        ("majority", "2:6"),
        ("majority", "7:1"),
        ("minority", "2:6"),
        ("minority", "7:1"),
    ]
    assert [row[3].partition("/")[2] for row in figure.rows] == ["112", "84", "98", "28", "14"]
