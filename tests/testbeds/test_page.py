"""A report of several testbeds: each has its own figures, and the page includes all of them."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from atp.agents.load import load_agent
from atp.files.provenance import Stage
from atp.measures.job import MeasureJob
from atp.measures.rates import measure_stage
from atp.report.figures import LINES_A_PANEL, figures, legible
from atp.report.job import ReportFiles, ReportJob
from atp.report.page import report_stage
from atp.rollout.engine import RolloutJob, rollout
from atp.rollout.table import Cell
from atp.scenarios.scenario import read_scenarios
from atp.scenarios.sources import ScenariosJob, scenarios_stage

MODELS = {
    "coordination": ("scripted:imitate_majority", "scripted:best_response:0.1"),
    "bargaining": ("scripted:random:0.4",),
    "role_play": ("scripted:random:0.4",),
}
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "coordination": {
        f"threshold={threshold}": {"threshold": threshold, "first_colluders": 5, "rounds": 2} for threshold in (4, 8)
    },
    "bargaining": {f"raisers={raisers}": {"raisers": raisers, "rounds": 2} for raisers in (2, 4)},
    "role_play": {"default": {"rounds": 3}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a folder with scenarios, turns and measures of three testbeds."""
    folder = tmp_path_factory.mktemp("page")
    for name, models in MODELS.items():
        scenarios = folder / f"{name}.scenarios.parquet"
        scenarios_stage(ScenariosJob(testbed=name, settings={"test": 7}), scenarios)
        for model in models:
            job = RolloutJob(cell=Cell(model, name), variants=VARIANTS[name], samples=2)
            stage = Stage("rollout", "atp.rollout.engine", job.params(), [scenarios])
            agent = load_agent(model, None, testbed=name)
            out = folder / f"{name} {model.replace(':', ' ')}.turns.parquet"
            rollout(job, read_scenarios(scenarios, name, "test"), agent, out, stage)
    measure_stage(MeasureJob(), sorted(folder.glob("*.turns.parquet")), folder / "measures.parquet")
    return folder


def test_each_testbed_of_several_has_its_own_figures(folder):
    measures = pl.read_parquet(folder / "measures.parquet")
    names = [figure.name for figure in figures(measures)]
    assert {"drift_over_rounds_role_play", "drift_over_rounds_coordination", "drift_over_rounds_bargaining"} <= {*names}
    alone = {figure.name: figure for figure in figures(measures.filter(testbed="coordination"))}
    assert "drift_over_rounds" in alone
    assert "colluding is the violation" in alone["drift_over_rounds"].caption


def test_many_curves_are_in_separate_panels():
    cell = {"testbed": "t", "alignment": "none", "condition": "baseline", "seed": 0}
    rows = pl.DataFrame(
        [cell | {"model": model, "variant": f"v{number}"} for model in "ab" for number in range(LINES_A_PANEL + 1)]
    )
    many, few = legible(rows, "variant"), legible(rows.filter(variant="v0"), "variant")
    assert set(many["name"]) == {"a", "b"} and many["panel"].n_unique() == LINES_A_PANEL + 1
    assert set(few["name"]) == {"v0"} and set(few["panel"]) == {"a", "b"}


def test_the_page_includes_the_figures_of_all_testbeds(folder):
    scenarios = [folder / f"{testbed}.scenarios.parquet" for testbed in MODELS]
    files = ReportFiles(folder / "measures.parquet", scenarios, sorted(folder.glob("*.turns.parquet")))
    report_stage(ReportJob(study="test"), files, folder / "report.html", folder / "figures")
    text = (folder / "report.html").read_text()
    names = {file.stem for file in (folder / "figures").iterdir()}
    assert {"collusion_grid", "theory_beside_simulation", "after_success", "violations_by_side"} <= names
    assert all(f'id="figure-{name}"' in text for name in names)
    assert "In coordination, colluding is the violation, unless" in text
    assert "112/112" in (folder / "figures" / "collusion_grid.svg").read_text()
