"""A judge model on bargaining: judges whose answers are known."""

from pathlib import Path

import pytest

from atp.errors import AtpError
from atp.files.schemas import JUDGEMENTS
from atp.files.tables import read_table
from atp.files.turns import read_turns
from atp.measures.agreement import agreement
from atp.rollout.engine import RolloutJob, rollout_stage
from atp.rollout.judge import JudgeJob, judge_stage
from atp.rollout.table import Cell
from atp.scenarios.sources import ScenariosJob, scenarios_stage


def turns(testbed: str, folder: Path) -> Path:
    path, out = folder / "scenarios.parquet", folder / "turns.parquet"
    scenarios_stage(ScenariosJob(testbed=testbed, settings={"test": 6}), path)
    rollout_stage(RolloutJob(cell=Cell("scripted:random", testbed), variants={"default": {"rounds": 2}}), path, out)
    return out


def test_judges_whose_answers_are_known(tmp_path: Path) -> None:
    played = turns("bargaining", tmp_path)
    rows = read_turns(played).to_pylist()
    violations = sum(row["violation"] for row in rows)
    assert 0 < violations < len(rows) == 6 * 8 * 2
    for judge, agree in (("scripted:comply", len(rows) - violations), ("scripted:violate", violations)):
        found = judge_stage(JudgeJob(cell=Cell(judge, "bargaining")), played, tmp_path / "judged.parquet")
        assert found == {"turns": len(rows), "valid": len(rows), "agree": agree}
        counts = f"agrees with the rule in {agree}/{len(rows)} decisions ("
        assert agreement(tmp_path / "judged.parquet").startswith(counts)
        judged = read_table(tmp_path / "judged.parquet", JUDGEMENTS).to_pylist()
        assert {row["judged"] for row in judged} == {judge == "scripted:violate"}
        assert [row["violation"] for row in judged] == [row["violation"] for row in rows]


def test_a_testbed_without_a_judge_question(tmp_path: Path) -> None:
    played = turns("coordination", tmp_path)
    with pytest.raises(AtpError, match="testbed 'coordination' defines no judge question"):
        judge_stage(JudgeJob(cell=Cell("scripted:comply", "coordination")), played, tmp_path / "judged.parquet")
    assert not (tmp_path / "judged.parquet").exists()
