"""Clear Snakemake's lock if its owner is dead, never one whose owner lives.

Snakemake's lock does not name its owner, so a living one is found among the processes that run in this folder. On a
cluster a killed run leaves jobs in the queue, which would make the same files as a new run's.
"""

import subprocess
import sys
from pathlib import Path

import psutil


def owners(folder: Path) -> list[int]:
    """Processes of Snakemake that work in `folder`, and stages that a killed one left behind; the oldest first."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "cwd", "create_time"]):
        command = process.info["cmdline"] or []
        ours = any(Path(word).name == "snakemake" or ".snakemake/scripts/" in word for word in command[:3])
        if ours and process.info["cwd"] == str(folder):
            found.append((process.info["create_time"], process.info["pid"]))
    return [pid for _, pid in sorted(found)]


def queued(folder: Path) -> list[str]:
    """SLURM's jobs of `folder` that wait or run, wherever."""
    if not (folder / ".snakemake" / "slurm_logs").exists():
        return []  # no run of this folder was a cluster's
    command = ["squeue", "--me", "--noheader", "--format=%i %Z"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError) as error:
        sys.exit(f"atp: whether a killed run left jobs in SLURM's queue cannot be told, squeue fails: {error}")
    jobs = [line.split(maxsplit=1) for line in listed.splitlines()]
    return [number for number, where in jobs if where == str(folder)]


def main() -> None:
    folder = Path.cwd()
    locks = list((folder / ".snakemake" / "locks").glob("*"))
    if not locks:
        return
    if alive := owners(folder):
        sys.exit(f"atp: a run is under way in this folder (process {alive[0]}): wait for it, or stop it first")
    if jobs := queued(folder):
        sys.exit(f"atp: a killed run left jobs in SLURM's queue: wait for them, or scancel {' '.join(jobs)}")
    for lock in locks:
        lock.unlink()


main()
