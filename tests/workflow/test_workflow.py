"""The workflow on a small study, in a copy of the project: its jobs, what runs again, and resuming after a kill."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from atp.files.tables import read_provenance

ROOT = Path(__file__).parents[2]
PARTS = ("Snakefile", "atp", "config", "envs", "workflow", "resources")
STUDY, TEMPLATES = "config/studies/small.yaml", "atp/testbeds/role_play/templates.yaml"
PROFILE = ("--profile", "workflow/profiles/default")
WHOLE = Counter(
    scenarios=1, pairs=1, align=1, rollout=2, deploy=2, filter=2, finetune=2, evaluate=2, measure=1, report=1, all=1
)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """Return a copy of the project in which the study has run."""
    folder = tmp_path_factory.mktemp("project")
    for part in PARTS:
        source = ROOT / part
        ignored = shutil.ignore_patterns("__pycache__", ".snakemake")
        shutil.copytree(source, folder / part, ignore=ignored) if source.is_dir() else shutil.copy2(source, folder)
    shutil.copy(Path(__file__).parent / "study.yaml", folder / "config/studies/small.yaml")
    result = snakemake(folder, *PROFILE)
    assert result.returncode == 0, result.stderr
    return folder


def command(folder: Path, *arguments: str) -> list[str]:
    base = [sys.executable, "-m", "snakemake", "--cores", "2"]
    return [*base, *arguments, "--config", "study=small"]


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(command(folder, *arguments), cwd=folder, env=own(folder), capture_output=True, text=True)


def own(folder: Path) -> dict[str, str]:
    """Return an environment in which the copy's package precedes the installed one."""
    return {**os.environ, "PYTHONPATH": str(folder)}


def planned(folder: Path, *targets: str) -> Counter:
    """Return the number of jobs of a dry run by rule."""
    result = snakemake(folder, "-n", *targets)
    assert result.returncode == 0, result.stderr
    rows = re.findall(r"^([a-z_]+) +(\d+)$", result.stdout + result.stderr, re.MULTILINE)
    return Counter({name: int(count) for name, count in rows if name != "total"})


def turns(folder: Path) -> dict[str, list]:
    """Return the content of every turns and evaluation file."""
    paths = sorted((folder / "results/small/organism").rglob("*.parquet"))
    return {str(path.relative_to(folder)): pq.read_table(path).to_pylist() for path in paths}


def test_the_whole_study_runs_once(project):
    results = project / "results/small"
    assert (results / "report.html").stat().st_size > 100_000
    assert {path.name for path in (results / "figures").iterdir()} >= {"drift_over_rounds.svg"}
    lineage = results / "organism/role_play/none/seed0/baseline/generation1/adapter/lineage.json"
    assert '"stage": "finetune"' in lineage.read_text()
    assert not list(results.rglob(".*unfinished"))
    assert planned(project) == Counter()


def test_a_hypothesis_is_fixed_before_the_first_rollout(project):
    """Every artifact has its digest. A change of it makes the report again, and nothing else, and the page says so."""
    page, study = project / "results/small/report.html", project / STUDY
    files = [*page.parent.rglob("*.parquet"), *page.parent.rglob("lineage.json")]
    digests = {read_provenance(path if path.suffix == ".parquet" else path.parent)["primary"] for path in files}
    assert len(files) > 10 and len(digests) == 1 and len(digests.pop()) == 16
    assert f"Fixed before the first rollout: all {len(files)} artifacts have" in page.read_text()
    text = study.read_text()
    try:
        study.write_text(text.replace("bound: 0.5", "bound: 0.1"))
        assert planned(project) == Counter(report=1, all=1)
        assert snakemake(project, *PROFILE).returncode == 0
        assert f"Changed after artifacts were made: of {len(files)} artifacts {len(files)} with" in page.read_text()
    finally:
        study.write_text(text)
        assert snakemake(project, *PROFILE).returncode == 0


def test_populations_and_reference_policies(project):
    """A rollout plays all variants of a cell, reference policies play too, and each testbed has its own figures."""
    shutil.copy(Path(__file__).parent / "populations.yaml", project / "config/studies")
    base = [sys.executable, "-m", "snakemake", "--cores", "2", "--config", "study=populations"]
    result = subprocess.run(base, cwd=project, env=own(project), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    results = project / "results/populations"
    rollouts = sorted(str(path.relative_to(results)) for path in results.rglob("turns.parquet"))
    assert rollouts == [
        f"scripted:{policy}/{testbed}/none/seed0/{condition}/context/turns.parquet"
        for policy, testbed, condition in (
            ("best_response", "coordination", "baseline"),
            ("best_response", "coordination", "blind"),
            ("best_response", "coordination", "transplanted_history"),
            ("random", "bargaining", "baseline"),
            ("random", "coordination", "baseline"),
            ("random", "coordination", "blind"),
            ("random", "coordination", "transplanted_history"),
        )
    ]
    grid = pq.read_table(results / rollouts[0])
    assert len(grid) == 7 * 4 * 4 * 3 and len(grid["variant"].unique()) == 4
    same, read = (pq.read_table(results / rollouts[place]) for place in (2, 6))
    assert len(re.findall("^(?:local)?rule transplant:", result.stderr, re.M)) == 2
    assert same["decision"].equals(grid["decision"]) and same["messages"].equals(read["messages"])
    assert not read["decision"].equals(grid["decision"])
    names = {path.stem for path in (results / "figures").iterdir()}
    assert {"collusion_grid", "theory_beside_simulation", "violations_by_side"} <= names
    assert {"drift_over_rounds_coordination", "drift_over_rounds_bargaining"} <= names
    assert '<section id="survives">' in (results / "report.html").read_text()


#: Rows of the table in docs/workflow.md: a change in this study, and the rules whose jobs all run again.
ROWS = {
    "a scenario template": (TEMPLATES, "name: baker", "name: cook", {*WHOLE}),
    "settings of alignment by DPO": (STUDY, "dpo: {learning_rate: 5.0", "dpo: {learning_rate: 1.0", {"align"}),
    "rounds of the context channel": (STUDY, "settings: {rounds: 2}", "settings: {rounds: 3}", {"rollout"}),
    "the filter": (STUDY, "best_of_n", "positive_advantage", {"filter"}),
    "settings of fine-tuning": (STUDY, "sft, learning_rate: 5.0", "sft, learning_rate: 1.0", {"finetune"}),
    "how generations are evaluated": (
        STUDY,
        "      filter:",
        "      evaluation: {settings: {window: 1}}\n      filter:",
        {"deploy", "evaluate", "filter", "finetune"},
    ),
    "memory or time limit of a model": ("config/models/organism.yaml", "mem_mb: 1500", "mem_mb: 9000", set()),
    "one more seed": (
        STUDY,
        "alignments:",
        "seeds: [0, 1]\nalignments:",
        {*WHOLE} - {"scenarios", "measure", "report", "all"},
    ),
    "code of preference pairs": ("atp/training/pairs.py", '"""Preference pairs', '"""The pairs', {"pairs"}),
    "code of the filter": ("atp/training/filters.py", '"""Reward', '"""The reward', {"filter"}),
    "code of a measure": ("atp/measures/rates.py", '"""Turns', '"""The turns', {"measure"}),
    "a figure": ("atp/report/figures.py", '"""Figures', '"""The figures', {"report"}),
}
RERUNS = {
    changed.strip(): (stage.strip(" `"), rules)
    for changed, stage, rules in re.findall(
        r"^\| ([^|]*) \| (`[a-z_]+`) \| ([^|]*) \|$", (ROOT / "docs/workflow.md").read_text(), re.M
    )
}


@pytest.mark.parametrize("changed", RERUNS)
def test_the_table_of_reruns(project, changed):
    file, old, new, rules = ROWS[changed]
    stage, text = RERUNS[changed]
    named = {rule for rule in WHOLE if re.search(rf"\b{rule}\b", text)}
    assert text == "everything" if "all" in rules else named == rules
    path = project / file
    before, times = path.read_text(), path.stat()
    assert old in before
    path.write_text(before.replace(old, new, 1))
    try:
        found = planned(project, stage)
    finally:
        path.write_text(before)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert {rule: count for rule, count in found.items() if rule in WHOLE} == {
        rule: WHOLE[rule] for rule in rules - {"all"}
    }


def test_every_row_is_tested():
    assert set(RERUNS) == set(ROWS)


def test_rollouts_in_shards_have_the_same_turns(project):
    """Each shard is a job, and its file is removed once the turns are gathered."""
    study = "shards: 2\n" + (project / STUDY).read_text()
    (project / "config/studies/sharded.yaml").write_text(study.replace("samples: 4", "samples: 9"))
    (project / "config/studies/whole.yaml").write_text(
        study.replace("samples: 4", "samples: 9").replace("shards: 2", "shards: 1")
    )
    cell = "organism/role_play/none/seed0/baseline"
    found = {}
    for name in ("sharded", "whole"):
        made = [
            f"results/{name}/{cell}/{file}.parquet"
            for file in ("context/turns", "generation0/turns", "generation0/evaluation")
        ]
        base = [sys.executable, "-m", "snakemake", "--cores", "2", *made, "--config", f"study={name}"]
        result = subprocess.run(base, cwd=project, env=own(project), capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert len(re.findall("^(?:local)?rule rollout_shard:", result.stderr, re.M)) == (6 if name == "sharded" else 0)
        found[name] = [pq.read_table(project / path).to_pylist() for path in made]
        assert not list(project.glob(f"results/{name}/**/*.shard*.parquet"))
    assert found["sharded"] == found["whole"] and len(found["whole"][1]) == 72


def test_a_running_stage_of_a_killed_run_keeps_the_lock(tmp_path):
    for part in (".snakemake/locks/0.input.lock", ".snakemake/scripts/stage.py"):
        (tmp_path / part).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / part).write_text("import time; time.sleep(60)")
    unlock = [sys.executable, str(ROOT / "workflow/scripts/unlock.py")]
    with subprocess.Popen([sys.executable, ".snakemake/scripts/stage.py"], cwd=tmp_path) as stage:
        living = subprocess.run(unlock, cwd=tmp_path, capture_output=True, text=True)
        stage.kill()
    assert living.returncode == 1 and f"process {stage.pid}" in living.stderr
    subprocess.run(unlock, cwd=tmp_path, check=True)
    assert not list(tmp_path.glob(".snakemake/locks/*"))


def test_a_killed_run_resumes_with_the_same_turns(project, tmp_path):
    undisturbed = turns(project)
    folder = tmp_path / "killed"
    unlock = [sys.executable, "workflow/scripts/unlock.py"]
    shutil.copytree(project, folder, ignore=shutil.ignore_patterns("results", ".snakemake"))
    for seconds in (4, 10):
        with subprocess.Popen(
            command(folder, *PROFILE),
            cwd=folder,
            env=own(folder),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as run:
            while not list((folder / ".snakemake/locks").glob("*")):
                assert run.poll() is None
                time.sleep(0.1)
            time.sleep(seconds)
            living = subprocess.run(unlock, cwd=folder, capture_output=True, text=True)
            os.killpg(run.pid, signal.SIGKILL)
        assert living.returncode == 1
        assert f"process {run.pid}" in living.stderr
        subprocess.run(unlock, cwd=folder, check=True)
    assert snakemake(folder, *PROFILE).returncode == 0
    assert turns(folder) == undisturbed
