"""SLURM's daemons on this machine while the tests run: one node, with a GPU that does not exist."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import psutil

T = TypeVar("T")

#: Folder in which a job step's srun reads its configuration, in spite of SLURM_CONF.
CONFIG = Path("/etc/slurm")
MARK = "# Written by tests/cluster, which removes it.\n"
SLURM_CONF = """
ClusterName=test
SlurmctldHost=localhost
SlurmUser=root
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
# A job is killed within a second after it exceeds its memory; cgroups are not needed.
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
SchedulerParameters=batch_sched_delay=0
# Ended jobs stay in the records for longer than the tests run.
MinJobAge=7200
GresTypes=gpu
# Cores and memory of a small cluster's node, independent of this machine.
SlurmdParameters=config_overrides
NodeName=localhost CPUs=8 RealMemory=16000 Gres=gpu:1
PartitionName=cpu Nodes=localhost Default=YES
PartitionName=gpu Nodes=localhost
"""
GRES_CONF = "NodeName=localhost Name=gpu Count=1 File=/dev/null\n"


@contextmanager
def daemons(folder: Path) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(daemon(folder, *munged(folder)))
        stack.enter_context(written("slurm.conf", SLURM_CONF.format(folder=folder)))
        stack.enter_context(written("gres.conf", GRES_CONF))
        (folder / "state").mkdir()
        stack.enter_context(daemon(folder, "slurmctld", "-D"))
        stack.enter_context(daemon(folder, "slurmd", "-D", "-N", "localhost"))
        wait(lambda: "idle" in run("sinfo", "--noheader", "--format=%t", check=False), "the node")
        try:
            yield
        finally:
            run("scancel", "--user=root")
            wait(lambda: not run("squeue", "--noheader"), "the jobs' end")


def unfit() -> str | None:
    """Return why the tests cannot start SLURM on this machine; None if they can."""
    if os.geteuid() != 0:
        return "only root can start SLURM's daemons"
    if missing := [name for name in ("munged", "slurmctld", "slurmd") if not shutil.which(name)]:
        return f"no {', '.join(missing)} here: apt-get install slurm-wlm munge"
    files = [file for name in ("slurm.conf", "gres.conf") if (file := CONFIG / name).exists()]
    others = [file for file in files if not file.read_text().startswith(MARK)]
    running = {process.info["name"] for process in psutil.process_iter(["name"])} & {"slurmctld", "slurmd", "sackd"}
    if others or running or "SLURM_CONF" in os.environ:
        return "this machine is part of a cluster"
    return None


def munged(folder: Path) -> list[str]:
    """Return the command of a separate munged with its own key."""
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    files = [f"--{kind}={folder}/munge.{name}" for kind, name in (("socket", "socket"), ("pid-file", "pid"))]
    return ["munged", "--foreground", "--force", f"--key-file={key}", f"--seed-file={folder}/munge.seed", *files]


@contextmanager
def daemon(folder: Path, *command: str) -> Iterator[None]:
    with (folder / f"{command[0]}.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def written(name: str, text: str) -> Iterator[None]:
    CONFIG.mkdir(exist_ok=True)
    (CONFIG / name).write_text(MARK + text)
    try:
        yield
    finally:
        (CONFIG / name).unlink()


def run(*command: str, check: bool = True) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=check).stdout


def wait(until: Callable[[], T], what: str, seconds: float = 120) -> T:
    """Wait until a function returns a true value, and return that value."""
    end = time.monotonic() + seconds
    while not (result := until()):
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.2)
    return result


class Job:
    """SLURM's record of a job."""

    def __init__(self, record: str) -> None:
        fields = dict(re.findall(r"([\w/]+)=(\S+)", record))
        self.number, self.state, self.log = fields["JobId"], fields["JobState"], fields["StdOut"]
        self.partition, self.account = fields["Partition"], fields["Account"]
        self.memory, self.limit = fields["MinMemoryNode"], fields["TimeLimit"]
        self.gpus = int(fields.get("TresPerJob", "gres:gpu:0").removeprefix("gres:gpu:"))
        self.started, self.ended = fields["StartTime"], fields["EndTime"]
        # The plugin's comment is the rule and its wildcards; the generation is the last one.
        rule, _, wildcards = fields["Comment"].removeprefix("rule_").partition("_wildcards_")
        generation = re.search(r"_baseline(_\d+)$", wildcards)
        self.name = rule.removesuffix("_generation") + (generation[1] if generation else "")


def jobs() -> list[Job]:
    """Return all jobs, oldest first."""
    lines = run("scontrol", "show", "job", "--oneliner").splitlines()
    return [Job(line) for line in lines if line.startswith("JobId=")]
