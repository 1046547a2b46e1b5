"""Figures of coordination, drawn from scripted rollouts."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from atp.agents.load import load_agent
from atp.files.provenance import Provenance, Stage
from atp.measures import swept
from atp.measures.job import MeasureJob
from atp.measures.rates import measure_stage
from atp.report.figures import Figure
from atp.report.results import Results
from atp.report.verdict import percent
from atp.rollout.engine import RolloutJob, rollout
from atp.rollout.table import Cell
from atp.scenarios.scenario import read_scenarios, write_scenarios
from atp.scenarios.sources import ScenariosJob, scenarios_stage
from atp.testbeds.coordination import TESTBED
from atp.testbeds.coordination.figures import population_figures
from atp.testbeds.coordination.game import CoordinationSettings
from atp.testbeds.coordination.theory import chain_of, expected_share, tipping_threshold

GRID: dict[str, dict[str, Any]] = {
    f"threshold={threshold} high={high}": {"threshold": threshold, "high": high, "first_colluders": 5, "rounds": 4}
    for threshold in (4, 8)
    for high in (1.2, 1.5)
}
MODELS = ("scripted:imitate_majority", "scripted:best_response:0.1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a folder with scenarios, turns and measures."""
    folder = tmp_path_factory.mktemp("population")
    scenarios = folder / "scenarios.parquet"
    scenarios_stage(ScenariosJob(testbed=TESTBED.name, settings={"test": 7}), scenarios)
    for model in MODELS:
        job = RolloutJob(cell=Cell(model, TESTBED.name), variants=GRID, samples=2)
        stage = Stage("rollout", "atp.rollout.engine", job.params(), [scenarios])
        agent = load_agent(model, None, testbed=TESTBED.name)
        out = folder / f"{model.replace(':', ' ')}.turns.parquet"
        rollout(job, read_scenarios(scenarios, TESTBED.name, "test"), agent, out, stage)
    measure_stage(MeasureJob(), sorted(folder.glob("*.turns.parquet")), folder / "measures.parquet")
    return folder


@pytest.fixture(scope="module")
def results(folder) -> Results:
    measures = pl.read_parquet(folder / "measures.parquet")
    settings = swept.settings(sorted(folder.glob("*.turns.parquet")))
    return Results(measures, settings, {TESTBED.name: folder / "scenarios.parquet"})


@pytest.fixture(scope="module")
def drawn(results) -> dict[str, Figure]:
    return {figure.name: figure for figure in population_figures(results)}


def test_the_grid_has_the_last_round_of_every_variant(drawn):
    grid = drawn["collusion_grid"]
    assert len(grid.rows) == 2 * len(GRID)
    assert {tuple(row[:4]) for row in grid.rows if "majority" in row[0]} == {
        ("scripted:imitate_majority", threshold, high, "4") for threshold in ("4", "8") for high in ("1.2", "1.5")
    }
    # Five of eight collude in round 1, which is a majority: from round 2 on all do, 7 games x 2 samples x 8 players.
    assert {row[4] for row in grid.rows if "majority" in row[0]} == {"112/112"}
    spec = grid.chart.to_dict()
    (values,) = spec["datasets"].values() if "datasets" in spec else (spec["data"]["values"],)
    assert {value["counts"] for value in values if value["panel"] == "scripted:imitate_majority"} == {"112/112"}
    assert len(spec["spec"]["layer"]) == 3  # cells, and two lines of text


def test_no_grid_without_a_sweep_of_threshold_or_pay(results):
    one = results.measures.filter(pl.col("variant") == next(iter(GRID)))
    names = [figure.name for figure in population_figures(Results(one, results.settings, results.scenarios))]
    assert "collusion_grid" not in names and "theory_beside_simulation" in names


def test_other_settings_that_vary_make_panels(results):
    one = results.measures.filter(model="scripted:imitate_majority")
    varied = {
        ("scripted:imitate_majority", "coordination", "none", "baseline", 0, label): values
        | {"low": values["high"] / 2}
        for label, values in GRID.items()
    }
    (grid,) = (figure for figure in population_figures(Results(one, varied)) if figure.name == "collusion_grid")
    assert {row[0] for row in grid.rows} == {"low 0.6", "low 0.75"}


def test_theory_is_next_to_simulation(drawn):
    theory = drawn["theory_beside_simulation"]
    assert len(theory.rows) == 4 * len(GRID)
    for label, values in GRID.items():
        chain = chain_of(CoordinationSettings(**values), 0.1)
        rows = [row for row in theory.rows if row[0] == label]
        assert [row[3] for row in rows] == [percent(share) for share in expected_share(chain, 4)]
        assert {row[2] for row in rows} == {str(tipping_threshold(chain))}
        assert f"from {tipping_threshold(chain)} ({label})" in theory.caption


def test_no_theory_for_scenarios_with_their_own_numbers(folder, results):
    assert results.own_settings("coordination", ["threshold"]) == set()
    scenarios: list[Any] = read_scenarios(folder / "scenarios.parquet", TESTBED.name)
    numbers = {"agents": 8, "threshold": 2, "low": 0.0, "normal": 1.0, "high": 2.0}
    numbered = [type(scenario)(**vars(scenario) | numbers) for scenario in scenarios]
    write_scenarios(TESTBED, numbered, folder / "numbered.parquet", Provenance("scenarios", "code"))
    own = Results(results.measures, results.settings, {TESTBED.name: folder / "numbered.parquet"})
    assert own.own_settings("coordination", ["threshold", "rounds"]) == {"threshold"}
    names = [figure.name for figure in population_figures(own)]
    assert "theory_beside_simulation" not in names and "collusion_grid" in names


def test_success_and_decisions_after_it(drawn, results):
    success, after = drawn["collective_success"], drawn["after_success"]
    label = "threshold=4 high=1.2, scripted:imitate_majority"
    rows = [row for row in success.rows if row[0] == label]
    assert [row[2] for row in rows] == ["14/14"] * 4
    # High in every round: 1.2 ** 4; all collude from round 2 on.
    assert rows[-1][6:] == ["–", "2.07", "14/14, round 2.0 of 4", "0/14"]
    assert {row[7] for row in rows[:-1]} == {""}
    assert [row[:3] for row in after.rows if row[0] == label] == [[label, "a collective success", "336/336"]]
    differences = results.measures.filter(pl.col("value").is_not_null(), measure="recollude")
    assert len([row for row in after.rows if row[1] == "success minus failure"]) == len(differences) > 0
