"""Hostile programs, each contained: what it is after is not there, and nothing of it is left."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from atp.errors import AtpError
from atp.tools import Call, ToolError, run_calls, sandbox
from atp.tools.sandbox import DENIED_CALLS, run_python

needs_bwrap = pytest.mark.skipif(not shutil.which("bwrap"), reason="no sandbox: apt-get install bubblewrap")

LIBC = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"


def refused(code: str, seconds: int = 1) -> str:
    with pytest.raises(ToolError) as found:
        run_python(code, seconds)
    return str(found.value)


def living() -> list[psutil.Process]:
    """What lives of this process's sandboxes. process_iter passes over what ends while it looks."""
    found = []
    for one in psutil.process_iter(["ppid", "name", "cmdline"]):
        command = one.info["cmdline"] or []
        unreaped = one.info["ppid"] == os.getpid() and one.info["name"] == "bwrap"
        if unreaped or ("/python/bin/python3" in command and MARK in " ".join(command)):
            found.append(one)
    return found


def left_behind() -> list[psutil.Process]:
    """What lives of this process's sandboxes, long after they ended."""
    for _ in range(200):
        if not living():
            return []
        time.sleep(0.05)
    return living()


#: Tests may run side by side: each process's own sandboxes are told by their program's first lines.
MARK = f"# of {os.getpid()}"


@pytest.fixture(autouse=True)
def _marked(monkeypatch):
    monkeypatch.setattr(sandbox, "PROLOGUE", f"{MARK}\n{sandbox.PROLOGUE}")
    monkeypatch.setattr(sandbox, "WALL_TIME_FACTOR", 20)  # a busy machine must not change what a test sees
    yield
    assert left_behind() == []


@needs_bwrap
@pytest.mark.parametrize(
    ("code", "printed"),
    [
        ("from math import comb\nprint(comb(50, 7))", "99884400"),
        ("print('a\\n  b\\n')", "a\n  b"),
        ("x = 1", "(the program printed nothing)"),
        ("print('ü', 1)\nexit()", "ü 1"),
        ("import os; os.close(0); print(__name__)", "__main__"),
        ("import os; os.write(1, b'\\xff\\xfe')", "\ufffd\ufffd"),
        ("print('\\udc80')", "\ufffd"),
        ("import os; print(os.listdir('/tmp'))", "[]"),
        ("import asyncio; print(asyncio.run(asyncio.sleep(0, 'slept')))", "slept"),
        ("import ctypes; print(ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(abs)(-3))", "3"),
        ("import secrets, uuid; print(len(uuid.uuid4().hex + secrets.token_hex(1)))", "34"),
        ("import asyncio, ctypes, decimal, json, random, statistics, fractions; print('all there')", "all there"),
        ("import pickle\nclass A:\n    x = 3\nprint(pickle.loads(pickle.dumps(A())).x)", "3"),
    ],
)
def test_what_it_prints_comes_back(code, printed):
    assert run_python(code) == printed


@needs_bwrap
@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("1 +", "SyntaxError: invalid syntax"),
        ("print(1\0)", "null bytes"),
        ("\ud800", "SyntaxError"),
        ("raise SystemExit(3)", "the program ended with code 3"),
        ("print(input())", "EOFError"),
        ("import numpy", "No module named 'numpy'"),
        ("import os; os.abort()", "the program ended with code 134, as after SIGABRT"),
        ("raise SystemExit(137)", "the program ended with code 137, as after SIGKILL"),
        ("raise SystemExit(152)", "the program ended with code 152, as after more than 1 s of processor time"),
        ("x" * 70_000, "a program may have 60000 bytes"),
    ],
)
def test_a_program_that_fails_says_why(code, why):
    assert why in refused(code)


@needs_bwrap
def test_the_same_program_prints_the_same():
    code = "import sys\nprint({*'abcdefgh'}, sys.path, sys.argv)"
    assert run_python(code) == run_python(code)


@needs_bwrap
@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("open('/etc/passwd')", "No such file"),
        ("open('/proc/1/environ')", "No such file"),
        ("open('/usr/lib/new', 'w')", "Read-only"),
        ("open('/python/lib/new', 'w')", "Read-only"),
        ("open('/new', 'w')", "Read-only"),
        ("open('/dev/null', 'w')", "No such file"),
        ("open('/tmp/x', 'w')", "Read-only"),
        ("import os; os.open('/tmp', os.O_TMPFILE | os.O_RDWR)", "Read-only"),
        ("import os; os.mkdir('/tmp/x')", "Read-only"),
        ("import os; os.mkfifo('/tmp/x')", "Read-only"),
        ("import os; os.mknod('/tmp/x')", "Read-only"),
        ("import os; os.symlink('x', '/tmp/x')", "Read-only"),
        ("import os; os.link(os.__file__, '/tmp/x')", "Read-only"),
        ("import tempfile; tempfile.TemporaryFile()", "No usable temporary directory"),
        ("import os; os.remove(os.__file__)", "Read-only"),
        ("import os; os.chmod(os.__file__, 0o777)", "Read-only"),
        ("open('/dev/sda')", "No such file"),
        ("import socket; socket.create_connection(('192.0.2.1', 80), 1)", "PermissionError"),
        ("import socket; socket.socket(socket.AF_UNIX)", "PermissionError"),
        ("import socket; socket.getaddrinfo('example.org', 80)", "gaierror"),
        ("import os; files = [open(os.__file__) for _ in range(99)]", "Too many open files"),
        ("import os; os.setxattr(0, 'user.x', bytes(60000))", "PermissionError"),
        ("import socket; socket.send_fds(socket.socketpair()[0], [b'x'], [0])", "PermissionError"),
        ("import socket; socket.socketpair()[0].setsockopt(1, 7, 2**22)", "PermissionError"),
        ("bytearray(10**9)", "MemoryError"),
        ("import os; kept = [os.memfd_create('x') for _ in range(9)]", "PermissionError"),
        ("while True: pass", "more than 1 s of processor time"),
        ("import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", "as after SIGKILL"),
        ("while True: print('x' * 1000)", "printed more than 1048576 bytes"),
        ("import os\nwhile True: os.write(2, bytes(1000))", "printed more than 1048576 bytes"),
        ("import os\nwhile True: os.fork()", "PermissionError"),
        ("import threading\nwhile True: threading.Thread(target=input).start()", "can't start new thread"),
        ("import subprocess; subprocess.run(['/bin/sh', '-c', 'true'])", "Error"),
        ("import os; os.execv('/bin/sh', ['sh'])", "No such file"),
        ("import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))", "ValueError"),
        ("import os; os.setuid(0)", "Invalid argument"),
        ("import os; os.kill(2, 9)", "SIGKILL"),
    ],
)
def test_contained(code, why):
    assert why in refused(code)


@needs_bwrap
@pytest.mark.parametrize(
    "last",
    [
        "time.sleep(60)",
        "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65)); time.sleep(60)",
        "os.kill(os.getpid(), signal.SIGSTOP)",
    ],
)
def test_one_that_sleeps_mute_and_deaf_is_over_soon(last, monkeypatch):
    monkeypatch.setattr(sandbox, "WALL_TIME_FACTOR", 1)
    code = f"import os, signal, time\nsignal.signal(15, signal.SIG_IGN)\nos.close(1); os.close(2)\n{last}"
    begun = time.monotonic()
    assert refused(code) == "the program took longer than 1 s"
    assert time.monotonic() - begun < 3


@needs_bwrap
def test_a_daemon_cannot_come_into_being():
    daemon = """
import os
try:
    if os.fork() == 0:
        os.setsid()
        os.fork()
except OSError as error:
    print(error.strerror)
"""
    assert run_python(daemon) == "Operation not permitted"


@needs_bwrap
def test_no_other_process_is_in_reach():
    code = """
import os
for target in (os.getppid(), 1, -1):
    try:
        os.kill(target, 9)
    except OSError:
        pass
seen = []
for target in range(1, 70000):
    try:
        os.kill(target, 0)
        seen.append(target)
    except OSError:
        pass
print(os.getpid(), os.getppid(), seen)
"""
    assert run_python(code) == "2 1 [1, 2]"


@needs_bwrap
def test_it_sees_no_secret_host_or_path(monkeypatch):
    monkeypatch.setenv("API_KEY", "hush-hush")
    code = """
import glob, os, platform, sys
print(dict(os.environ), platform.node(), sys.prefix, sys.executable)
for path in [*glob.glob("/proc/**", recursive=True), "/etc/hostname", "/proc/self/environ", "/proc/1/environ"]:
    try:
        print(open(path).read())
    except OSError:
        pass
"""
    seen = run_python(code)
    assert "hush" not in seen and "API_KEY" not in seen and "sandbox /python /python/bin" in seen
    assert f"{sys.base_prefix}/" not in seen and str(Path(__file__).parents[2]) not in seen
    assert run_python("import os; print(*sorted(os.listdir('/')))").split() == sorted(
        ["python", "tmp", "usr", *(name for name in ("lib", "lib32", "lib64") if os.path.exists(f"/{name}"))]
    )
    handed = """
import os
for file in range(3, 64):
    try:
        print(os.fstat(file))
    except OSError:
        pass
"""
    assert run_python(handed) == "(the program printed nothing)"


@needs_bwrap
def test_ways_out_are_shut():
    asked = (
        "libc.mount(b'none', b'/tmp', b'tmpfs', 0, None)",
        "libc.umount2(b'/tmp', 2)",
        "libc.ptrace(16, 1, 0, 0)",
        "libc.unshare(0x10000000)",
        "libc.chroot(b'/tmp')",
        "libc.shmget(0, 2 ** 28, 0o1600)",
        "libc.vmsplice(1, None, 0, 0)",
        "libc.inotify_init1(0)",
        "libc.personality(0x400000)",
    )
    code = "".join(f"print({one}, os.strerror(ctypes.get_errno()))\n" for one in asked)
    assert set(run_python(LIBC + code).splitlines()) == {"-1 Operation not permitted"}
    column, _ = sandbox.ARCHITECTURES[os.uname().machine]
    numbers = [number for numbers in DENIED_CALLS.values() if (number := numbers[column]) is not None]
    newer = [425, 428, 435, 442, 0x40000000 + 56]  # io_uring_setup, open_tree, clone3, mount_setattr, x32's clone
    code = "for number in {0}:\n    print(libc.syscall(number, 0, 0, 0, 0, 0, 0), ctypes.get_errno())\n"
    assert set(run_python(LIBC + code.format(numbers)).splitlines()) == {"-1 1"}
    assert set(run_python(LIBC + code.format(newer)).splitlines()) == {"-1 38"}


@needs_bwrap
def test_timers_are_bounded():
    code = "print(sum(libc.timer_create(0, None, ctypes.byref(ctypes.c_void_p())) == 0 for _ in range(1000)))"
    assert int(run_python(LIBC + code)) <= 64


@needs_bwrap
def test_nothing_is_left_where_this_process_is_killed():
    code = f"from atp.tools import sandbox\nsandbox.PROLOGUE = {MARK!r} + '\\n' + sandbox.PROLOGUE\n"
    code += "sandbox.WALL_TIME_FACTOR = 20\nsandbox.run_python('')\nprint('probed', flush=True)\n"
    code += "sandbox.run_python('import time; time.sleep(60)', 60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline()
        for _ in range(1000):
            names = [one.info["cmdline"][0] for one in living() if one.info["cmdline"]]
            if "/python/bin/python3" in names:
                break
            time.sleep(0.02)
        assert len(names) == 3  # two of bubblewrap's, and the program
        process.kill()
    assert left_behind() == []


@pytest.mark.parametrize("path", ["/nowhere", None])
def test_without_a_sandbox_nothing_runs(path, monkeypatch, tmp_path):
    """Where bubblewrap is not installed, and where it cannot make its namespaces."""
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n", encoding="utf-8")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", path or str(tmp_path))
    reason = "bubblewrap is not installed" if path else "bwrap: No permissions to create new namespace"
    with pytest.raises(AtpError, match=rf"^tools: the sandbox is not available here \({reason}\)"):
        run_calls([Call("python", "print(1)"), Call("python", "print(2)")])


def test_a_sandbox_that_does_not_confine_is_none(monkeypatch, tmp_path):
    lax = tmp_path / "bwrap"
    lax.write_text("#!/bin/sh\necho alone too\n", encoding="utf-8")
    lax.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AtpError, match="it does not prevent new processes"):
        run_python("print(1)")


def test_a_machine_without_a_filter_has_no_sandbox(monkeypatch):
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: "/usr/bin/unknown-bwrap")
    monkeypatch.setattr(sandbox.platform, "machine", lambda: "vax")
    with pytest.raises(AtpError, match="no filter of system calls for vax"):
        run_python("print(1)")


def test_a_process_that_cannot_start_is_a_sentence(monkeypatch):
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: "/nowhere/bwrap")
    with pytest.raises(AtpError, match="the sandbox did not start: No such file or directory"):
        run_python("print(1)")
