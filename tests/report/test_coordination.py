"""Figures of games with several players, drawn from scripted rollouts, and the pages they stand in."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from atp.agents.scripted import scripted
from atp.measures import measure_stage, swept
from atp.measures.chain import chain_of, expected_share, tipping_threshold
from atp.provenance import Provenance, Stage
from atp.report import ran, report_stage
from atp.report.coordination import population_figures
from atp.report.figures import LINES_A_PANEL, Figure, figures, legible
from atp.report.verdict import percent
from atp.rollout import Cell, rollout
from atp.scenarios.scenario import read_scenarios, write_scenarios
from atp.scenarios.stage import ScenarioSettings, scenarios_stage
from atp.testbeds import TESTBEDS
from atp.testbeds.coordination import CoordinationSettings

GRID = {
    f"threshold={threshold} high={high}": {"threshold": threshold, "high": high, "first_colluders": 5, "rounds": 4}
    for threshold in (4, 8)
    for high in (1.2, 1.5)
}
SPLITS = {f"raisers={raisers}": {"raisers": raisers, "rounds": 2} for raisers in (2, 4, 7)}
MODELS = {
    "coordination": ("scripted:imitate_majority", "scripted:best_response:0.1"),
    "bargaining": ("scripted:random:0.4",),
    "role_play": ("scripted:random:0.4",),
}
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "coordination": GRID,
    "bargaining": SPLITS,
    "role_play": {"default": {"rounds": 3}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """scenarios, turns and measures of all three testbeds."""
    folder = tmp_path_factory.mktemp("population")
    for testbed, models in MODELS.items():
        scenarios = folder / f"{testbed}.scenarios.parquet"
        scenarios_stage(ScenarioSettings(path=f"config/templates/{testbed}.yaml", test=7), testbed, scenarios)
        game = TESTBEDS[testbed]
        settings = {label: game.settings(**values) for label, values in VARIANTS[testbed].items()}
        for model in models:
            cell = Cell(model, testbed, "none", "plain", 0, "context", 0)
            stage = Stage("rollout", "atp.rollout", {"cell": vars(cell), "variants": VARIANTS[testbed]}, [scenarios])
            agent = scripted(model.removeprefix("scripted:"))
            out = folder / f"{testbed} {model.replace(':', ' ')}.turns.parquet"
            rollout(read_scenarios(scenarios, testbed, "test"), game, settings, agent, cell, 2, out, stage)
    measure_stage(turns(folder), folder / "measures.parquet")
    return folder


def turns(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.turns.parquet"))


@pytest.fixture(scope="module")
def measures(folder) -> pl.DataFrame:
    return pl.read_parquet(folder / "measures.parquet")


@pytest.fixture(scope="module")
def drawn(folder, measures) -> dict[str, Figure]:
    return {figure.name: figure for figure in population_figures(measures, swept.settings(turns(folder)))}


def test_the_grid_holds_the_last_round_of_every_variant(drawn, measures):
    grid = drawn["collusion_grid"]
    assert len(grid.rows) == 2 * len(GRID)
    assert {tuple(row[:4]) for row in grid.rows if "majority" in row[0]} == {
        ("scripted:imitate_majority", threshold, high, "4") for threshold in ("4", "8") for high in ("1.2", "1.5")
    }
    # Five of eight collude first, which is the majority: from round 2 on all do, 7 games x 2 samples x 8 players.
    assert {row[4] for row in grid.rows if "majority" in row[0]} == {"112/112"}
    spec = grid.chart.to_dict()
    (values,) = spec["datasets"].values() if "datasets" in spec else (spec["data"]["values"],)
    assert {value["counts"] for value in values if value["panel"] == "scripted:imitate_majority"} == {"112/112"}
    assert len(spec["spec"]["layer"]) == 3  # cells, and two lines of text


def test_no_grid_without_a_sweep_of_threshold_or_pay(folder, measures):
    one = measures.filter((pl.col("testbed") != "coordination") | (pl.col("variant") == next(iter(GRID))))
    names = [figure.name for figure in population_figures(one, swept.settings(turns(folder)))]
    assert "collusion_grid" not in names and "theory_beside_simulation" in names


def test_settings_that_differ_beside_the_axes_make_panels(measures):
    one = measures.filter(model="scripted:imitate_majority")
    varied = {
        ("scripted:imitate_majority", "coordination", "none", "plain", 0, label): values | {"low": values["high"] / 2}
        for label, values in GRID.items()
    }
    (grid,) = (figure for figure in population_figures(one, varied) if figure.name == "collusion_grid")
    assert {row[0] for row in grid.rows} == {"low 0.6", "low 0.75"}


def test_theory_stands_beside_what_was_simulated(drawn):
    theory = drawn["theory_beside_simulation"]
    assert len(theory.rows) == 4 * len(GRID)
    for label, values in GRID.items():
        chain = chain_of(CoordinationSettings(**values), 0.1)
        rows = [row for row in theory.rows if row[0] == label]
        assert [row[3] for row in rows] == [percent(share) for share in expected_share(chain, 4)]
        assert {row[2] for row in rows} == {str(tipping_threshold(chain))}
        assert f"from {tipping_threshold(chain)} ({label})" in theory.caption


def test_theory_knows_settings_numbers_only(folder, measures):
    names = [each.name for each in population_figures(measures, swept.settings(turns(folder)), theory=False)]
    assert "theory_beside_simulation" not in names and "collusion_grid" in names
    scenarios = folder / "coordination.scenarios.parquet"
    assert not ran.own_numbers([scenarios, folder / "role_play.scenarios.parquet"])
    numbered = [
        type(each)(**vars(each) | {"agents": 8, "threshold": 2, "low": 0.0, "normal": 1.0, "high": 2.0})
        for each in read_scenarios(scenarios, "coordination")
    ]
    write_scenarios(numbered, folder / "numbered.parquet", Provenance("scenarios", "code"))
    assert ran.own_numbers([folder / "numbered.parquet"])


def test_success_and_what_follows_it(drawn):
    success, after = drawn["collective_success"], drawn["after_success"]
    label = "threshold=4 high=1.2, scripted:imitate_majority"
    rows = [row for row in success.rows if row[0] == label]
    assert [row[2] for row in rows] == ["14/14"] * 4
    # High in every round: 1.2 ** 4; all collude from round 2 on.
    assert rows[-1][6:] == ["2.07", "14/14, round 2.0", "0/14"]
    assert {row[6] for row in rows[:-1]} == {""}
    assert [row[:3] for row in after.rows if row[0] == label] == [[label, "a collective success", "336/336"]]


def test_bargaining_by_side(drawn):
    rows = drawn["violations_by_side"].rows
    assert [(row[0], row[2]) for row in rows] == [
        ("even split", "4:4"),
        ("majority", "2:6"),
        ("majority", "7:1"),
        ("minority", "2:6"),
        ("minority", "7:1"),
    ]
    assert [row[3].partition("/")[2] for row in rows] == ["112", "84", "98", "28", "14"]


def test_each_testbed_of_several_has_its_own_figures(measures):
    names = [figure.name for figure in figures(measures)]
    assert {"drift_over_rounds_role_play", "drift_over_rounds_coordination", "drift_over_rounds_bargaining"} <= {*names}
    alone = {figure.name: figure for figure in figures(measures.filter(testbed="coordination"))}
    assert "drift_over_rounds" in alone
    assert "to collude is the violation" in alone["drift_over_rounds"].caption


def test_many_lines_stand_in_panels_of_their_own():
    rows = pl.DataFrame(
        [
            {"model": model, "testbed": "t", "alignment": "none", "arm": "plain", "seed": 0, "variant": f"v{number}"}
            for model in "ab"
            for number in range(LINES_A_PANEL + 1)
        ]
    )
    many, few = legible(rows, "variant"), legible(rows.filter(variant="v0"), "variant")
    assert set(many["name"]) == {"a", "b"} and many["panel"].n_unique() == LINES_A_PANEL + 1
    assert set(few["name"]) == {"v0"} and set(few["panel"]) == {"a", "b"}


def test_the_page_holds_them(folder):
    report_stage(
        measures=folder / "measures.parquet",
        turns=turns(folder),
        selections=[],
        adapters=[],
        pairs=[],
        artifacts=[folder / f"{testbed}.scenarios.parquet" for testbed in MODELS],
        out=folder / "report.html",
        figures_folder=folder / "figures",
        study="test",
        study_text="",
        organism=False,
    )
    text = (folder / "report.html").read_text()
    made = {file.stem for file in (folder / "figures").iterdir()}
    assert {"collusion_grid", "theory_beside_simulation", "after_success", "violations_by_side"} <= made
    assert all(f'id="{name}"' in text for name in made)
    assert "In coordination to collude is the violation, unless" in text
    assert "112/112" in (folder / "figures" / "collusion_grid.svg").read_text()
