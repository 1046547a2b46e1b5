"""The progress display, as a user of the default profile sees it: without a terminal, on one, and after a failure."""

import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from studies import ROOT

from atp.study.display import Job, printable

STUDY = """\
plugins: [{policies}]
models: [scripted:patient, scripted:hostile]
testbeds:
  role_play:
    scenarios: {{test: 4}}
    settings: {{rounds: 2}}
    context: {{}}
"""
#: A policy that takes a while, and one whose error has the markup and the control characters of a terminal.
POLICIES = """\
import time

def patient():
    def play(observation, draw):
        time.sleep(0.25)
        return observation.complying
    return play

def hostile():
    def play(observation, draw):
        raise ValueError("[red]no[/red] \\x1b]0;title\\x07")
    return play

POLICIES = [patient, hostile]
"""
ROLLOUT = "scripted:{}/role_play/none/seed0/baseline/context/turns.parquet"


@pytest.fixture
def command(tmp_path) -> list[str]:
    """Return the command that runs a study in a folder of its own with the default profile."""
    (tmp_path / "policies.py").write_text(POLICIES)
    study = STUDY.format(policies=tmp_path / "policies.py")
    (tmp_path / "study.yaml").write_text(study)
    (tmp_path / "fine.yaml").write_text(study.replace(", scripted:hostile", ""))
    where = ["-s", ROOT / "Snakefile", "--directory", tmp_path, "--profile", ROOT / "workflow/profiles/default"]
    return [sys.executable, "-m", "snakemake", "--cores", "1", *map(str, where), "--configfile"]


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def on_terminal(command: list[str], folder: Path) -> str:
    """Return what a command writes to a terminal."""
    terminal, end = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(command, cwd=folder, env=environment, stdin=end, stdout=end, stderr=end):
        os.close(end)
        written = b""
        while True:
            try:
                data = os.read(terminal, 65536)
            except OSError:  # the command has ended
                break
            written += data
    os.close(terminal)
    return written.decode()


def test_without_a_terminal_each_finished_job_is_a_line(command, tmp_path):
    """A second run says that there is nothing to do, and names the report too."""
    first = run([*command, "fine.yaml"], tmp_path)
    assert first.returncode == 0, first.stdout
    path = re.escape(ROLLOUT.format("patient"))
    stages = [
        r"1 of 5  scenarios  role_play/scenarios.parquet  [\d.]+ s",
        rf"2 of 5  rollout  {path}  [\d.]+ s  4 of 4 episodes, \d+ decisions/s",
        r"3 of 5  measure  measures.parquet  [\d.]+ s",
        r"4 of 5  report  report.html  [\d.]+ s",
    ]
    report = f"The report is {tmp_path}/results/fine/report.html"
    expected = [*stages, r"5 of 5 jobs done in [\d.]+ s", re.escape(report)]
    assert re.fullmatch("\n".join(expected), "\n".join(first.stdout.splitlines()[2:])), first.stdout
    second = run([*command, "fine.yaml"], tmp_path).stdout.splitlines()[2:]
    assert second[0].startswith("Nothing to be done") and second[1:] == [report]


def test_a_terminal_shows_a_bar_and_the_running_jobs(command, tmp_path):
    text = on_terminal([*command, "fine.yaml", "--until", "rollout"], tmp_path)
    assert re.search(r"━\S*  1 of 2 jobs", text) and re.search(r"about .* left", text)
    assert re.search(rf"\nrollout  {re.escape(ROLLOUT.format('patient'))}  +[\d.]+ s", text)
    assert "2 of 2 jobs done in" in text and "Select jobs" not in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "the cursor is hidden at the end"


@pytest.mark.parametrize("start", [run, on_terminal])
def test_a_failed_job_is_named_with_its_error_and_log(command, tmp_path, start):
    result = start([*command, "study.yaml", "--until", "rollout", "--keep-going"], tmp_path)
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]|\r", "", result) if isinstance(result, str) else result.stdout
    summary = text[re.search(r"\d of 3 jobs done in [\d.]+ s, 1 failed", text).start() :]
    path = ROLLOUT.format("hostile")
    assert f"failed  rollout  {path}\n" in summary
    assert re.search(r"  atp: .*/policies.py:11: ValueError: \[red\]no\[/red\] +\]0;title", summary)
    assert summary.rstrip().endswith(f"  log: {tmp_path}/results/study/{path}.log")
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", text) and "CalledProcessError" not in text


def test_snakemakes_own_errors_are_shown(command, tmp_path):
    result = run([*command, "fine.yaml", "--", "nonsense"], tmp_path)
    assert result.returncode == 1 and "No rule to produce nonsense" in result.stdout


def test_progress_comes_from_the_end_of_this_runs_log(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"x\n" * 10_000 + b"a: 1 of 4 steps, 9 s left\na: 2 of 4 steps, 6 s left\natp: \xff\x1b[2J no\nx")
    job = Job("align", "adapter", str(log), time.time() - 60)
    assert job.progress() == ("2 of 4 steps, 6 s left", 0.5)
    assert printable(job.error()) == "atp: \ufffd [2J no"
    stale = Job("align", "adapter", str(log), time.time() + 60)
    assert stale.progress() == ("", 0.0) and "without a message" in stale.error()
