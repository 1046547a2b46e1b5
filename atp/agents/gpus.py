"""Which of a machine's GPUs a process uses: its own, so that jobs side by side do not meet on the first one.

A claim is a locked file, which the kernel lets go when the process ends, however it ends. Loads nothing.
"""

import fcntl
import logging
import os
import subprocess
import tempfile
import time
from pathlib import Path

from atp.errors import AtpError

log = logging.getLogger("atp")

SECONDS_BETWEEN_TRIES = 2.0


def claim_gpus(count: int, name: str) -> None:
    """Show this process and its children `count` GPUs that no other process has claimed; waits until so many are free.

    Of 0 asked for, one is shown and none claimed; where there is no GPU, nothing is done. To be called before torch is
    imported.

    Args:
        name: of the model, for errors.

    Raises:
        AtpError: fewer GPUs than asked for.
    """
    found = _visible()
    if not found:
        return
    if count > len(found):
        raise AtpError(f"{name}: gpus is {count}, this machine shows {len(found)}")
    mine = found[:1] if count == 0 else _claim(found, count, name)
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(mine)


def _visible() -> list[str]:
    """UUIDs of the GPUs here that CUDA_VISIBLE_DEVICES, where it is set, allows."""
    try:
        command = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    gpus = [tuple(part.strip() for part in line.split(",")) for line in listed.splitlines() if "," in line]
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None:
        return [uuid for _, uuid in gpus]
    found: dict[str, None] = {}
    for part in allowed.split(","):
        named = [uuid for index, uuid in gpus if index == part.strip() or (part and uuid.startswith(part.strip()))]
        if len(named) != 1:
            break  # as CUDA does: what follows an entry that names no GPU does not count
        found[named[0]] = None
    return list(found)


def _claim(found: list[str], count: int, name: str) -> list[str]:
    waiting = False
    while True:
        locks = {uuid: lock for uuid in found if (lock := _lock(uuid)) is not None}
        mine = list(locks)[:count]
        for uuid, lock in locks.items():
            if len(mine) < count or uuid not in mine:
                os.close(lock)
        if len(mine) == count:
            return mine
        if not waiting:
            log.info("%s: waits for GPUs (%d of %d here) that other jobs hold", name, count, len(found))
            waiting = True
        time.sleep(SECONDS_BETWEEN_TRIES)


def _lock(uuid: str) -> int | None:
    """A locked file that stands for a GPU, or None if another process holds it."""
    file = Path(tempfile.gettempdir()) / f"atp-{uuid}.lock"
    try:
        descriptor = os.open(file, os.O_RDONLY)  # another user's may be opened, not created
    except FileNotFoundError:
        descriptor = os.open(file, os.O_CREAT | os.O_RDONLY, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
