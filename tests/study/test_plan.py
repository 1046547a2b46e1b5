"""A study's plan: jobs as Snakemake counts them, rates from existing artifacts, and marked rows without a rate."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from studies import defended
from typer.testing import CliRunner

from atp.cli import app
from atp.errors import AtpError
from atp.files.provenance import VERSION, Provenance
from atp.files.tables import read_provenance, write_table
from atp.registry import find_testbed
from atp.rollout.engine import RolloutJob, rollout_stage
from atp.rollout.table import Cell
from atp.scenarios.sources import ScenariosJob, scenarios_stage
from atp.study import plan, power, sizes
from atp.study.jobs import study_jobs
from atp.study.project import Project
from atp.study.read import read_models, read_project, read_study
from atp.study.study import Study
from atp.training import DpoSettings, GrpoSettings, SftSettings
from atp.units import size

ROOT = Path(__file__).parents[2]
MODEL = "path: some/big\ngpus: 2\n"
#: 10 scenarios x 2 samples x 2 variants x 6 rounds are 240 decisions per cell, for 2 alignments x 2 seeds.
STUDY = {
    "models": ["big"],
    "alignments": ["none", "dpo"],
    "seeds": [0, 1],
    "testbeds": {
        "role_play": {
            "scenarios": {"train": 64, "test": 10},
            "settings": {"rounds": 6},
            "alignment": {"dpo": {"per_device_train_batch_size": 4}},
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


def power_of(text: str, comparison: str) -> list[str]:
    """Return units and power of a comparison in a plan."""
    (line,) = (line for line in text.splitlines() if f"  {comparison}  " in line)
    return re.split(r" {2,}", line)[2:]


def test_a_plan_prints_the_power_of_each_comparison(folder):
    text = planned(folder)
    units, power = power_of(text, "drift over 6 rounds is recognised")
    assert units == "10 scenarios x 2 replies" and int(power.removesuffix(" %")) < 50
    assert power_of(text, "gap of dpo to none in context")[0] == "2 trainings"
    section = {**STUDY["testbeds"]["role_play"], "scenarios": {"train": 128, "test": 256}}
    section["context"] = {**section["context"], "samples": 4}
    section["conditions"] = {"baseline": {}, "supervised": {"schedule": "all_supervised"}}
    section["weights"] = {
        "generations": 2,
        "scenarios": 8,
        "conditions": ["baseline", "supervised"],
        "filter": {"name": "best_of_n"},
        "training": {"method": "sft"},
        "seeds": {"none": [0, 1, 2, 3, 4]},
    }
    large = {**STUDY, "seeds": [0], "testbeds": {"role_play": section}}
    (folder / "study.yaml").write_text(yaml.safe_dump(large))
    text = planned(folder)
    assert int(power_of(text, "drift over 6 rounds is recognised")[1].removesuffix(" %")) > 80
    assert power_of(text, "gap of dpo to none in context") == ["1 training", "none: one training"]
    assert power_of(text, "change over 2 generations, alignment dpo") == ["1 training", "none: one training"]
    units, power = power_of(text, "a condition differs from the baseline, alignment none (1 compared)")
    low, high = (int(part.removesuffix(" %")) for part in power.split(" to "))
    assert units == "5 trainings" and low < high and high > 95


def cells(text: str) -> dict[str, list[str]]:
    """Return the rows of a plan by rule, as texts."""
    rows = [re.split(r" {2,}", line) for line in text.partition("\n\n")[0].splitlines()]
    return {row[0]: row[1:] for row in rows}


def artifact(path: Path, stage: str = "rollout", **cost: float) -> int:
    """Write an artifact with a cost, on two GPUs, and return its size in bytes."""
    params = {"model": read_models(("big",), path.parents[8] / "models")["big"].model_dump(mode="json")}
    cost |= {"gpu_seconds": 2 * cost["wall_seconds"]}
    write_table(pa.table({"x": range(100)}), path, Provenance(stage, "code", params, cost=cost))
    return path.stat().st_size


@pytest.fixture
def measured(folder) -> tuple[Path, int]:
    """Write two rollouts and an adapter of another study; return the folder, and the bytes of the rollouts."""
    agent = folder / "results/old/big/role_play/none"
    total = artifact(agent / "seed0/baseline/context/turns.parquet", decisions=100, wall_seconds=50.0)
    total += artifact(agent / "seed1/baseline/context/turns.parquet", decisions=300, wall_seconds=100.0)
    adapter = folder / "results/old/big/role_play/dpo/seed0/adapter"
    adapter.mkdir(parents=True)
    training = DpoSettings(per_device_train_batch_size=4).model_dump()
    cost = {"steps": 10.0, "wall_seconds": 100.0, "gpu_seconds": 200.0}
    lineage = Provenance("align", "code", {"training": training}, cost=cost).to_json()
    (adapter / "lineage.json").write_text(lineage)
    (adapter / "weights").write_bytes(bytes(1_000_000 - len(lineage)))
    return folder, total


def test_rates_and_hours_by_hand(measured):
    """400 decisions in 150 s are 0.375 s each, so 960 take 360 s, and on 2 GPUs 0.2 h; at 1/3 s and 1/2 s they take 320
    and 480 s. 64 pairs are 8 steps of 4 on each GPU, or 16 for two seeds, at 10 s each.
    """
    folder, total = measured
    found = cells(planned(folder))
    disk = size(total / 400 * 960)
    played = ["big", "role_play", "4", "960 decisions", "6.0 min", "5.3 min to 8.0 min", "0.20", disk, "2"]
    assert found["rollout"] == played
    assert found["align dpo"] == ["big", "role_play", "2", "16 steps", "2.7 min", "–", "0.089", "2.0 MB", "1"]
    assert found["total"] == ["12", "8.7 min", "8.0 min to 11 min", "0.29", "2.0 MB"]


def test_rows_without_a_rate_have_a_command_that_measures_it(folder):
    text = planned(folder)
    found, study = cells(text), folder / "study.yaml"
    assert found["rollout"] == ["big", "role_play", "4", "960 decisions", "not measured", *["–"] * 4]
    assert found["total"] == ["12", *["–"] * 4]
    assert "6 of 7 rows are not measured and left out of the totals. To measure them:" in text
    turns = "results/study/big/role_play/none/seed0/baseline/context/turns.parquet"
    assert f"\n    snakemake --cores all {turns} --config study={study}\n" in text
    assert "\n    snakemake --cores all results/demo/report.html --config study=demo\n" in text


@pytest.mark.parametrize(
    "model", ["path: some/big\n", f"{MODEL}sampling: {{max_new_tokens: 9}}\n", "path: a/b\ngpus: 2"]
)
def test_other_settings_of_a_model_have_other_rates(measured, model):
    folder, _ = measured
    (folder / "models/big.yaml").write_text(model)
    assert "not measured" in cells(planned(folder))["rollout"]


def test_other_settings_of_a_training_have_other_rates(measured):
    folder, _ = measured
    changed = {**STUDY["testbeds"]["role_play"], "alignment": {"dpo": {"per_device_train_batch_size": 2}}}
    (folder / "study.yaml").write_text(yaml.safe_dump({**STUDY, "testbeds": {"role_play": changed}}))
    assert cells(planned(folder))["align dpo"][3:5] == ["32 steps", "not measured"]


def test_a_training_that_lost_its_beginning_has_no_rate(measured):
    folder, _ = measured
    path = folder / "results/old/big/role_play/dpo/seed0/adapter/lineage.json"
    found = json.loads(path.read_text())
    path.write_text(json.dumps(found | {"cost": found["cost"] | {"resumed_steps": 5.0}}))
    assert "not measured" in cells(planned(folder))["align dpo"]


@pytest.mark.parametrize("content", [b"PAR1 and no more", b""])
def test_a_broken_artifact_is_one_line_that_names_it(folder, content):
    path = folder / "results/old/big/role_play/none/seed0/baseline/context/turns.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(AtpError, match=rf"^{re.escape(str(path))}: no readable Parquet file.*$"):
        planned(folder)
    path.unlink()
    lineage = folder / "results/old/big/role_play/dpo/seed0/adapter/lineage.json"
    lineage.parent.mkdir(parents=True)
    for content, message in (
        ("{", "no readable lineage.json"),
        (json.dumps({"schema": VERSION, "params": 1, "cost": 2}), "was not written by a stage"),
    ):
        lineage.write_text(content)
        with pytest.raises(AtpError, match=rf"^{re.escape(str(lineage.parent))}: .*{message}"):
            planned(folder)


def test_what_defended_conditions_do_by_hand(tmp_path):
    """Each condition has 2 generations x 2 seeds x 2 alignments. A generation selects 8 replies, which are one step.
    With a quarter of rehearsal there are 8 + 8 / 3 = 11 examples, or two steps. Two cells per seed read histories of
    8 scenarios x 2 variants x 2 rounds.
    """
    (tmp_path / "study.yaml").write_text(defended())
    rows = plan.rows_of(read_project({"study": str(tmp_path / "study.yaml")}), "study")
    found = {(row.rule, row.kind.training.partition(" ")[0]): (row.jobs, row.work) for row in rows}
    assert found["finetune", "sft+kl"] == (8, 8)
    assert found["finetune", "sft"] == (5 * 8, 4 * 8 + 2 * 8)
    assert found["transplant", ""] == found["rollout", ""] == (4, 4 * 8 * 2 * 2)
    assert found["pairs", ""] == (2, 2 * 8)


def test_transplanted_histories_have_their_own_rate(measured):
    """Their turns have the file names of rollouts, but each decision has a prompt with a complete history."""
    folder, _ = measured
    section = STUDY["testbeds"]["role_play"]
    conditions = {"baseline": {}, "frozen": {"history_from": {"alignment": "none"}}}
    section = section | {"conditions": conditions, "context": section["context"] | {"conditions": list(conditions)}}
    (folder / "study.yaml").write_text(yaml.safe_dump({**STUDY, "testbeds": {"role_play": section}}))
    assert cells(planned(folder))["transplant"] == [
        "big",
        "role_play",
        "4",
        "960 decisions",
        "not measured",
        *["–"] * 4,
    ]
    path = folder / "results/old/big/role_play/none/seed0/frozen/context/turns.parquet"
    artifact(path, "transplant", decisions=100, wall_seconds=10.0)
    found = cells(planned(folder))
    assert found["transplant"][4] == "1.6 min" and found["rollout"][4] == "6.0 min"


def test_shards_have_the_rate_of_whole_rollouts(measured):
    """Time and disk space are in the row of the shards; joining them takes next to nothing."""
    folder, total = measured
    (folder / "study.yaml").write_text(yaml.safe_dump({**STUDY, "shards": 5}))
    found = cells(planned(folder))
    disk = size(total / 400 * 960)
    played = ["big", "role_play", "20", "960 decisions", "6.0 min", "5.3 min to 8.0 min", "0.20", disk, "2"]
    assert found["rollout_shard rollout"] == played
    assert found["rollout"][2:] == ["4", *["–"] * 5, "2"]


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
def test_the_number_of_turns_is_that_of_a_rollout(testbed, settings, tmp_path):
    scenarios, out = tmp_path / "scenarios.parquet", tmp_path / "turns.parquet"
    scenarios_stage(ScenariosJob(testbed=testbed, settings={"test": 2}), scenarios)
    job = RolloutJob(cell=Cell("scripted:random", testbed), variants={"default": settings}, samples=3)
    rollout_stage(job, scenarios, out)
    assert read_provenance(out)["cost"]["decisions"] == 2 * 3 * find_testbed(testbed).settings(**settings).turns
    assert read_provenance(scenarios)["cost"]["scenarios"] == 2


@pytest.mark.parametrize(
    ("training", "examples", "gpus", "steps"),
    [
        (SftSettings(num_train_epochs=2), 64, 0, 16),
        (SftSettings(num_train_epochs=2), 65, 1, 18),
        (SftSettings(per_device_train_batch_size=2, gradient_accumulation_steps=2), 65, 2, 9),
        (SftSettings(max_steps=5), 65, 1, 5),
        (DpoSettings(num_train_epochs=0.5), 65, 1, 5),
        (GrpoSettings(per_device_train_batch_size=64), 64, 1, 8),
        (GrpoSettings(per_device_train_batch_size=32), 63, 2, 7),  # a step samples for 8 prompts, 7 prompts are left
        (GrpoSettings(num_iterations=2, steps_per_generation=4), 9, 1, 16),
    ],
)
def test_steps(training, examples, gpus, steps):
    assert sizes.steps(training, examples, gpus) == steps


@pytest.mark.parametrize(
    ("selection", "examples"),
    [
        ({"name": "best_of_n"}, 24),
        ({"name": "top_k", "k": 3}, 72),
        ({"name": "top_k", "k": 9}, 96),
        ({"name": "positive_advantage"}, 96),
        (None, 24),
    ],
)
def test_the_maximum_selection_of_a_filter(selection, examples):
    """6 scenarios x 4 rounds are 24 questions with 4 samples each; tests do not count."""
    section = {
        "scenarios": {"train": 6},
        "settings": {"rounds": 4, "tests": 2},
        "weights": {
            "generations": 1,
            "scenarios": 6,
            "samples": 4,
            "filter": selection,
            "training": {"method": "sft" if selection else "grpo"},
        },
    }
    study = Study.model_validate({"models": ["organism"], "testbeds": {"tool_use": section}})
    learning = study.testbeds["tool_use"].learning("baseline")
    assert sizes.examples(learning, 6 * 4) == examples
    project = Project("s", study, read_models(("organism",), ROOT / "config/models"), "", ROOT, ROOT)
    work = {step.rule: step.work for step in study_jobs(project).values()}
    assert work.get("filter", 96) == 96 and work["finetune"] == sizes.steps(learning.training, examples, 0)
    assert work["deploy"] == 6 * 4 * (4 + 5 * 2) + 64 * (1 + 2 * 2)


def test_a_study_of_a_thousand_jobs_is_planned_at_once(folder):
    study = {**STUDY, "seeds": list(range(200))}
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    for seed in range(200):
        path = folder / f"results/old/big/role_play/none/seed{seed}/baseline/context/turns.parquet"
        artifact(path, decisions=100, wall_seconds=50.0)
    begun = time.monotonic()
    found = cells(planned(folder))
    assert time.monotonic() - begun < 5  # half a second on an idle machine
    assert found["rollout"][2:4] == ["400", "96,000 decisions"] and found["rollout"][-1] == "200"


def test_on_the_command_line(measured, monkeypatch):
    folder, _ = measured
    options = ["--results", str(folder / "results"), "--models", str(folder / "models")]
    run = CliRunner().invoke(app, ["plan", str(folder / "study.yaml"), *options])
    assert run.exit_code == 0 and cells(run.stdout)["rollout"][4] == "6.0 min"
    help_text = " ".join(CliRunner().invoke(app, ["plan", "--help"]).stdout.split())
    assert "Print what a study will take" in help_text and "--results" in help_text
    missing = CliRunner().invoke(app, ["plan", "no_such_study"])
    assert str(missing.exception).startswith(
        "config/studies/no_such_study.yaml: no such file; studies of config/studies: "
    )
    heavy = "import sys, atp.study.plan; print({'torch', 'polars', 'snakemake'} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", heavy], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "torch" not in loaded.stdout and "snakemake" not in loaded.stdout


@pytest.mark.parametrize("study", sorted(Path("config/studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_power_of_each_shipped_study_can_be_printed(study, monkeypatch):
    monkeypatch.setattr(power, "REPLICATES", 2)
    assert len(power.power_lines(read_study(study))) > 2
