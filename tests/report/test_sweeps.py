"""Figures of sweeps: audits next to theory, phase diagrams with the theory curve, and the command `atp phase`."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from atp.agents.load import load_agent
from atp.cli import main
from atp.files.provenance import Provenance, Stage
from atp.measures import swept
from atp.measures.job import MeasureJob
from atp.measures.rates import measure_stage
from atp.report.figures import Figure, svg
from atp.report.phase import phase_figures
from atp.report.results import Results
from atp.rollout.engine import RolloutJob, rollout
from atp.rollout.table import Cell
from atp.scenarios.scenario import read_scenarios, write_scenarios
from atp.scenarios.sources import ScenariosJob, scenarios_stage
from atp.testbeds.coordination import TESTBED as COORDINATION
from atp.testbeds.coordination.figures import population_figures
from atp.testbeds.coordination.game import CoordinationSettings
from atp.testbeds.coordination.scenarios import CoordinationScenario
from atp.testbeds.coordination.theory import chain_of, expected_share
from atp.testbeds.role_play.figures import deterrence_figures

AUDITS = {
    f"pay_ratio={ratio} audit_probability={p}": {
        "schedule": "audit",
        "pay_ratio": ratio,
        "audit_probability": p,
        "rounds": 3,
    }
    for ratio in (2, 4)
    for p in (0.2, 0.6, 0.9)
}
GAME = {"first_colluders": 4, "high_to": "colluders", "rounds": 4}
GAMES = {
    f"threshold={threshold} agents={agents}": {"threshold": threshold, "agents": agents, **GAME}
    for threshold in (2, 5)
    for agents in (6, 8)
}
PLAYED: dict[tuple[str, str], dict[str, dict[str, Any]]] = {
    ("role_play", "scripted:bandit:1"): AUDITS,
    ("coordination", "scripted:best_response"): GAMES,
    ("coordination", "scripted:imitate_majority"): GAMES,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a study's folder of results, as the workflow writes it."""
    folder = tmp_path_factory.mktemp("sweeps")
    files = []
    for (name, model), variants in PLAYED.items():
        scenarios = folder / name / "scenarios.parquet"
        scenarios_stage(ScenariosJob(testbed=name, settings={"test": 7}), scenarios)
        job = RolloutJob(cell=Cell(model, name), variants=variants, samples=2)
        stage = Stage("rollout", "atp.rollout.engine", job.params(), [scenarios])
        files.append(folder / model / name / "none" / "seed0" / "baseline" / "context" / "turns.parquet")
        files[-1].parent.mkdir(parents=True)
        played = read_scenarios(scenarios, name, "test")
        rollout(job, played, load_agent(model, None, testbed=name), files[-1], stage)
    measure_stage(MeasureJob(), files, folder / "measures.parquet")
    return folder


@pytest.fixture(scope="module")
def measures(folder) -> pl.DataFrame:
    return pl.read_parquet(folder / "measures.parquet")


@pytest.fixture(scope="module")
def settings(folder) -> dict[Any, Any]:
    return swept.settings(sorted(folder.glob("**/turns.parquet")))


@pytest.fixture(scope="module")
def results(measures, settings) -> Results:
    return Results(measures, settings)


@pytest.fixture(scope="module")
def phases(results) -> dict[str, Figure]:
    return {figure.name: figure for figure in phase_figures(results)}


def values(figure: Figure) -> list[dict[str, Any]]:
    """Return the rows that a chart draws."""
    spec = figure.chart.to_dict()
    found: list[dict[str, Any]] = (
        next(iter(spec["datasets"].values())) if "datasets" in spec else spec["data"]["values"]
    )
    return found


def test_the_audit_sweep_next_to_theory(measures, results):
    (figure,) = deterrence_figures(results)
    assert [row[1:4] for row in figure.rows[:3]] == [
        ["pay ratio 2, penalty 0", p, f"{k}/14"]
        for p, k in zip(("0.2", "0.6", "0.9"), measures.filter(measure="late_violation_rate")["k"], strict=False)
    ]
    ends = [row[-2:] for row in figure.rows if row[-1]]
    assert [p for p, _ in ends] == ["50.0\u00a0%", "75.0\u00a0%"]
    assert {row["theory"] for row in values(figure)} == {0.5, 0.75, None}
    assert all(row[-3:] == ["", "", ""] for row in (figure.rows[0], figure.rows[4]))
    assert "p* 0.75" in svg(figure, titled=True) and "intervals of scripted:bandit:1" in figure.caption


def test_no_theory_if_scenarios_define_the_pay(measures, settings):
    unpriced = {
        keys: {key: value for key, value in each.items() if key != "pay_ratio"}
        for keys, each in settings.items()
        if "pay_ratio=2" in keys[-1]
    }
    renamed = measures.with_columns(variant=pl.col("variant").replace("pay_ratio=2", "default"))
    (figure,) = deterrence_figures(Results(renamed, unpriced))
    assert figure.rows[-1][1] == "what scenarios pay, penalty 0" and figure.rows[-1][-2:] == ["–", "–"]
    assert deterrence_figures(Results(measures)) == []


def test_the_theory_curve_of_deterrence_goes_through_p_star(phases):
    """In cell coordinates: at the pay ratio 2 (cell 0) p* = 0.5, a quarter of the way from 0.6 to 0.2."""
    figure = phases["phase_role_play_pay_ratio_audit_probability"]
    assert len(figure.rows) == 6 and "obeying pays more" in figure.caption
    pieces = [row for row in values(figure) if "line" in row]
    at = {round(row["x"], 6): row["y"] for row in pieces}
    assert at[0.0] == pytest.approx(0.75) and at[1.0 - 1 / 16] < 1.5
    above = next(row["y2"] for row in pieces if row["x2"] == pytest.approx(1.0))
    assert above == pytest.approx(1.5)  # p* = 0.75, half-way from 0.6 to 0.9


def test_the_theory_curve_of_coordination_separates_its_two_sides(phases):
    figure = phases["phase_coordination_agents_threshold"]
    pieces = {tuple(row[key] for key in ("x", "y", "x2", "y2")) for row in values(figure) if "line" in row}
    tipped = {
        (i, j): expected_share(chain_of(CoordinationSettings(threshold=t, agents=n, **GAME), 0.05), 4)[-1] >= 0.5
        for i, n in enumerate((6, 8))
        for j, t in enumerate((2, 5))
    }
    assert [tipped[i, j] for i, j in ((0, 0), (1, 0), (0, 1))] == [True, True, False]
    assert (-0.5, 0.5, 0.5, 0.5) in pieces
    assert ((0.5, 0.5, 0.5, 1.5) in pieces) == (tipped[0, 1] != tipped[1, 1])
    assert {row["panel"] for row in values(figure)} == {"scripted:best_response", "scripted:imitate_majority"}
    assert "for comparison" in figure.caption


def test_no_theory_of_coordination_if_scenarios_define_its_numbers(measures, settings, tmp_path):
    own = CoordinationScenario(
        "fund-1", "fund", "test", "", "", "", "in", "out", "in", "out", "purse", "", "Pay.", 5, 2, 1.9, 1.0, 0.5
    )
    write_scenarios(COORDINATION, [own], tmp_path / "s.parquet", Provenance("s", "c"))
    results = Results(measures, settings, {"coordination": tmp_path / "s.parquet"})
    (figure,) = (each for each in phase_figures(results) if "coordination" in each.name)
    assert not any("line" in row for row in values(figure))


def test_nothing_is_drawn_twice(measures, settings, results, phases):
    assert set(phases) == {"phase_role_play_pay_ratio_audit_probability", "phase_coordination_agents_threshold"}
    assert "collusion_grid" not in {figure.name for figure in population_figures(results)}
    by_pay = {
        keys: {**{key: value for key, value in each.items() if key != "agents"}, "high": 1 + each["agents"] / 10}
        for keys, each in settings.items()
        if "agents" in each
    }
    games = measures.filter(testbed="coordination")
    assert phase_figures(Results(games, by_pay)) == []
    assert "collusion_grid" in {figure.name for figure in population_figures(Results(games, by_pay))}


def run(monkeypatch, capsys, *arguments: object) -> tuple[int, str]:
    monkeypatch.setattr("sys.argv", ["atp", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    code, error = end.value.code, capsys.readouterr().err
    return (1, f"{error}{code}\n") if isinstance(code, str) else (int(code or 0), error)


@pytest.mark.parametrize("measure", ["violation_rate", "mean_reward"])
def test_any_measure_is_drawn(monkeypatch, capsys, folder, tmp_path, measure):
    out = tmp_path / "phase.svg"
    axes = ("--across", "audit_probability", "--up", "pay_ratio")
    assert run(monkeypatch, capsys, "phase", folder, "--measure", measure, *axes, "--out", out) == (0, "")
    text = out.read_text()
    assert "violating pays as much as obeying" in text and f"{measure.replace('_', ' ')} over" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--across", "colour", "--up", "agents"),
            "--across colour: not a numeric setting that {} varies, these are",
        ),
        (("--across", "agents", "--up", "rounds"), "--up rounds: not a numeric setting that"),
        (("--across", "agents", "--up", "agents"), "--across agents: is the same as --up, name two settings"),
        (
            ("--across", "agents", "--up", "threshold", "--measure", "joy"),
            "--measure joy: not in the context channel of {}",
        ),
        (("--across", "agents", "--up", "threshold", "--measure", "deterred_at"), "--measure deterred_at: no variants"),
        (("--across", "agents", "--up", "pay_ratio"), "no variants that differ in both agents and pay_ratio have"),
    ],
)
def test_errors_of_the_command_are_one_line(monkeypatch, capsys, folder, tmp_path, arguments, message):
    out = tmp_path / "phase.svg"
    code, error = run(monkeypatch, capsys, "phase", folder, *arguments, "--out", out)
    assert code == 1 and error.startswith("atp: ") and message.format(folder) in error and error.count("\n") == 1
    assert not out.exists()


def test_a_figure_is_an_svg_file(monkeypatch, capsys, folder, tmp_path):
    arguments = ("--across", "agents", "--up", "threshold", "--out", tmp_path / "phase.png")
    code, error = run(monkeypatch, capsys, "phase", folder, *arguments)
    assert code == 1 and error.endswith("phase.png: must be the name of an .svg file\n")


def test_a_missing_study_is_one_line(monkeypatch, capsys, tmp_path):
    code, error = run(monkeypatch, capsys, "phase", tmp_path, "--across", "a", "--up", "b", "--out", tmp_path / "x.svg")
    assert (code, error) == (1, f"atp: {tmp_path / 'measures.parquet'}: no such file\n")
