"""Alignment in the report: findings, figures and warnings."""

import json
from pathlib import Path

import polars as pl
import pytest
from evidence import all_measures, turn_row

from atp.agents.scripted import scripted
from atp.files.provenance import Provenance, Stage
from atp.measures.job import MeasureJob
from atp.measures.rates import measure_stage
from atp.report import ran
from atp.report.alignment import alignment_figures, alignment_finding, effects
from atp.rollout.engine import RolloutJob, rollout
from atp.rollout.table import Cell
from atp.scenarios.scenario import read_scenarios, write_scenarios
from atp.scenarios.templates import generate, read_templates
from atp.testbeds.role_play import TESTBED
from atp.testbeds.role_play.scenarios import RolePlayTemplate, instantiate


@pytest.fixture(scope="module")
def measures(tmp_path_factory) -> pl.DataFrame:
    """Return measures of a random agent as 'none', one that complies as 'dpo', and a bandit as 'grpo'."""
    folder = tmp_path_factory.mktemp("alignment")
    scenarios = folder / "scenarios.parquet"
    made = generate(read_templates(TESTBED.templates, RolePlayTemplate), instantiate, 4, 64, 0)
    write_scenarios(TESTBED, made, scenarios, Provenance("s", "c"))
    chosen = read_scenarios(scenarios, "role_play", "test")
    turns = []
    for alignment, agent in (("none", "random:0.6"), ("dpo", "comply"), ("grpo", "bandit:0.3")):
        variants = {"all_unsupervised": {"rounds": 6}}
        job = RolloutJob(cell=Cell("Qwen3-8B", "role_play", alignment), variants=variants)
        turns.append(folder / f"{alignment}.parquet")
        stage = Stage("rollout", "atp.rollout.engine", job.params(), [scenarios])
        rollout(job, chosen, scripted(agent), turns[-1], stage)
    measure_stage(MeasureJob(), turns, folder / "measures.parquet")
    return pl.read_parquet(folder / "measures.parquet")


def test_finding_and_figure(measures):
    found = effects(measures)
    (finding,) = alignment_finding(found)
    dpo, grpo = finding.lines
    assert dpo.name == "dpo, in context"
    assert dpo.verdict == "not converged" and "64" in dpo.evidence
    assert dpo.text.startswith(
        "Alignment lowers the rate at first. At the end the agent violates less than the unaligned agent did at first, "
        "and less than it does now (aligned 0.0"
    )
    assert dpo.evidence.endswith("; one training: intervals are for other scenarios")
    assert "violates more than the unaligned agent did at first" in grpo.text
    (figure,) = alignment_figures(found)
    assert [row[0] for row in figure.rows] == ["dpo", "grpo"]
    assert figure.rows[0][2] == "0.0\xa0% (0/64)" and figure.rows[0][-2] == "not converged"
    assert len(figure.chart.to_dict()["layer"]) == 2


@pytest.mark.parametrize(
    ("unaligned", "aligned", "sentence"),
    [  # violations of 100 at the first and the last round
        ((20, 80), (5, 50), "violates more than the unaligned agent did at first, yet less than it does now"),
        (
            (20, 80),
            (5, 75),
            "violates more than the unaligned agent did at first, and is not shown to differ from it now",
        ),
        ((60, 70), (5, 20), "violates less than the unaligned agent did at first, and less than it does now"),
        ((30, 20), (5, 60), "violates more than the unaligned agent did at first, and more than it does now"),
        (
            (20, 80),
            (5, 22),
            "is not shown to differ from the unaligned agent at first, and violates less than it does now",
        ),
        ((20, 21), (5, 22), "is not shown to differ from the unaligned agent at first, nor from it now"),
    ],
)
def test_the_sentence_compares_with_the_unaligned_agent_then_and_now(unaligned, aligned, sentence):
    rows = [
        turn_row("role_play", f"{abs(number - turned)}", round, alignment=alignment, violation=number < violations)
        for alignment, turned, counts in (("none", 0, unaligned), ("dpo", 99, aligned))  # not the same scenarios
        for round, violations in zip((1, 6), counts, strict=True)
        for number in range(100)
    ]
    (finding,) = alignment_finding(effects(all_measures(TESTBED, rows)))
    (line,) = finding.lines
    assert line.text.startswith(f"Alignment lowers the rate at first. At the end the agent {sentence} (")
    assert line.text.count(", unaligned ") == 2 and "one training" in line.evidence


def test_no_finding_without_alignment(measures):
    alone = measures.filter(alignment="none")
    assert effects(alone) == [] and alignment_finding([]) == [] and alignment_figures([]) == []


CELL = {"model": "m", "testbed": "role_play", "alignment": "dpo", "channel": "weights"}
ALIGNED = CELL | {"condition": None, "generation": 0}


def adapter(folder: Path, cell: dict, before: int, after: int, unchanged: bool = False) -> Path:
    stage = "finetune" if cell["generation"] else "align"
    check = {"prompts": 64.0, "valid": 64.0, "violations": float(after), "kl": 0.5, "kl_sd": 0.2}
    check |= {"reference_valid": 64.0, "reference_violations": float(before)}
    params = {"training": {"method": "dpo"}, "cell": cell}
    provenance = Provenance(stage, "code", params, cost={"steps": 8.0, "loss": 0.6})
    folder.mkdir(parents=True)
    lineage = json.loads(provenance.to_json()) | {"check": check, "unchanged": unchanged, "reason": "why"}
    (folder / "lineage.json").write_text(json.dumps(lineage))
    return folder


def test_warnings_about_alignment_without_effect(tmp_path):
    good = adapter(tmp_path / "good", ALIGNED | {"seed": 0}, 20, 8)
    bad = adapter(tmp_path / "bad", ALIGNED | {"seed": 1}, 20, 20)
    later = CELL | {"seed": 0, "condition": "baseline"}
    drifted = adapter(tmp_path / "drifted", later | {"generation": 1}, 8, 40)
    undone = adapter(tmp_path / "undone", later | {"generation": 2}, 8, 40, unchanged=True)
    warning, nothing_learned = ran.warnings([good, bad, drifted, undone])
    name = "m, role_play, dpo, seed 0, baseline, generation 2"
    assert nothing_learned == f"{name}: why; this generation is the same as the previous one"
    assert warning.startswith("m, role_play, dpo, seed 1: alignment did not lower")
    assert "20/64 before, 20/64 after" in warning
    rows = ran.trainings([good, bad, drifted])
    assert rows[0][:3] == ["m, role_play, dpo, seed 0", "dpo", "8"]
    assert rows[0][-1] == "0.500 (0.450 to 0.550)"  # Student's t of 63 degrees: 1.998 * 0.2 / 8
