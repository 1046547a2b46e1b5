"""Figures of sweeps: audits beside theory, phase diagrams with theory's line, and the command that draws them."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from atp.agents import load_agent
from atp.cli import main
from atp.measures import measure_stage, swept
from atp.measures.chain import chain_of, expected_share
from atp.provenance import Stage
from atp.report.coordination import population_figures
from atp.report.deterrence import deterrence_figures
from atp.report.figures import Figure, svg
from atp.report.phase import phase_figures
from atp.rollout import Cell, rollout
from atp.scenarios.scenario import read_scenarios
from atp.scenarios.stage import ScenarioSettings, scenarios_stage
from atp.testbeds import TESTBEDS
from atp.testbeds.coordination import CoordinationSettings

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
    """A study's folder, as the workflow leaves it."""
    folder = tmp_path_factory.mktemp("sweeps")
    files = []
    for (name, model), variants in PLAYED.items():
        scenarios = folder / name / "scenarios.parquet"
        scenarios_stage(ScenarioSettings(path=f"config/templates/{name}.yaml", test=7), name, scenarios)
        cell = Cell(model, name, "none", "plain", 0, "context", 0)
        settings = {label: TESTBEDS[name].settings(**values) for label, values in variants.items()}
        stage = Stage("rollout", "atp.rollout", {"cell": vars(cell), "variants": variants}, [scenarios])
        files.append(folder / model / name / "none" / "seed0" / "plain" / "context" / "turns.parquet")
        files[-1].parent.mkdir(parents=True)
        played = read_scenarios(scenarios, name, "test")
        rollout(played, TESTBEDS[name], settings, load_agent(model, None), cell, 2, files[-1], stage)
    measure_stage(files, folder / "measures.parquet")
    return folder


@pytest.fixture(scope="module")
def measures(folder) -> pl.DataFrame:
    return pl.read_parquet(folder / "measures.parquet")


@pytest.fixture(scope="module")
def settings(folder) -> dict[Any, Any]:
    return swept.settings(sorted(folder.glob("**/turns.parquet")))


@pytest.fixture(scope="module")
def phases(measures, settings) -> dict[str, Figure]:
    return {figure.name: figure for figure in phase_figures(measures, settings)}


def values(figure: Figure) -> list[dict[str, Any]]:
    """The rows that a chart draws."""
    spec = figure.chart.to_dict()
    found: list[dict[str, Any]] = (
        next(iter(spec["datasets"].values())) if "datasets" in spec else spec["data"]["values"]
    )
    return found


def test_the_audit_sweep_stands_beside_theory(measures, settings):
    (figure,) = deterrence_figures(measures, settings)
    assert [row[1:4] for row in figure.rows[:3]] == [
        ["pay ratio 2, penalty 0", p, f"{k}/14"]
        for p, k in zip(("0.2", "0.6", "0.9"), measures.filter(measure="late_violation_rate")["k"], strict=False)
    ]
    ends = [row[-2:] for row in figure.rows if row[-1]]
    assert [p for p, _ in ends] == ["50.0\u00a0%", "75.0\u00a0%"]
    assert {row["theory"] for row in values(figure)} == {0.5, 0.75, None}
    assert all(row[-3:] == ["", "", ""] for row in (figure.rows[0], figure.rows[4]))
    assert "p* 0.75" in svg(figure, titled=True) and "intervals of scripted:bandit:1" in figure.caption


def test_no_theory_where_scenarios_say_what_is_paid(measures, settings):
    unpriced = {
        keys: {key: value for key, value in each.items() if key != "pay_ratio"}
        for keys, each in settings.items()
        if "pay_ratio=2" in keys[-1]
    }
    renamed = measures.with_columns(variant=pl.col("variant").replace("pay_ratio=2", "default"))
    (figure,) = deterrence_figures(renamed, unpriced)
    assert figure.rows[-1][1] == "what scenarios pay, penalty 0" and figure.rows[-1][-2:] == ["–", "–"]
    assert deterrence_figures(measures, {}) == []


def test_the_line_of_deterrence_goes_through_p_star(phases):
    """In cells' places: at the pay ratio 2 (place 0) p* = 0.5, a quarter of the way from 0.6 to 0.2."""
    figure = phases["phase_role_play_pay_ratio_audit_probability"]
    assert len(figure.rows) == 6 and "obeying pays more" in figure.caption
    pieces = [row for row in values(figure) if "line" in row]
    at = {round(row["x"], 6): row["y"] for row in pieces}
    assert at[0.0] == pytest.approx(0.75) and at[1.0 - 1 / 16] < 1.5
    above = next(row["y2"] for row in pieces if row["x2"] == pytest.approx(1.0))
    assert above == pytest.approx(1.5)  # p* = 0.75, half-way from 0.6 to 0.9


def test_the_line_of_coordination_parts_what_theory_parts(phases):
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


def test_without_numbers_of_settings_no_theory_of_coordination(measures, settings):
    (figure,) = (each for each in phase_figures(measures, settings, theory=False) if "coordination" in each.name)
    assert not any("line" in row for row in values(figure))


def test_nothing_is_drawn_twice(measures, settings, phases):
    assert set(phases) == {"phase_role_play_pay_ratio_audit_probability", "phase_coordination_agents_threshold"}
    assert "collusion_grid" not in {figure.name for figure in population_figures(measures, settings)}
    by_pay = {
        keys: {**{key: value for key, value in each.items() if key != "agents"}, "high": 1 + each["agents"] / 10}
        for keys, each in settings.items()
        if "agents" in each
    }
    games = measures.filter(testbed="coordination")
    assert phase_figures(games, by_pay) == []
    assert "collusion_grid" in {figure.name for figure in population_figures(games, by_pay)}


def run(monkeypatch, capsys, *arguments: object) -> tuple[int, str]:
    monkeypatch.setattr("sys.argv", ["atp", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0), capsys.readouterr().err


@pytest.mark.parametrize("measure", ["violation_rate", "mean_reward"])
def test_any_measure_is_drawn(monkeypatch, capsys, folder, tmp_path, measure):
    out = tmp_path / "phase.svg"
    axes = ("--across", "audit_probability", "--up", "pay_ratio")
    assert run(monkeypatch, capsys, "phase", folder, "--measure", measure, *axes, "--out", out) == (0, "")
    text = out.read_text()
    assert "violating pays as much as obeying" in text and f"{measure.replace('_', ' ')} over" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("--across", "colour", "--up", "agents"),
            "--across colour: no number that variants of {} differ in, those are",
        ),
        (("--across", "agents", "--up", "rounds"), "--up rounds: no number that variants"),
        (("--across", "agents", "--up", "agents"), "--across agents: is --up too, name two settings"),
        (("--across", "agents", "--up", "threshold", "--measure", "joy"), "--measure joy: {} has no such measure in"),
        (("--across", "agents", "--up", "threshold", "--measure", "deterred_at"), "--measure deterred_at: no variants"),
        (("--across", "agents", "--up", "pay_ratio"), "no variants that differ in both agents and pay_ratio have it"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(monkeypatch, capsys, folder, tmp_path, arguments, said):
    out = tmp_path / "phase.svg"
    code, error = run(monkeypatch, capsys, "phase", folder, *arguments, "--out", out)
    assert code == 1 and error.startswith("atp: ") and said.format(folder) in error and error.count("\n") == 1
    assert not out.exists()


def test_a_figure_is_an_svg_file(monkeypatch, capsys, folder, tmp_path):
    arguments = ("--across", "agents", "--up", "threshold", "--out", tmp_path / "phase.png")
    code, error = run(monkeypatch, capsys, "phase", folder, *arguments)
    assert code == 1 and error.endswith("phase.png: must be the name of an .svg file\n")


def test_no_study_is_one_line(monkeypatch, capsys, tmp_path):
    code, error = run(monkeypatch, capsys, "phase", tmp_path, "--across", "a", "--up", "b", "--out", tmp_path / "x.svg")
    assert (code, error) == (1, f"atp: {tmp_path / 'measures.parquet'}: no such file\n")
