"""Clear Snakemake's lock if its owner is dead, never one whose owner lives.

Snakemake's lock does not name its owner, so a living one is found among the processes that run in this folder.
"""

import sys
from pathlib import Path

import psutil


def owners(folder: Path) -> list[int]:
    """Processes of Snakemake that work in `folder`, and stages that a killed one left behind."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "cwd"]):
        command = process.info["cmdline"] or []
        ours = any(Path(word).name == "snakemake" or ".snakemake/scripts/" in word for word in command[:3])
        if ours and process.info["cwd"] == str(folder):
            found.append(process.info["pid"])
    return found


def main() -> None:
    folder = Path.cwd()
    locks = list((folder / ".snakemake" / "locks").glob("*"))
    if not locks:
        return
    if alive := owners(folder):
        sys.exit(f"atp: a run is under way in this folder (process {alive[0]}): wait for it, or stop it first")
    for lock in locks:
        lock.unlink()


main()
