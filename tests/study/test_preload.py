"""Jobs in forks of a process that has imported torch: exit codes, logs, signals, and its end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from studies import ROOT

from atp.rollout.engine import RolloutJob
from atp.rollout.table import Cell
from atp.scenarios.sources import ScenariosJob, scenarios_stage
from atp.study import preload
from atp.study.read import read_models

SCRIPT = "import json, sys; from atp.study.preload import delegate; sys.exit(delegate(json.loads(sys.argv[1])))"


@pytest.fixture(scope="module")
def server() -> Iterator[psutil.Process]:
    """Return a preloaded process for this one."""
    process = preload.start()
    yield psutil.Process(process.pid)
    preload.stop(process)


def task(folder: Path, out: str, rounds: int = 1, **changes: object) -> str:
    """Return a rollout of the model organism."""
    scenarios = folder / "scenarios.parquet"
    scenarios_stage(ScenariosJob(testbed="role_play", settings={"test": 16}), scenarios)
    spec = read_models(("organism",), ROOT / "config/models")["organism"].of("role_play")
    job = RolloutJob(cell=Cell("organism", "role_play"), variants={"v": {"rounds": rounds}}, samples=8)
    given = {
        "rule": "rollout",
        "stage": "rollout",
        "jobs": [json.loads(job.model_dump_json()) | {"model": spec.model_dump(mode="json")}],
        "inputs": {"scenarios": [str(scenarios)], "model": [str(ROOT / spec.path)]},
        "outputs": [str(folder / out)],
        "log": str(folder / f"{out}.log"),
        "threads": 1,
        "machine": {"gpus": 0},
        "primary": "",
        "workflow": str(ROOT),
    }
    return json.dumps(given | changes)


def script(given: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", SCRIPT, given], cwd=ROOT, stderr=subprocess.PIPE, text=True)


def wait(condition: Callable[[], object]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("nothing happened for a minute")


def test_exit_codes_logs_and_signals(server, tmp_path):
    """A killed script ends its fork; a stopped one ends after the batch, as in a process of its own."""
    with script(task(tmp_path, "turns.parquet")) as run:
        assert run.wait() == 0 and "128 of 128 episodes" in run.stderr.read()
    assert (tmp_path / "turns.parquet").is_file() and "128 of 128" in (tmp_path / "turns.parquet.log").read_text()
    with script(task(tmp_path, "wrong.parquet", inputs={"scenarios": ["nowhere"], "model": []})) as run:
        assert run.wait() == 1 and "atp: nowhere: no such file" in run.stderr.read()
    killed, stopped = (script(task(tmp_path, f"{name}.parquet", rounds=4)) for name in ("killed", "stopped"))
    wait(lambda: len(server.children()) == 2)
    killed.kill()
    wait(lambda: len(server.children()) == 1)
    wait(lambda: list(tmp_path.glob(".stopped.parquet.unfinished/*")))
    stopped.send_signal(signal.SIGTERM)
    with stopped:
        assert stopped.wait() == 1 and "stopped after" in stopped.stderr.read()
    assert not (tmp_path / "stopped.parquet").exists()


def test_without_a_preloaded_process_of_its_own_a_job_runs_by_itself(server, monkeypatch):
    address = json.loads(os.environ[preload.ADDRESS])
    for wrong in ([server.pid, *address[1:]], [address[0], "/bin/python", address[2]], [*address[:2], "/nowhere"]):
        monkeypatch.setenv(preload.ADDRESS, json.dumps(wrong))
        code = "import json; from atp.study.preload import delegate; assert delegate({}) is None"
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_it_ends_with_its_parent(tmp_path):
    code = "from atp.study.preload import start; print(start().pid, flush=True)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    wait(lambda: not psutil.pid_exists(int(run.stdout)))
