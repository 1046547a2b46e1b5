"""SLURM's own daemons on this machine, for as long as the tests run: one node, and a GPU that is none."""

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

#: Where a job step's srun looks for its configuration, whatever SLURM_CONF says.
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
# A job is killed within a second of passing its memory; no cgroups are needed.
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
SchedulerParameters=batch_sched_delay=0
# Ended jobs stay in the records for longer than the tests take.
MinJobAge=7200
GresTypes=gpu
# As many cores and as much memory as a small cluster's node, whatever this machine has.
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
    """Why this machine cannot have a SLURM of the tests' own."""
    if os.geteuid() != 0:
        return "SLURM's daemons are started by root"
    if missing := [name for name in ("munged", "slurmctld", "slurmd") if not shutil.which(name)]:
        return f"no {', '.join(missing)} here: apt-get install slurm-wlm munge"
    files = [file for name in ("slurm.conf", "gres.conf") if (file := CONFIG / name).exists()]
    theirs = [file for file in files if not file.read_text().startswith(MARK)]
    running = {process.info["name"] for process in psutil.process_iter(["name"])} & {"slurmctld", "slurmd", "sackd"}
    if theirs or running or "SLURM_CONF" in os.environ:
        return "this machine is part of a cluster, which is left alone"
    return None


def munged(folder: Path) -> list[str]:
    """A munged beside the machine's own, with a key of its own."""
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
    """What `until` returns once that is true."""
    end = time.monotonic() + seconds
    while not (found := until()):
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.2)
    return found


class Job:
    """SLURM's own record of a job."""

    def __init__(self, record: str) -> None:
        fields = dict(re.findall(r"([\w/]+)=(\S+)", record))
        self.number, self.state, self.log = fields["JobId"], fields["JobState"], fields["StdOut"]
        self.partition, self.account = fields["Partition"], fields["Account"]
        self.memory, self.limit = fields["MinMemoryNode"], fields["TimeLimit"]
        self.gpus = int(fields.get("TresPerJob", "gres:gpu:0").removeprefix("gres:gpu:"))
        self.started, self.ended = fields["StartTime"], fields["EndTime"]
        # The plugin's comment is the rule and its wildcards, of which the generation comes last.
        rule, _, wildcards = fields["Comment"].removeprefix("rule_").partition("_wildcards_")
        generation = re.search(r"_plain(_\d+)$", wildcards)
        self.name = rule.removesuffix("_generation") + (generation[1] if generation else "")


def jobs() -> list[Job]:
    """All jobs, oldest first."""
    lines = run("scontrol", "show", "job", "--oneliner").splitlines()
    return [Job(line) for line in lines if line.startswith("JobId=")]
