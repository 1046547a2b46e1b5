"""Finished parts of a stage that is not done, so that a rerun resumes where a kill or a signal stopped it."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atp.errors import AtpError
from atp.files.provenance import Stage


@contextmanager
def unfinished(out: Path, stage: Stage) -> Iterator[Path]:
    """Yield a folder next to `out` for the finished parts of a stage; it is removed when the block ends normally.

    The folder belongs to one digest of code, params and inputs; parts of any other digest are removed. It also holds
    the cost so far, which the resumed stage adds up.

    Raises:
        AtpError: another process is using the folder.
    """
    folder = out.with_name(f".{out.name}.unfinished")
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel releases it however the process ends
    except BlockingIOError:
        os.close(descriptor)
        raise AtpError(f"{out}: another process is writing it; wait until it ends, or stop it") from None
    try:
        for stale in folder.glob("*"):
            if stale.name != stage.digest:
                shutil.rmtree(stale)
        parts = folder / stage.digest
        parts.mkdir(parents=True, exist_ok=True)
        stage.resume(parts)
        try:
            yield parts
        except BaseException:
            if parts.is_dir():  # a stage may have removed parts that would fail again
                stage.keep(parts)
            raise
        shutil.rmtree(folder)
    finally:
        os.close(descriptor)
