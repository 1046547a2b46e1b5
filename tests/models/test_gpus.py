"""Claims of GPUs, on a machine whose nvidia-smi is a script that names two."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

#: Claims, says what it is shown, and holds it until its input ends.
CLAIM = "import os, sys; from atp.models.gpus import claim_gpus; claim_gpus(int(sys.argv[1]), 'some model'); "
CLAIM += "print(os.environ.get('CUDA_VISIBLE_DEVICES'), flush=True); sys.stdin.read()"


@pytest.fixture
def machine(tmp_path) -> dict[str, str]:
    """An environment with two GPUs and no claims."""
    script = tmp_path / "nvidia-smi"
    script.write_text("#!/bin/sh\necho '0, GPU-aa'\necho '1, GPU-bb'\n")
    script.chmod(0o755)
    (tmp_path / "tmp").mkdir()
    ours = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(tmp_path / "tmp")}
    return {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"} | ours


def claim(machine: dict[str, str], count: int, **more: str) -> subprocess.Popen:
    command = [sys.executable, "-c", CLAIM, str(count)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=machine | more, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def shown(process: subprocess.Popen) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def test_jobs_side_by_side_have_their_own_and_a_third_waits(machine):
    with claim(machine, 1) as first, claim(machine, 1) as second:
        both = {shown(first), shown(second)}
        assert both == {"GPU-aa", "GPU-bb"}
        with claim(machine, 2) as third:
            with pytest.raises(subprocess.TimeoutExpired):
                third.wait(1)
            first.kill()  # however it ends, its claim ends with it
            second.communicate()
            assert set(shown(third).split(",")) == both
            third.communicate()


def test_what_is_shown_already_is_not_left(machine):
    with claim(machine, 1, CUDA_VISIBLE_DEVICES="1") as process:
        assert shown(process) == "GPU-bb"
        process.communicate()
    for shown_already in ("1,1", "1,none,0", "GPU-b"):
        with claim(machine, 2, CUDA_VISIBLE_DEVICES=shown_already) as process:
            assert "gpus is 2, this machine shows 1" in process.communicate()[1]
    with claim(machine, 0) as process:
        assert shown(process) == "GPU-aa"
        process.communicate()


def test_more_than_there_are_is_one_line(machine):
    with claim(machine, 3) as process:
        assert "some model: gpus is 3, this machine shows 2" in process.communicate()[1]


def test_without_gpus_nothing_is_done(machine, tmp_path):
    Path(tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    with claim(machine, 1) as process:
        assert shown(process) == "None"
        process.communicate()
