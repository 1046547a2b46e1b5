"""A small study with the SLURM profile and typical failures of jobs: its turns are those of an undisturbed run."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from cluster.slurm import Job, daemons, jobs, run, unfit, wait

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
PARTS = ("Snakefile", "atp", "config", "workflow", "resources", "envs")
RESULTS = "results/small/organism_with_gpu/role_play/none/seed0/baseline"
UNLOCK = (sys.executable, "workflow/scripts/unlock.py")
#: Jobs with a model, by their failure.
SIGNALLED, INTERRUPTED, TOO_BIG, LEFT = "rollout", "deploy_0", "finetune_1", "evaluate_1"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory) -> Iterator[None]:
    if reason := unfit():
        pytest.skip(reason)
    with daemons(tmp_path_factory.mktemp("slurm")):
        yield


@pytest.fixture(scope="module")
def project(slurm, tmp_path_factory) -> Path:
    """Run the study with SLURM from start to report, with a failure of each job that loads a model."""
    folder = copy(tmp_path_factory.mktemp("cluster"))
    with through_slurm(folder) as process:
        failures = {SIGNALLED: [near_its_limit], INTERRUPTED: [over_its_limit, cancelled]}
        while any(failures.values()):
            job = wait(lambda: [job for job in jobs() if failures.get(job.name) and job.state == "RUNNING"], "a job")[0]
            failures[job.name].pop(0)(job, folder)
            assert process.poll() is None
        # The job that exceeded its memory is retried; then its node accepts no further jobs.
        wait(lambda: states(TOO_BIG)[1:] == ["RUNNING"], "a retry of training", 180)
        run("scontrol", "update", "NodeName=localhost", "State=DRAIN", "Reason=test")
        wait(lambda: states(LEFT) == ["PENDING"], "the job after training", 180)
    (folder / "unlock.txt").write_text(subprocess.run(UNLOCK, cwd=folder, capture_output=True, text=True).stderr)
    run("scancel", *(job.number for job in jobs() if job.state == "PENDING"))
    subprocess.run(UNLOCK, cwd=folder, check=True)
    run("scontrol", "update", "NodeName=localhost", "State=RESUME")
    with through_slurm(folder) as process:
        finish(process, folder)
    return folder


def near_its_limit(job: Job, folder: Path) -> None:
    """Two minutes before a job's limit SLURM sends the signal that the profile requests, and the stage stops by itself.

    SLURM checks twice a minute; the stage is suspended until then. SLURM sends SIGCONT before SIGTERM.
    """
    wait(lambda: list(folder.glob(f"{RESULTS}/context/.turns.parquet.unfinished/*/*.parquet")), "a finished batch")
    playing(folder).suspend()
    run("scontrol", "update", f"JobId={job.number}", "TimeLimit=1")
    wait(lambda: "RUNNING" not in states(job.name), "the signal")


def over_its_limit(job: Job, folder: Path) -> None:
    playing(folder).suspend()
    run("scontrol", "update", f"JobId={job.number}", "EndTime=now")
    wait(lambda: "RUNNING" not in states(job.name), "the time limit")


def cancelled(job: Job, folder: Path) -> None:
    playing(folder)
    run("scancel", job.number)


def playing(folder: Path) -> psutil.Process:
    """Return the process of the running rollout; with one GPU there is at most one."""

    def found() -> list[psutil.Process]:
        here = [each for each in psutil.process_iter(["cmdline", "cwd"]) if each.info["cwd"] == str(folder)]
        return [each for each in here if any(word.endswith(".stage.py") for word in each.info["cmdline"][:2])]

    return wait(found, "a rollout")[0]


def states(name: str) -> list[str]:
    return [job.state for job in jobs() if job.name == name]


def copy(folder: Path) -> Path:
    """Copy the project, with a study, its model, and an account in the profile."""
    for part in PARTS:
        source = ROOT / part
        ignored = shutil.ignore_patterns("__pycache__", ".snakemake")
        shutil.copytree(source, folder / part, ignore=ignored) if source.is_dir() else shutil.copy2(source, folder)
    shutil.copy(Path(__file__).with_name("study.yaml"), folder / "config/studies/small.yaml")
    shutil.copy(Path(__file__).with_name("model.yaml"), folder / "config/models/organism_with_gpu.yaml")
    profile = folder / "workflow/profiles/slurm/config.yaml"
    text, count = re.subn(r"# slurm_account: NAME", "slurm_account: lab", profile.read_text())
    assert count == 1
    profile.write_text(text)
    return folder


@contextmanager
def snakemake(folder: Path, *arguments: str) -> Iterator[subprocess.Popen]:
    """Run the study in its own process group, which is killed at the end of the block if it still runs."""
    command = [sys.executable, "-m", "snakemake", *arguments, "--config", "study=small"]
    own = {**os.environ, "PYTHONPATH": str(folder)}
    with (folder / "run.log").open("a") as log:
        process = subprocess.Popen(command, cwd=folder, env=own, stdout=log, stderr=log, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def through_slurm(folder: Path):
    quick = ("--slurm-init-seconds-before-status-checks", "1")
    return snakemake(folder, "--profile", "workflow/profiles/slurm", *quick)


def finish(process: subprocess.Popen, folder: Path) -> None:
    assert process.wait(300) == 0, (folder / "run.log").read_text(errors="replace")[-3000:]


def turns(folder: Path) -> dict[str, list]:
    """Return the content of every turns, selection and evaluation file."""
    files = folder.glob(f"{RESULTS}/**/*.parquet")
    return {str(file.relative_to(folder)): pq.read_table(file).to_pylist() for file in files}


def test_jobs_request_the_resources_of_their_stage_and_more_for_a_retry(project):
    requested: dict[str, list] = {}
    for job in jobs():
        requested.setdefault(job.name, []).append((job.state, job.partition, job.gpus, job.memory, job.limit))
    again = ("COMPLETED", "gpu", 1, "2000M", "00:20:00")
    assert requested == {
        "scenarios": [("COMPLETED", "cpu", 0, "1000M", "00:30:00")],
        SIGNALLED: [("FAILED", "gpu", 1, "1000M", "00:01:00"), again],
        INTERRUPTED: [
            ("TIMEOUT", "gpu", 1, "1000M", "00:01:00"),
            ("CANCELLED", "gpu", 1, "2000M", "00:20:00"),
            ("COMPLETED", "gpu", 1, "3000M", "00:30:00"),
        ],
        "filter_0": [("COMPLETED", "cpu", 0, "1000M", "00:30:00")],
        TOO_BIG: [("FAILED", "gpu", 1, "1000M", "00:10:00"), again],
        LEFT: [("CANCELLED", "gpu", 1, "1000M", "00:10:00"), ("COMPLETED", "gpu", 1, "1000M", "00:10:00")],
        "measure": [("COMPLETED", "cpu", 0, "2000M", "00:30:00")],
        "report": [("COMPLETED", "cpu", 0, "2000M", "00:30:00")],
    }
    assert {job.account for job in jobs()} == {"lab"}


def test_jobs_with_a_gpu_wait_their_turn(project):
    ran = sorted((job.started, job.ended) for job in jobs() if job.gpus and job.started != "Unknown")
    assert all(before[1] <= after[0] for before, after in pairwise(ran))


@pytest.mark.parametrize(
    ("name", "message"), [(SIGNALLED, "of 128 episodes; a rerun resumes there"), (TOO_BIG, "exceeded memory limit")]
)
def test_the_log_of_a_failed_job_has_the_reason(project, name, message):
    first = next(job for job in jobs() if job.name == name)
    assert message in Path(first.log).read_text()


def test_a_run_does_not_start_while_jobs_of_a_killed_run_are_queued(project):
    left = next(job for job in jobs() if job.name == LEFT)
    assert f"scancel {left.number}" in (project / "unlock.txt").read_text()


def test_the_turns_are_those_of_an_undisturbed_run(project, tmp_path):
    folder = copy(tmp_path)
    with snakemake(folder, "--cores", "2", "--profile", "workflow/profiles/default", "all_rollout") as process:
        finish(process, folder)
    assert turns(project) == turns(folder)
    assert len(turns(folder)) == 5
