"""Remove Snakemake's lock if its owner has ended.

Snakemake's lock does not name its owner, so this script looks for an owner among the processes that run in this folder.
On a cluster a killed run leaves jobs in the queue, which would write the same files as a new run's jobs.
"""

import subprocess
import sys
from pathlib import Path

import psutil


def owners(folder: Path) -> list[int]:
    """Return the processes of Snakemake in `folder`, and stages that a killed run left behind, oldest first."""
    processes = []
    for process in psutil.process_iter(["pid", "cmdline", "cwd", "create_time"]):
        command = process.info["cmdline"] or []
        is_owner = any(Path(word).name == "snakemake" or ".snakemake/scripts/" in word for word in command[:3])
        if is_owner and process.info["cwd"] == str(folder):
            processes.append((process.info["create_time"], process.info["pid"]))
    return [pid for _, pid in sorted(processes)]


def queued(folder: Path) -> list[str]:
    """Return SLURM's waiting and running jobs of `folder`, on any node."""
    if not (folder / ".snakemake" / "slurm_logs").exists():
        return []  # no run in this folder used SLURM
    command = ["squeue", "--me", "--noheader", "--format=%i %Z"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError) as error:
        sys.exit(f"atp: squeue fails, so jobs of a killed run in SLURM's queue cannot be listed: {error}")
    jobs = [line.split(maxsplit=1) for line in listed.splitlines()]
    return [number for number, where in jobs if where == str(folder)]


def main() -> None:
    folder = Path.cwd()
    locks = list((folder / ".snakemake" / "locks").glob("*"))
    if not locks:
        return
    if alive := owners(folder):
        sys.exit(f"atp: a run is active in this folder (process {alive[0]}): wait for it, or stop it first")
    if jobs := queued(folder):
        sys.exit(f"atp: a killed run left jobs in SLURM's queue: wait for them, or scancel {' '.join(jobs)}")
    for lock in locks:
        lock.unlink()


main()
