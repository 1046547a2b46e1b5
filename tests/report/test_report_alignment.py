"""What the report says of alignment: installed, lost or kept, warned of, and beside the paper's figures."""

import json
from pathlib import Path

import polars as pl
import pytest

from atp.agents.scripted import scripted
from atp.measures import measure_stage, swept
from atp.provenance import Provenance, Stage
from atp.report import ran
from atp.report.alignment import alignment_figures, alignment_finding, beside_the_paper, effects, published
from atp.rollout import Cell, rollout
from atp.scenarios import coordination
from atp.scenarios.coordination import CoordinationTemplate
from atp.scenarios.role_play import RolePlayTemplate, instantiate
from atp.scenarios.scenario import read_scenarios, write_scenarios
from atp.scenarios.templates import generate, read_templates
from atp.testbeds import TESTBEDS

TESTBED = TESTBEDS["role_play"]


@pytest.fixture(scope="module")
def measures(tmp_path_factory) -> pl.DataFrame:
    """A coin without alignment; DPO that complies for good; GRPO that violates once violating has been rewarded."""
    folder = tmp_path_factory.mktemp("alignment")
    scenarios = folder / "scenarios.parquet"
    write_scenarios(
        generate(read_templates("config/templates/role_play.yaml", RolePlayTemplate), instantiate, 4, 64, 0),
        scenarios,
        Provenance("s", "c"),
    )
    chosen = read_scenarios(scenarios, "role_play", "test")
    settings = {"all_unsupervised": TESTBED.settings(rounds=6)}
    turns = []
    for alignment, agent in (("none", "random:0.6"), ("dpo", "comply"), ("grpo", "bandit:0.3")):
        cell = Cell("Qwen3-8B", "role_play", alignment, "plain", 0, "context", 0)
        stage = Stage("rollout", "atp.rollout", {"cell": vars(cell)}, [scenarios])
        turns.append(folder / f"{alignment}.parquet")
        rollout(chosen, TESTBED, settings, scripted(agent), cell, 1, turns[-1], stage)
    measure_stage(turns, folder / "measures.parquet")
    return pl.read_parquet(folder / "measures.parquet")


def test_words_and_figure(measures):
    found = effects(measures)
    (finding,) = alignment_finding(found)
    dpo, grpo = finding.lines
    assert dpo.name == "dpo, in context"
    assert dpo.verdict == "lowered the rate, and all of that is left"
    assert "64" in dpo.evidence and "to 0.0" in dpo.text
    assert grpo.verdict in ("not shown to lower the rate", "lowered the rate, and none of that is shown to be left")
    (figure,) = alignment_figures(found)
    assert [row[0] for row in figure.rows] == ["dpo", "grpo"]
    assert figure.rows[0][2] == "0.0\xa0% (0/64)"
    assert len(figure.chart.to_dict()["layer"]) == 2


def test_nothing_aligned_nothing_said(measures):
    alone = measures.filter(alignment="none")
    assert effects(alone) == [] and alignment_finding([]) == [] and alignment_figures([]) == []


def test_the_papers_figures_stand_beside_those_of_the_same_model(measures):
    rows = beside_the_paper(measures, {})
    assert [(row[2], row[3]) for row in rows] == [("grpo", "1"), ("grpo", "2")]
    assert rows[0][4] == "23.4\xa0% (14.7 to 35.1\xa0%, n 64, medium confidence)"  # Wilson's interval of 15 of 64
    assert rows[0][6].partition(" ")[0].endswith("/64")
    renamed = measures.with_columns(model=pl.lit("organism"))
    assert beside_the_paper(renamed, {}) == []


def test_a_figure_of_one_threshold_stands_beside_that_threshold(tmp_path):
    game, variants = TESTBEDS["coordination"], {"low": {"threshold": 2}, "usual": {}, "high": {"threshold": 8}}
    templates = read_templates("config/templates/coordination.yaml", CoordinationTemplate)
    cell = Cell("Qwen3-8B", "coordination", "dpo", "plain", 0, "context", 0)
    stage = Stage("rollout", "atp.rollout", {"cell": vars(cell), "variants": variants}, [])
    settings = {label: game.settings(**values) for label, values in variants.items()}
    chosen, turns = generate(templates, coordination.instantiate, 0, 7, 0), tmp_path / "turns.parquet"
    rollout(chosen, game, settings, scripted("random"), cell, 1, turns, stage)
    measure_stage([turns], tmp_path / "measures.parquet")
    measures = pl.read_parquet(tmp_path / "measures.parquet")
    ((testbed, *_, theirs, name, ours),) = beside_the_paper(measures, swept.settings([turns]))
    assert testbed == "coordination_t4" and theirs.startswith("57.1") and name == "usual, plain, seed 0"
    assert ours.partition(" ")[0].endswith("/56")
    assert beside_the_paper(measures, {}) == []


def test_the_papers_figures_are_complete():
    rows = published()
    assert {row["testbed"] for row in rows} == {"role_play", "coordination_t4", "tool_use"}
    assert all(0 <= float(row["value_percent"]) <= 100 and int(row["n"]) > 0 and row["confidence"] for row in rows)


def adapter(folder: Path, stage: str, before: int, after: int, carried: bool = False) -> Path:
    canary = {"prompts": 64.0, "valid": 64.0, "violations": float(after), "kl": 0.5, "kl_sd": 0.2}
    canary |= {"reference_valid": 64.0, "reference_violations": float(before)}
    provenance = Provenance(stage, "code", {"training": {"method": "dpo"}}, cost={"steps": 8.0, "loss": 0.6})
    folder.mkdir(parents=True)
    lineage = json.loads(provenance.to_json()) | {"canary": canary, "carried": carried, "why": "why"}
    (folder / "lineage.json").write_text(json.dumps(lineage))
    return folder


def test_an_alignment_that_moved_nothing_is_warned_of(tmp_path):
    good = adapter(tmp_path / "m/dpo/seed0/adapter", "align", 20, 8)
    bad = adapter(tmp_path / "m/dpo/seed1/adapter", "align", 20, 20)
    drifted = adapter(tmp_path / "m/dpo/seed0/plain/generation1/adapter", "finetune", 8, 40)
    carried = adapter(tmp_path / "m/dpo/seed0/plain/generation2/adapter", "finetune", 8, 40, carried=True)
    warning, nothing_learned = ran.warnings([good, bad, drifted, carried], tmp_path)
    assert nothing_learned == "m/dpo/seed0/plain/generation2: why; this generation is the one before"
    assert warning.startswith("m/dpo/seed1: alignment did not lower") and "20/64 before, 20/64 after" in warning
    rows = ran.trainings([good, bad, drifted], tmp_path)
    assert rows[0][:3] == ["m, dpo, seed0", "dpo", "8"]
    assert rows[0][-1] == "0.500 (0.450 to 0.550)"  # Student's t of 63 degrees: 1.998 * 0.2 / 8
