"""Hostile programs, each contained: what it is after is not there, and nothing of it is left."""

import shutil
import time

import psutil
import pytest

from atp.tools import Call, ToolError, run_calls, sandbox
from atp.tools.sandbox import run_python

needs_bwrap = pytest.mark.skipif(not shutil.which("bwrap"), reason="no sandbox: apt-get install bubblewrap")


def refused(code: str, seconds: float = 1.0) -> str:
    with pytest.raises(ToolError) as found:
        run_python(code, seconds)
    return str(found.value)


@needs_bwrap
def test_what_it_prints_comes_back():
    assert run_python("from math import comb\nprint(comb(50, 7))") == "99884400"
    assert run_python("x = 1").startswith("(the program printed nothing")
    assert refused("1 / 0") == "ZeroDivisionError: division by zero"
    assert "SyntaxError" in refused("1 +")
    assert refused("raise SystemExit(3)") == "the program ended with code 3"


@needs_bwrap
@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("open('/etc/passwd')", "No such file"),
        ("open('/usr/new', 'w')", "Read-only"),
        ("open('/new', 'w')", "Read-only"),
        ("import socket; socket.create_connection(('192.0.2.1', 80), 1)", "unreachable"),
        ("import socket; socket.getaddrinfo('example.org', 80)", "gaierror"),
        ("open('/tmp/x', 'wb').write(bytes(10**8))", "File too large"),
        ("for n in range(99): open(f'/tmp/{n}', 'wb').write(bytes(10**6))", "No space left"),
        ("bytearray(10**9)", "MemoryError"),
        ("while True: pass", "longer than 1 s"),
        ("import os, time; os.close(1); os.close(2); time.sleep(60)", "longer than 1 s"),
        ("while True: print('x' * 1000)", "printed more than"),
        ("import os; os.kill(-1, 9)", "Process"),
        ("import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))", "ValueError"),
    ],
)
def test_contained(code, why):
    assert why in refused(code)


@needs_bwrap
def test_it_sees_no_secret(monkeypatch):
    monkeypatch.setenv("API_KEY", "hush-hush")
    seen = run_python(
        "import glob, os\nprint(dict(os.environ))\nprint([open(f).read() for f in glob.glob('/proc/*/environ')])"
    )
    assert "hush" not in seen and "API_KEY" not in seen
    assert run_python("import os; print(sorted(os.listdir('/')))").find("etc") < 0
    privileged = (
        "import ctypes as c; l = c.CDLL(None); print(l.mount(b'n', b'/tmp', b'tmpfs', 0, None), l.unshare(1 << 28))"
    )
    assert run_python(privileged) == "-1 -1"


@needs_bwrap
def test_its_parent_is_out_of_reach():
    assert run_python("import os\nos.kill(os.getppid(), 9)\nprint(os.getppid())") == "1"


@needs_bwrap
def test_nothing_is_left_of_a_fork_bomb_or_a_daemon():
    bomb = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass"
    before = {process.pid for process in psutil.process_iter()}
    assert "longer than" in refused(bomb)
    daemon = (
        "import os, signal, time\nsignal.signal(15, signal.SIG_IGN)\nif os.fork() == 0:\n    os.setsid()\n"
        "    if os.fork() == 0:\n        os.close(1)\n        os.close(2)\n        time.sleep(300)\n"
        "    os._exit(0)\nprint('bye')"
    )
    assert run_python(daemon) == "bye"
    for _ in range(50):
        left = [p for p in psutil.process_iter(["name", "status"]) if p.pid not in before and p.info["name"] == "bwrap"]
        left = [p for p in left if p.info["status"] != psutil.STATUS_ZOMBIE]
        if not left:
            break
        time.sleep(0.1)
    assert not left


def test_without_a_sandbox_nothing_runs(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    sandbox._missing.cache_clear()
    try:
        (outcome,) = run_calls([Call("python", "print(1)")])
    finally:
        sandbox._missing.cache_clear()
    assert outcome.failed and "bubblewrap is not installed" in outcome.text
    assert "python does not run without it" in outcome.text


@needs_bwrap
def test_calls_come_back_in_order_and_long_results_are_cut():
    calls = [Call("python", f"print({n} * 'x')") for n in (1, 5000, 1)] + [Call("python", "print('\\x1b[2J\\udc80')")]
    one, long, again, odd = run_calls(calls)
    assert one.text == again.text == "x" and long.text.endswith("(and 3000 more characters)")
    assert odd.failed or "\x1b" not in odd.text
