"""A process that has imported torch, transformers, PEFT and TRL, and forks itself for jobs on the CPU.

The imports take three seconds of a process, more than most jobs of the model organism take. `start` begins the process
for a run of the workflow on this machine; the script of a job hands its task over with `delegate` and waits. The job
ends when its script is killed, and the process when Snakemake ends. Where there is no such process (clusters, other
environments, GPUs, which do not survive a fork), a job imports what it needs.

python -m atp.study.preload DESCRIPTOR     of the socket that it listens on
"""

import gc
import json
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any

import psutil

from atp.files.code import PACKAGE

#: Environment variable with the process of Snakemake, the Python and the socket.
ADDRESS = "ATP_PRELOADED"
#: What a fork sends first; the second byte is its exit code.
BEGUN = b"B"
#: Of the process. Forks have one thread. Memory that a tensor leaves stays with the process, because the kernel would
#: clear each new page for the next tensor: a seventh of the time of GRPO.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "MALLOC_TOP_PAD_": str(2**26),
}
MODULES = (
    "torch",
    "transformers.modeling_utils",
    "transformers.generation.utils",
    "transformers.models.auto.modeling_auto",
    "peft",
    "trl.trainer.sft_trainer",
    "trl.trainer.dpo_trainer",
    "trl.trainer.grpo_trainer",
)


def start() -> subprocess.Popen[bytes]:
    """Begin the process for jobs of this one, which `stop` ends."""
    path = Path(tempfile.mkdtemp(prefix="atp-")) / "socket"
    os.environ[ADDRESS] = json.dumps([os.getpid(), sys.executable, str(path)])
    paths = os.pathsep.join([str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": paths} | ENVIRONMENT
    with socket.socket(socket.AF_UNIX) as listener:  # before the process begins, so that no job comes too early
        listener.bind(str(path))
        listener.listen(64)
        number = listener.fileno()
        command = [sys.executable, "-m", __name__, str(number)]
        nowhere, numbers = subprocess.DEVNULL, [number]
        return subprocess.Popen(command, env=environment, stdin=nowhere, start_new_session=True, pass_fds=numbers)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the process, so that its time counts as this one's."""
    process.terminate()
    process.wait()
    shutil.rmtree(Path(json.loads(os.environ.pop(ADDRESS))[2]).parent, ignore_errors=True)


def delegate(task: Any) -> int | None:
    """Run a task in a fork of the preloaded process.

    Args:
        task: JSON value that `atp.study.script.run_task` takes.

    Returns:
        The exit code of the task; None if there is no preloaded process for this one.
    """
    if ADDRESS not in os.environ:
        return None
    snakemake, python, path = json.loads(os.environ[ADDRESS])
    if python != sys.executable or snakemake not in [parent.pid for parent in psutil.Process().parents()]:
        return None
    request = json.dumps({"task": task, "folder": os.getcwd(), "environment": dict(os.environ)}).encode()
    with socket.socket(socket.AF_UNIX) as fork:
        try:
            fork.connect(path)
            socket.send_fds(fork, [len(request).to_bytes(8, "big")], [1, 2])
            fork.sendall(request)
            if fork.recv(1) != BEGUN:
                return None
        except OSError:
            return None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: fork.sendall(bytes([number])))
        return next(iter(fork.recv(1)), 1)  # nothing is received if the fork was killed


def serve(listener: socket.socket, run: Callable[[Any], None]) -> None:
    """Import MODULES, then fork for each request, until the process that began this one has ended."""
    parent = json.loads(os.environ[ADDRESS])[0]
    with listener:
        for name in MODULES:
            import_module(name)
        gc.collect()
        gc.freeze()  # so that forks share these objects' memory
        while os.getppid() == parent:
            if select.select([listener], [], [], 1.0)[0]:
                connection, _ = listener.accept()
                if not os.fork():
                    listener.close()
                    _run(connection, run)
                connection.close()
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                pass


def _run(connection: socket.socket, run: Callable[[Any], None]) -> None:
    """Run a request in a fork, send its exit code and end the process."""
    length, descriptors, _, _ = socket.recv_fds(connection, 8, 2)
    with connection.makefile("rb", buffering=0) as stream:
        data = b""
        while len(data) < int.from_bytes(length, "big"):
            data += stream.read(int.from_bytes(length, "big") - len(data))
    request = json.loads(data)
    for descriptor, standard in zip(descriptors, (1, 2), strict=True):
        os.dup2(descriptor, standard)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    random.seed()
    connection.sendall(BEGUN)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    Thread(target=_obey, args=(connection,), daemon=True).start()
    code = 0
    try:
        run(request["task"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:  # of any kind: a fork must never return to the loop of `serve`
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    connection.sendall(bytes([code]))
    os._exit(0)  # leaves out the clean-up of a million objects


def _obey(connection: socket.socket) -> None:
    """Pass on the signals that a job's script receives; end with the script."""
    while received := connection.recv(1):
        os.kill(os.getpid(), received[0])
    os._exit(1)


if __name__ == "__main__":
    from atp.study.script import run_task

    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    own = socket.socket(fileno=int(sys.argv[1]))
    folder = Path(own.getsockname()).parent
    try:
        serve(own, run_task)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
