"""A study's plan: its jobs are Snakemake's, its rates those of artifacts that are there, what is missing is said."""

import json
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from typer.testing import CliRunner

from atp import plan, sizes
from atp.artifacts import read_provenance, write_table
from atp.cli import app
from atp.config import Study, read_models, read_study
from atp.errors import AtpError
from atp.provenance import Provenance
from atp.rollout import Cell, rollout_stage
from atp.scenarios.stage import ScenarioSettings, scenarios_stage
from atp.testbeds import TESTBEDS
from atp.training import DpoSettings, GrpoSettings, SftSettings

ROOT = Path(__file__).parents[1]
MODEL = "path: some/big\ngpus: 2\n"
#: 10 scenarios x 2 samples x 2 variants x 6 rounds are 240 decisions a cell, of which there are 2 alignments x 2 seeds.
STUDY = {
    "models": ["big"],
    "alignments": ["none", "dpo"],
    "seeds": [0, 1],
    "testbeds": {
        "role_play": {
            "scenarios": {"path": "config/templates/role_play.yaml", "train": 64, "test": 10},
            "settings": {"rounds": 6},
            "context": {"sweep": {"schedule": ["all_unsupervised", "all_supervised"]}, "samples": 2},
        }
    },
}


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "models").mkdir()
    (tmp_path / "models/big.yaml").write_text(MODEL)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY))
    return tmp_path


def planned(folder: Path) -> str:
    return plan.plan(str(folder / "study.yaml"), folder / "results", folder / "models")


def cells(text: str) -> dict[str, list[str]]:
    """Rows of a plan by rule, each cell a text."""
    rows = [re.split(r" {2,}", line) for line in text.partition("\n\n")[0].splitlines()]
    return {row[0]: row[1:] for row in rows}


def artifact(path: Path, stage: str = "rollout", **cost: float) -> int:
    """A file that says what it took, on two GPUs; returns its bytes."""
    params = {"model": read_models(("big",), path.parents[8] / "models")["big"].params()}
    cost |= {"gpu_seconds": 2 * cost["wall_seconds"]}
    write_table(pa.table({"x": range(100)}), path, Provenance(stage, "code", params, cost=cost))
    return path.stat().st_size


@pytest.fixture
def measured(folder) -> tuple[Path, int]:
    """Two rollouts and an adapter of another study; the folder, and the bytes of the rollouts."""
    agent = folder / "results/old/big/role_play/none"
    total = artifact(agent / "seed0/plain/context/turns.parquet", decisions=100, wall_seconds=50.0)
    total += artifact(agent / "seed1/plain/context/turns.parquet", decisions=300, wall_seconds=100.0)
    adapter = folder / "results/old/big/role_play/dpo/seed0/adapter"
    adapter.mkdir(parents=True)
    training, cost = DpoSettings().model_dump(), {"steps": 10.0, "wall_seconds": 100.0, "gpu_seconds": 200.0}
    lineage = Provenance("align", "code", {"training": training}, cost=cost).to_json()
    (adapter / "lineage.json").write_text(lineage)
    (adapter / "weights").write_bytes(bytes(1_000_000 - len(lineage)))
    return folder, total


def test_rates_and_hours_by_hand(measured):
    """400 decisions in 150 s are 0.375 s each: 960 take 360 s, and on 2 GPUs 0.2 h; at a third of a second and at half
    of one 320 and 480 s. 64 pairs are 8 steps of 8, of two seeds 16, at 10 s each.
    """
    folder, total = measured
    found = cells(planned(folder))
    disk = f"{total / 400 * 960 / 1e3:.1f} kB"
    played = ["big", "role_play", "4", "960 decisions", "6.0 min", "5.3 min to 8.0 min", "0.20", disk, "2"]
    assert found["rollout_context"] == played
    assert found["align_agent dpo"] == ["big", "role_play", "2", "16 steps", "2.7 min", "–", "0.089", "2.0 MB", "1"]
    assert found["together"] == ["12", "8.7 min", "8.0 min to 11 min", "0.29", "2.0 MB"]


def test_what_is_not_measured_is_said_with_the_command_that_measures_it(folder):
    text = planned(folder)
    found, study = cells(text), folder / "study.yaml"
    assert found["rollout_context"] == ["big", "role_play", "4", "960 decisions", "not measured", *["–"] * 4]
    assert found["together"] == ["12", *["–"] * 4]
    assert "6 of 7 rows are not measured and stand in no sum. To measure them:" in text
    turns = "results/study/big/role_play/none/seed0/plain/context/turns.parquet"
    assert f"\n    snakemake --cores all {turns} --config study={study}\n" in text
    assert "\n    snakemake --cores all results/demo/report.html --config study=demo\n" in text


@pytest.mark.parametrize(
    "model", ["path: some/big\n", f"{MODEL}sampling: {{max_new_tokens: 9}}\n", "path: a/b\ngpus: 2"]
)
def test_other_settings_of_a_model_have_other_rates(measured, model):
    folder, _ = measured
    (folder / "models/big.yaml").write_text(model)
    assert "not measured" in cells(planned(folder))["rollout_context"]


def test_other_settings_of_a_training_have_other_rates(measured):
    folder, _ = measured
    changed = {**STUDY["testbeds"]["role_play"], "alignment": {"dpo": {"batch": 4}}}
    (folder / "study.yaml").write_text(yaml.safe_dump({**STUDY, "testbeds": {"role_play": changed}}))
    assert cells(planned(folder))["align_agent dpo"][3:5] == ["32 steps", "not measured"]


def test_a_training_that_lost_its_beginning_has_no_rate(measured):
    folder, _ = measured
    path = folder / "results/old/big/role_play/dpo/seed0/adapter/lineage.json"
    found = json.loads(path.read_text())
    path.write_text(json.dumps(found | {"cost": found["cost"] | {"resumed_steps": 5.0}}))
    assert "not measured" in cells(planned(folder))["align_agent dpo"]


@pytest.mark.parametrize("content", [b"PAR1 and no more", b""])
def test_a_broken_artifact_is_one_line_that_names_it(folder, content):
    path = folder / "results/old/big/role_play/none/seed0/plain/context/turns.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(AtpError, match=rf"^{re.escape(str(path))}: no readable Parquet file.*$"):
        planned(folder)
    path.unlink()
    lineage = folder / "results/old/big/role_play/dpo/seed0/adapter/lineage.json"
    lineage.parent.mkdir(parents=True)
    for content, said in (("{", "no readable lineage.json"), ('{"params": 1, "cost": 2}', "is of no stage's making")):
        lineage.write_text(content)
        with pytest.raises(AtpError, match=rf"^{re.escape(str(lineage.parent))}: .*{said}"):
            planned(folder)


#: Arms that change what is learned, and one that reads what another agent has lived through.
DEFENDED = {
    "plain": {},
    "frozen_memory": {"memory_of": {"alignment": "none"}},
    "replay": {"training": {"replay": 0.25}},
    "kl": {"training": {"kl": 0.1}},
    "shrink": {"training": {"shrink": 0.5}},
    "drop_caught": {"filter": {"drop_caught": True}},
    "most_rise": {"training": {"most_rise": 0.1}},
}


def defended(**changes: object) -> str:
    """The study of seconds with those arms, over two generations and two seeds."""
    study = yaml.safe_load(SMALL) | {"seeds": [0, 1]} | changes
    section = study["testbeds"]["role_play"]
    section["arms"], section["scenarios"]["train"] = DEFENDED, 2 * 8 + 8 + 64
    section["context"]["arms"] = ["plain", "frozen_memory"]
    section["weights"] |= {"generations": 2, "arms": [arm for arm in DEFENDED if arm != "frozen_memory"]}
    return yaml.safe_dump(study)


SMALL = (ROOT / "tests/workflow/study.yaml").read_text()
STUDIES = {
    **{path.stem: path.read_text() for path in sorted((ROOT / "config/studies").glob("*.yaml"))},
    "sharded": f"shards: 3\nseeds: [0, 1]\n{SMALL}",
    "split_by_size": (ROOT / "config/studies/paper_role_play.yaml").read_text().replace("test: 64", "test: 640"),
    "defended": defended(),
    "defended_without_alignment": defended(alignments=["none"], shards=2),
    "populations": (ROOT / "tests/workflow/populations.yaml").read_text(),
    "without_a_filter": SMALL.replace("      filter: {name: best_of_n}\n", "").replace("method: sft", "method: grpo"),
}


@pytest.mark.parametrize("name", STUDIES)
def test_jobs_are_those_that_snakemake_counts(name, tmp_path):
    path = tmp_path / f"{name}.yaml"
    path.write_text(STUDIES[name])
    command = [sys.executable, "-m", "snakemake", "-n", "-s", ROOT / "Snakefile", "--directory", tmp_path]
    run = subprocess.run([*command, "--config", f"study={path}"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    counted = {rule: int(number) for rule, number in re.findall(r"^([a-z_]+) +(\d+)$", run.stdout, re.M)}
    study = read_study(path)
    rows = plan.jobs(study, read_models(plan.played(study), ROOT / "config/models"), str(path))
    ours = Counter()
    for row in rows:
        ours[row.rule] += row.jobs
    assert {**ours, "total": ours.total()} == counted
    assert ("rollout_shard" in counted) == (name in ("sharded", "split_by_size", "defended_without_alignment"))
    assert ("replay" in counted) == (name in ("defended", "defended_without_alignment", "populations"))


def test_what_defended_arms_do_by_hand(tmp_path):
    """Of each arm 2 generations x 2 seeds x 2 alignments; a generation keeps 8 replies, one step. A quarter of the
    examples makes 8 + 8 / 3 = 11 of them, two steps. Two frozen cells a seed read 8 scenarios x 2 variants x 2 rounds.
    """
    (tmp_path / "study.yaml").write_text(defended())
    study = read_study(tmp_path / "study.yaml")
    rows = plan.jobs(study, read_models(("organism",), ROOT / "config/models"), "study")
    found = {(row.rule, row.kind.how.partition(" ")[0]): (row.jobs, row.work) for row in rows}
    assert found["train", "sft+kl"] == (8, 8)
    assert found["train", "sft"] == (5 * 8, 4 * 8 + 2 * 8)
    assert found["replay", ""] == found["rollout_context", ""] == (4, 4 * 8 * 2 * 2)
    assert found["prefer", ""] == (2, 2 * 8)


def test_what_reads_recorded_histories_has_a_rate_of_its_own(measured):
    """Its turns lie under the name of a rollout's, and come of one prompt a decision that holds a whole history."""
    folder, _ = measured
    section = STUDY["testbeds"]["role_play"]
    arms = {"plain": {}, "frozen": {"memory_of": {"alignment": "none"}}}
    section = section | {"arms": arms, "context": section["context"] | {"arms": list(arms)}}
    (folder / "study.yaml").write_text(yaml.safe_dump({**STUDY, "testbeds": {"role_play": section}}))
    assert cells(planned(folder))["replay"] == ["big", "role_play", "4", "960 decisions", "not measured", *["–"] * 4]
    path = folder / "results/old/big/role_play/none/seed0/frozen/context/turns.parquet"
    artifact(path, "replay", decisions=100, wall_seconds=10.0)
    found = cells(planned(folder))
    assert found["replay"][4] == "1.6 min" and found["rollout_context"][4] == "6.0 min"


def test_shards_have_the_rate_of_whole_rollouts(measured):
    """The time stands where it is spent, and the disk where something stays on it."""
    folder, total = measured
    (folder / "study.yaml").write_text(yaml.safe_dump({**STUDY, "shards": 5}))
    found = cells(planned(folder))
    played = ["big", "role_play", "20", "960 decisions", "6.0 min", "5.3 min to 8.0 min", "0.20", "–", "2"]
    assert found["rollout_shard rollout_context"] == played
    assert found["rollout_context"][2:] == ["4", *["–"] * 4, f"{total / 400 * 960 / 1e3:.1f} kB", "2"]


@pytest.mark.parametrize(
    ("testbed", "settings"),
    [
        ("role_play", {"rounds": 3}),
        ("coordination", {"rounds": 2, "agents": 5, "fixed": 2}),
        ("bargaining", {"rounds": 2, "agents": 3, "raisers": 1}),
        ("tool_use", {"rounds": 2, "easy": 2, "hard": 0, "tests": 1}),
        ("tool_use", {"rounds": 3, "easy": 1, "tests": 0}),
    ],
)
def test_turns_are_those_that_are_played(testbed, settings, tmp_path):
    scenarios, out = tmp_path / "scenarios.parquet", tmp_path / "turns.parquet"
    made = ScenarioSettings(source="templates", path=f"config/templates/{testbed}.yaml", templates=None, test=2)
    scenarios_stage(made, testbed, scenarios)
    cell = Cell("scripted:random", testbed, "none", "plain", 0, "context", 0)
    rollout_stage(scenarios, out, cell, {"default": settings}, "test", samples=3)
    assert read_provenance(out)["cost"]["decisions"] == 2 * 3 * TESTBEDS[testbed].settings(**settings).turns
    assert read_provenance(scenarios)["cost"]["scenarios"] == 2


@pytest.mark.parametrize(
    ("training", "examples", "steps"),
    [
        (SftSettings(batch=8, epochs=2), 64, 16),
        (SftSettings(batch=8, epochs=2), 65, 18),
        (DpoSettings(batch=8, epochs=0.5), 65, 5),
        (GrpoSettings(batch=64, generations=8), 64, 8),
        (GrpoSettings(batch=64, generations=8), 63, 7),  # a step asks 8 prompts, and 7 are left over
    ],
)
def test_steps(training, examples, steps):
    assert sizes.steps(training, examples) == steps


@pytest.mark.parametrize(
    ("kept", "examples"),
    [
        ({"name": "best_of_n"}, 24),
        ({"name": "top_k", "k": 3}, 72),
        ({"name": "top_k", "k": 9}, 96),
        ({"name": "positive_advantage"}, 96),
        (None, 24),
    ],
)
def test_what_a_filter_can_keep(kept, examples):
    """6 scenarios x 4 rounds are 24 questions, each with 4 samples; tests are none."""
    section = {
        "scenarios": {"path": "config/templates/tool_use.yaml", "train": 6},
        "settings": {"rounds": 4, "tests": 2},
        "weights": {
            "generations": 1,
            "scenarios": 6,
            "samples": 4,
            "filter": kept,
            "training": {"method": "sft" if kept else "grpo"},
        },
    }
    study = Study.model_validate({"models": ["m"], "testbeds": {"tool_use": section}})
    found = study.testbeds["tool_use"]
    assert sizes.examples("tool_use", found, "plain") == examples
    assert sizes.seen("tool_use", found, "plain") == 96
    assert sizes.decisions("tool_use", found, "plain", "deployment") == 6 * 4 * (4 + 5 * 2)


def test_a_study_of_a_thousand_jobs_is_planned_at_once(folder):
    study = {**STUDY, "seeds": list(range(200))}
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    for seed in range(200):
        path = folder / f"results/old/big/role_play/none/seed{seed}/plain/context/turns.parquet"
        artifact(path, decisions=100, wall_seconds=50.0)
    begun = time.monotonic()
    found = cells(planned(folder))
    assert time.monotonic() - begun < 5  # half a second where nothing else runs
    assert found["rollout_context"][2:4] == ["400", "96,000 decisions"] and found["rollout_context"][-1] == "200"


def test_on_the_command_line(measured, monkeypatch):
    folder, _ = measured
    options = ["--results", str(folder / "results"), "--models", str(folder / "models")]
    run = CliRunner().invoke(app, ["plan", str(folder / "study.yaml"), *options])
    assert run.exit_code == 0 and cells(run.stdout)["rollout_context"][4] == "6.0 min"
    told = " ".join(CliRunner().invoke(app, ["plan", "--help"]).stdout.split())
    assert "Say what a study will take" in told and "--results" in told
    missing = CliRunner().invoke(app, ["plan", "no_such_study"])
    assert str(missing.exception) == "config/studies/no_such_study.yaml: no such file"
    heavy = "import sys, atp.plan; print({'torch', 'polars', 'snakemake'} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", heavy], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "torch" not in loaded.stdout and "snakemake" not in loaded.stdout
