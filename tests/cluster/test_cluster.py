"""A small study through the SLURM profile, with what befalls jobs on a cluster: its turns are those of a quiet run."""

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
RESULTS = "results/small/organism_with_gpu/role_play/none/seed0/plain"
UNLOCK = (sys.executable, "workflow/scripts/unlock.py")
#: The jobs with a model, by what happens to each.
TOLD, OVER, CANCELLED, TOO_BIG, LEFT = "rollout_context", "rollout_weights_0", "evaluate_0", "train_1", "evaluate_1"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory) -> Iterator[None]:
    if reason := unfit():
        pytest.skip(reason)
    with daemons(tmp_path_factory.mktemp("slurm")):
        yield


@pytest.fixture(scope="module")
def project(slurm, tmp_path_factory) -> Path:
    """The study through SLURM, from its start to its report, with a blow to each job that loads a model."""
    folder = copy(tmp_path_factory.mktemp("cluster"))
    with through_slurm(folder) as process:
        blows = {TOLD: near_its_limit, OVER: over_its_limit, CANCELLED: cancelled}
        while blows:
            job = wait(lambda: [job for job in jobs() if job.name in blows and job.state == "RUNNING"], "a job")[0]
            blows.pop(job.name)(job, folder)
            assert process.poll() is None
        # The job that took too much memory is tried again while its node takes no others any more.
        wait(lambda: states(TOO_BIG)[1:] == ["RUNNING"], "a second try of training", 180)
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
    """Two minutes before a job's limit SLURM sends the signal that the profile asks for: the stage stops by itself.

    SLURM looks twice a minute; till then the stage is held. Before a signal to end it sends one to go on.
    """
    wait(lambda: list(folder.glob(f"{RESULTS}/context/.turns.parquet.unfinished/*/*.parquet")), "a finished batch")
    playing(folder).suspend()
    run("scontrol", "update", f"JobId={job.number}", "TimeLimit=1")
    wait(lambda: states(job.name) != ["RUNNING"], "the signal")


def over_its_limit(job: Job, folder: Path) -> None:
    playing(folder).suspend()
    run("scontrol", "update", f"JobId={job.number}", "EndTime=now")
    wait(lambda: states(job.name) != ["RUNNING"], "the time limit")


def cancelled(job: Job, folder: Path) -> None:
    playing(folder)
    run("scancel", job.number)


def playing(folder: Path) -> psutil.Process:
    """The process of the rollout that runs: the GPU lets one at a time."""

    def found() -> list[psutil.Process]:
        here = [each for each in psutil.process_iter(["cmdline", "cwd"]) if each.info["cwd"] == str(folder)]
        return [each for each in here if any(word.endswith(".rollout.py") for word in each.info["cmdline"][:2])]

    return wait(found, "a rollout")[0]


def states(name: str) -> list[str]:
    return [job.state for job in jobs() if job.name == name]


def copy(folder: Path) -> Path:
    """The project with a study, its model, and an account in the profile."""
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
    """A run of the study in a process group of its own, which is killed at the end if it has not ended."""
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
    """Content of every turns, selection and evaluation file."""
    files = folder.glob(f"{RESULTS}/**/*.parquet")
    return {str(file.relative_to(folder)): pq.read_table(file).to_pylist() for file in files}


def test_every_job_asks_for_what_its_stage_needs_and_more_when_it_is_tried_again(project):
    asked: dict[str, list] = {}
    for job in jobs():
        asked.setdefault(job.name, []).append((job.state, job.partition, job.gpus, job.memory, job.limit))
    again = ("COMPLETED", "gpu", 1, "2000M", "00:20:00")
    assert asked == {
        "generate_scenarios": [("COMPLETED", "cpu", 0, "1000M", "00:30:00")],
        TOLD: [("FAILED", "gpu", 1, "1000M", "00:01:00"), again],
        OVER: [("TIMEOUT", "gpu", 1, "1000M", "00:01:00"), again],
        CANCELLED: [("CANCELLED", "gpu", 1, "1000M", "00:10:00"), again],
        "select_0": [("COMPLETED", "cpu", 0, "1000M", "00:30:00")],
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
    ("name", "said"), [(TOLD, "of 128 episodes; a rerun goes on there"), (TOO_BIG, "exceeded memory limit")]
)
def test_why_a_job_failed_stands_in_its_log(project, name, said):
    first = next(job for job in jobs() if job.name == name)
    assert said in Path(first.log).read_text()


def test_a_killed_run_is_not_started_again_beside_the_jobs_it_left(project):
    left = next(job for job in jobs() if job.name == LEFT)
    assert f"scancel {left.number}" in (project / "unlock.txt").read_text()


def test_the_turns_are_those_of_an_undisturbed_run(project, tmp_path):
    folder = copy(tmp_path)
    with snakemake(folder, "--cores", "2", "--profile", "workflow/profiles/default", "evaluate", "rollout") as process:
        finish(process, folder)
    assert turns(project) == turns(folder)
    assert len(turns(folder)) == 5
