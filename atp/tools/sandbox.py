"""Python that a model wrote, in a process of its own, which bubblewrap shuts off: no network, host file or secret.

It sees the interpreter's own folders, read-only, and an empty /tmp in memory. Where this cannot be had, nothing runs.
"""

import os
import selectors
import shutil
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

from atp.tools.calculator import ToolError

#: Longest program and output, in bytes; the program fits a pipe, so that handing it over cannot wait.
PROGRAM, OUTPUT = 60_000, 100_000
SECONDS = 5.0
#: Of one program: processes and threads, memory of each, size of its /tmp and of a file in it, in bytes.
PROCESSES, MEMORY, DISK = 8, 256 * 2**20, 16 * 2**20

#: What the sandboxed interpreter does first: no limit can be raised again.
BEGIN = f"""
import os, resource, sys
for limit, most in (("NPROC", {PROCESSES}), ("AS", {MEMORY}), ("FSIZE", {DISK}), ("NOFILE", 64), ("CORE", 0),
                    ("CPU", int(sys.argv[1]))):
    resource.setrlimit(getattr(resource, "RLIMIT_" + limit), (most, most))
os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
exec(compile(sys.stdin.buffer.read().decode(), "<program>", "exec"), {{"__name__": "__main__"}})
"""


def run_python(code: str, seconds: float = SECONDS) -> str:
    """What a program prints.

    Raises:
        ToolError: it fails, exceeds a limit, or there is no sandbox.
    """
    program = code.encode("utf-8", "replace")
    if len(program) > PROGRAM:
        raise ToolError(f"a program may have {PROGRAM} bytes, this one has {len(program)}")
    if problem := _missing():
        raise ToolError(f"the sandbox cannot be had here ({problem}); python does not run without it")
    return _run(program, seconds)


@cache
def _missing() -> str | None:
    """Why there is no sandbox, found out by a program that does nothing."""
    if not shutil.which("bwrap"):
        return "bubblewrap is not installed"
    try:
        return None if _run(b"print(1)", SECONDS).strip() == "1" else "its first program printed nothing"
    except ToolError as error:
        return str(error)


def _command(seconds: float) -> list[str]:
    python = shutil.which("python3", path="/usr/bin:/bin") or os.path.realpath(sys.executable)
    seen = dict.fromkeys(["/usr", *([] if python.startswith(("/usr", "/bin")) else [sys.base_prefix])])
    links = [name for name in ("bin", "lib", "lib32", "lib64") if Path("/", name).exists()]
    arguments = [
        "bwrap",
        "--unshare-all",
        "--unshare-user",
        "--disable-userns",
        "--die-with-parent",
        "--new-session",
        "--clearenv",
        "--cap-drop",
        "ALL",
    ]
    for path in seen:
        arguments += ["--ro-bind", path, path]
    for name in links:
        link = Path("/", name)
        arguments += (
            ["--symlink", os.readlink(link), str(link)] if link.is_symlink() else ["--ro-bind", str(link), str(link)]
        )
    arguments += ["--proc", "/proc", "--dev", "/dev", "--size", str(DISK), "--tmpfs", "/tmp"]
    arguments += ["--size", "4096", "--tmpfs", "/dev/shm", "--remount-ro", "/", "--chdir", "/tmp"]
    return [*arguments, python, "-I", "-S", "-B", "-c", BEGIN, str(max(1, round(seconds + 1)))]


def _run(program: bytes, seconds: float) -> str:
    # Limits on processes do not hold root's own, so bubblewrap itself runs as nobody where this process is root.
    other: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(_command(seconds), cwd="/", env={"PATH": "/usr/bin:/bin"}, **pipes, **other) as process:
        try:
            printed, complained, why = _listen(process, program, time.monotonic() + seconds)
        finally:
            process.kill()  # and with it all that it holds
    if why:
        raise ToolError(why.format(seconds=seconds))
    if process.returncode:
        lines = complained.decode("utf-8", "replace").strip().splitlines()
        raise ToolError(lines[-1][:300] if lines else f"the program ended with code {process.returncode}")
    return printed.decode("utf-8", "replace").strip() or "(the program printed nothing)"


def _listen(process: Any, program: bytes, end: float) -> tuple[bytes, bytes, str | None]:
    """(printed, complained, why it was broken off)."""
    heard = {process.stdout: b"", process.stderr: b""}
    try:
        process.stdin.write(program)
        process.stdin.close()
    except BrokenPipeError:
        pass
    with selectors.DefaultSelector() as selector:
        for stream in heard:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(0.0, end - time.monotonic()))
            for key, _ in ready:
                new = os.read(key.fd, 65536)
                heard[key.fileobj] += new
                if not new:
                    selector.unregister(key.fileobj)
            if sum(map(len, heard.values())) > OUTPUT:
                return heard[process.stdout], heard[process.stderr], f"the program printed more than {OUTPUT} bytes"
            if time.monotonic() >= end:
                return heard[process.stdout], heard[process.stderr], "the program took longer than {seconds:g} s"
    try:
        process.wait(max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        return heard[process.stdout], heard[process.stderr], "the program took longer than {seconds:g} s"
    return heard[process.stdout], heard[process.stderr], None
