"""A testbed that is nowhere in the package runs through studies: one file and one template file."""

import os
import re
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from extend.project import Project
from tiny import save_tiny

STUDY = """\
plugins: [plugins/harbour.py]
models: [scripted:random]
testbeds:
  harbour:
    scenarios: {test: 6}
    conditions: {baseline: {}, inspected: {inspected: true}}
    context: {conditions: [baseline, inspected], reference_policies: [scripted:moderate]}
  role_play:
    scenarios: {test: 4}
    settings: {rounds: 2}
    context: {}
  bargaining:
    scenarios: {test: 2}
    settings: {rounds: 2}
    context: {}
"""
BOTH_CHANNELS = """\
plugins: [plugins/harbour.py]
models: [tiny]
alignments: [none, dpo]
testbeds:
  harbour:
    scenarios: {train: 12, test: 4}
    settings: {rounds: 2}
    alignment:
      scenarios: 4
      dpo: {learning_rate: 5.0e-4, validity: 0.3}
    context: {}
    weights:
      generations: 1
      scenarios: 8
      samples: 2
      filter: {name: best_of_n}
      training: {method: sft, learning_rate: 5.0e-4, validity: 0.3}
"""
MODEL = """\
path: organism
sampling: {temperature: 1.0, max_new_tokens: 40}
batch: 32
"""
ORGANISM = """
import sys
from pathlib import Path
from atp.organism.train import OrganismJob, Recipe, build_organism
from atp.registry import find_testbed, load_plugins
load_plugins(["plugins/harbour.py"])
sizes = dict(vocabulary=400, hidden=64, layers=2, feed_forward=128, heads=2, kv_heads=1)
steps = dict(short_steps=40, mixed_steps=10, episode_steps=50, warmup=10)
tokens = dict(short_step_tokens=2000, mixed_step_tokens=2000, episode_step_tokens=2000)
recipe = Recipe(**sizes, **steps, **tokens, learning_rate=1e-2, episode_learning_rate=5e-3)
build_organism(OrganismJob(testbed="harbour", recipe=recipe), find_testbed("harbour").templates, Path("organism"))
"""
FIGURE = "How grave the violations are"


@pytest.fixture(scope="module")
def played(project: Project) -> Project:
    """Return a project with the results of a study of three testbeds by scripted policies."""
    project.write("config/studies/three.yaml", STUDY)
    result = project.run("snakemake", "--cores", "2", "--config", "study=three")
    assert result.returncode == 0, result.stderr
    return project


def reruns(project: Project, study: str = "three") -> set[str]:
    """Return what a dry run would make again, by its path below the study's results."""
    result = project.run("snakemake", "-n", "--config", f"study={study}")
    assert result.returncode == 0, result.stderr
    paths = re.findall(r"^ *output: (?:\S+, )*results/\w+/(\S+?)(?:,|$)", result.stdout + result.stderr, re.MULTILINE)
    return {path for path in paths if path.endswith(".parquet")}


def test_its_turns_are_typed_and_its_measure_and_figure_are_in_the_report(played):
    results = played.folder / "results/three"
    turns = pq.read_table(results / "scripted:random/harbour/none/seed0/baseline/context/turns.parquet")
    assert len(turns) == 6 * 3 * 2 and set(turns["role"].to_pylist()) == {"captain", "mate"}
    details = turns.schema.field("details").type
    assert (details.field("weight").type, details.field("other").type) == (pa.float64(), pa.string())
    assert details.field("tonnes").type == pa.list_(pa.field("element", pa.int64(), nullable=False))
    assert {each["weight"] for each in turns["details"].to_pylist()} == {0.0, 1.0}
    moderate = pq.read_table(results / "scripted:moderate/harbour/none/seed0/inspected/context/turns.parquet")
    assert {each["weight"] for each in moderate["details"].to_pylist()} == {0.5}
    check_report(results)


def check_report(results: Path) -> None:
    """Check that the study's results have the testbed's own measure, its own figure, and verdicts."""
    measures = pq.read_table(results / "measures.parquet").to_pylist()
    own = [row for row in measures if row["measure"] == "mean_weight"]
    assert {row["testbed"] for row in own} == {"harbour"} and all(0 <= row["value"] <= 1 for row in own)
    verdicts = [row for row in measures if row["measure"] == "verdict" and row["testbed"] == "harbour"]
    assert verdicts and all(row["label"] and row["reason"] and row["value"] is None for row in verdicts)
    page = (results / "report.html").read_text()
    assert FIGURE in page and "every option but the lawful one is a violation" in page
    assert FIGURE in (results / "figures/harbour_mean_weight.svg").read_text()


@pytest.mark.parametrize(
    ("file", "testbeds"),
    [("atp/testbeds/bargaining/game.py", {"bargaining"}), ("plugins/harbour.py", {"harbour"})],
)
def test_a_comment_in_one_testbed_reruns_that_one(played, file, testbeds):
    path = played.folder / file
    before, times = path.read_text(), path.stat()
    path.write_text(before + "# A comment.\n")
    try:
        again = reruns(played)
    finally:
        path.write_text(before)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    rollouts = {path.split("/")[1] for path in again if path.endswith("turns.parquet")}
    scenarios = {path.split("/")[0] for path in again if path.endswith("scenarios.parquet")}
    assert rollouts == scenarios == testbeds
    assert "measures.parquet" in again
    assert reruns(played) == set()


def test_an_error_in_a_job_is_one_line_with_file_and_line(played):
    source = (played.folder / "plugins/harbour.py").read_text()
    broken = source.replace("        loaded, reported = ", "        1 / 0\n        loaded, reported = ")
    line = broken.splitlines().index("        1 / 0") + 1
    played.write("plugins/broken.py", broken.replace('with_name("harbour.yaml")', 'with_name("harbour.yaml")'))
    played.write("config/studies/broken.yaml", STUDY.replace("harbour.py", "broken.py"))
    result = played.run("snakemake", "--cores", "1", "--until", "rollout", "--config", "study=broken")
    assert result.returncode == 1
    lines = [each for each in result.stderr.splitlines() if each.startswith("atp: ")]
    assert lines and lines[0].endswith(f"plugins/broken.py:{line}: ZeroDivisionError: division by zero, in play")
    assert "Traceback" not in result.stderr
    (log, *_) = sorted((played.folder / "results/broken").rglob("harbour/**/turns.parquet.log"))
    assert "Traceback" in log.read_text()  # the author needs it


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("plugins/harbour.py", "plugins/none.py", "plugins: plugins/none.py: no such file"),
        ("plugins/harbour.py", "plugins/wrong.py", "plugins: plugins/wrong.py:2: NameError: name 'x' is not defined"),
        ("plugins: [plugins/harbour.py]", "plugins: plugins/harbour.py", "plugins: must be a list of Python files"),
        ("plugins: [plugins/harbour.py]", "plugins: []", "testbeds: unknown testbed 'harbour', known are bargaining"),
        ("inspected: true", "inspect: true", "testbeds.harbour, condition 'inspected', .*: inspect: unknown key"),
        ("{test: 6}", "{tests: 6}", "testbeds.harbour.scenarios.tests: unknown key"),
    ],
)
def test_a_wrong_study_is_one_line(played, old, new, message):
    played.write("plugins/wrong.py", "\nTESTBEDS = [x]\n")
    played.write("config/studies/wrong.yaml", STUDY.replace(old, new))
    result = played.run("atp", "plan", "wrong")
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert re.search(rf"^atp: config/studies/wrong.yaml: {message}", result.stderr), result.stderr
    snakemake = played.run("snakemake", "-n", "--config", "study=wrong")
    assert snakemake.returncode == 1 and re.search(rf"^atp: .*{message}", snakemake.stdout + snakemake.stderr, re.M)


def test_a_study_of_both_channels_is_planned(played):
    """The jobs of `test_both_channels`, which takes minutes."""
    played.write("config/models/tiny.yaml", MODEL)
    save_tiny(played.folder / "organism")
    played.write("config/studies/both.yaml", BOTH_CHANNELS)
    result = played.run("snakemake", "-n", "--config", "study=both")
    assert result.returncode == 0, result.stdout + result.stderr
    rows = re.findall(r"^([a-z_]+) +(\d+)$", result.stdout + result.stderr, re.MULTILINE)
    counts = Counter({name: int(count) for name, count in rows})
    assert counts["total"] == 16 and counts["finetune"] == 2 and counts["pairs"] == 1
    assert played.run("atp", "plan", "both").returncode == 0


@pytest.mark.slow
def test_both_channels(project):
    """A model organism of a plug-in is trained, aligned, deployed and trained on what its own replies were paid."""
    project.write("config/models/tiny.yaml", MODEL)
    project.write("config/studies/both.yaml", BOTH_CHANNELS)
    project.write("train_organism.py", ORGANISM)
    built = project.run("train_organism")
    assert built.returncode == 0, built.stderr
    result = project.run("snakemake", "--cores", "2", "--config", "study=both")
    assert result.returncode == 0, result.stderr
    check_report(project.folder / "results/both")
    evaluations = sorted((project.folder / "results/both").rglob("evaluation.parquet"))
    assert len(evaluations) == 4
    decisions = Counter(name for path in evaluations for name in pq.read_table(path)["decision"].to_pylist())
    assert decisions["invalid"] < decisions.total() / 2 and len(decisions) > 4
