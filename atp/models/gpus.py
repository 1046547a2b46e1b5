"""Assign a machine's GPUs to processes, so that jobs on one machine do not share a GPU.

A claim is a locked file; the kernel releases the lock when the process ends for any reason. Imports no heavy library.
"""

import fcntl
import logging
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Literal

from atp.errors import AtpError

log = logging.getLogger("atp")

RETRY_SECONDS = 2.0


def claim_gpus(count: int, name: str) -> None:
    """Make `count` unclaimed GPUs visible to this process and its children; wait until that many are free.

    With count 0, one GPU is visible and none is claimed. Without GPUs nothing happens. Call this before importing
    torch.

    Args:
        name: the model's name, for error messages.

    Raises:
        AtpError: the machine has fewer than `count` GPUs.
    """
    visible = visible_gpus()
    if not visible:
        return
    if count > len(visible):
        raise AtpError(f"{name}: gpus is {count}, this machine shows {len(visible)}; see CUDA_VISIBLE_DEVICES")
    claimed = visible[:1] if count == 0 else _claim(visible, count, name)
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(claimed)


def visible_gpus() -> list[str]:
    """Return the UUIDs of this machine's GPUs, restricted to CUDA_VISIBLE_DEVICES if it is set."""
    try:
        command = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    gpus = [tuple(entry.strip() for entry in line.split(",")) for line in output.splitlines() if "," in line]
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None:
        return [uuid for _, uuid in gpus]
    selected: dict[str, None] = {}
    for entry in allowed.split(","):
        matches = [uuid for index, uuid in gpus if index == entry.strip() or (entry and uuid.startswith(entry.strip()))]
        if len(matches) != 1:
            break  # like CUDA, which ignores all entries after an invalid one
        selected[matches[0]] = None
    return list(selected)


def gpu_memory(kind: Literal["total", "used"] = "total") -> list[int]:
    """Return the bytes of memory of each visible GPU."""
    visible = visible_gpus()
    if not visible:
        return []
    command = ["nvidia-smi", f"--query-gpu=uuid,memory.{kind}", "--format=csv,noheader,nounits"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    mebibytes = dict(line.split(", ") for line in output.splitlines())
    return [int(mebibytes[uuid]) * 2**20 for uuid in visible]


def _claim(visible: list[str], count: int, name: str) -> list[str]:
    waiting = False
    while True:
        locks = {uuid: lock for uuid in visible if (lock := _lock(uuid)) is not None}
        claimed = list(locks)[:count]
        for uuid, lock in locks.items():
            if len(claimed) < count or uuid not in claimed:
                os.close(lock)
        if len(claimed) == count:
            return claimed
        if not waiting:
            log.info("%s: waiting for %d of this machine's %d GPUs, which other jobs use", name, count, len(visible))
            waiting = True
        time.sleep(RETRY_SECONDS)


def _lock(uuid: str) -> int | None:
    """Return the descriptor of a GPU's locked file, or None if another process holds the lock."""
    file = Path(tempfile.gettempdir()) / f"atp-{uuid}.lock"
    try:
        descriptor = os.open(file, os.O_RDONLY)  # without O_CREAT: it may be another user's file
    except FileNotFoundError:
        descriptor = os.open(file, os.O_CREAT | os.O_RDONLY, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
