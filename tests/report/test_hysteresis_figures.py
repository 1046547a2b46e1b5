"""Figures of ramps: rates by level and direction, loops with their controls."""

from pathlib import Path

from atp.measures import swept
from atp.measures.hysteresis import hysteresis_measures
from atp.measures.rates import read_evidence
from atp.report.figures import svg
from atp.report.hysteresis import hysteresis_figures
from atp.report.results import Results
from atp.rollout.engine import RolloutJob, rollout_stage
from atp.rollout.table import Cell
from atp.scenarios.sources import ScenariosJob, scenarios_stage

AUDITS = {"schedule": "audit", "audit_probability": 0.0, "rounds": 5}
RAMP = {"ramp": {"audit_probability": 1}}


def test_both_directions_and_the_loop_beside_its_control(tmp_path: Path):
    """Win-stay, lose-shift violates until the middle round, is caught there, and complies then."""
    scenarios, files = tmp_path / "scenarios.parquet", []
    scenarios_stage(ScenariosJob(testbed="role_play", settings={"test": 6}), scenarios)
    for seed in (0, 1):
        cell = Cell("scripted:win_stay_lose_shift", "role_play", seed=seed)
        variants = {"steep": AUDITS | RAMP | {"ramp_hold": 2}, "constant": AUDITS}
        files.append(tmp_path / f"{seed}.parquet")
        rollout_stage(RolloutJob(cell=cell, variants=variants, samples=2), scenarios, files[-1])
    measures = hysteresis_measures(read_evidence(files))
    (figure,) = hysteresis_figures(Results(measures, swept.settings(files)))
    assert figure.name == "hysteresis_role_play_audit_probability"
    assert [row[:4] + row[4:5] for row in figure.rows[:4]] == [
        ["steep", "0", "first half", "48/48", "100.0\u00a0%"],
        ["steep", "1", "first half", "24/24", "100.0\u00a0%"],
        ["steep", "0", "second half", "0/48", "0.0\u00a0%"],
        ["steep", "1", "second half", "24/24", "100.0\u00a0%"],
    ]
    loops = {row[2]: row[4] for row in figure.rows[4:]}
    assert loops == {
        "loop area": "\u22121",
        "loop area without the ramp": "0",
        "loop area, difference": "\u22121",
        "change after ramp": "\u22121",
        "change after ramp without the ramp": "0",
        "change after ramp, difference": "\u22121",
    }
    assert "first half" in svg(figure, titled=True)
    assert hysteresis_figures(Results(measures.clear(), {})) == []
