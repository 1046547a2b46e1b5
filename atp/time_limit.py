"""Call a function in a helper process that the kernel ends when a call takes too much processor time.

sympy cannot be interrupted from within: a handler of a signal runs in the main thread only, and waits for the end of a
long operation in C. The limit counts processor time, so that a busy machine does not change a result.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import cache, partial
from typing import Any

from atp.errors import AtpError

#: Limit of one call's processor time in seconds, and of the helper's address space in bytes.
MAX_CPU_SECONDS, MAX_MEMORY = 1.0, 2 * 2**30

_MAIN = """
import importlib, json, sys
sys.path[:], module, name, example = json.loads(sys.argv[1])
from atp.time_limit import serve
serve(getattr(importlib.import_module(module), name), example)
"""


def time_limited(function: Callable[..., Any], *example: Any) -> Callable[..., Any]:
    """Return a function that calls a module's function in a helper process; it returns None if a call fails.

    A call fails if it takes more than `MAX_CPU_SECONDS`, more than `MAX_MEMORY`, or raises an exception.

    Args:
        function: takes and returns values that JSON can represent.
        example: arguments of a first call, which loads what the function imports. They have no time limit.
    """
    return partial(_call, function.__module__, function.__name__, example)


def _call(module: str, name: str, example: tuple[Any, ...], *arguments: Any) -> Any:
    process, lock = _start(os.getpid(), module, name, example)
    with lock:
        try:
            print(json.dumps(arguments), file=process.stdin, flush=True)
            reply = process.stdout.readline() if process.stdout else ""
        except BrokenPipeError:
            reply = ""
    if not reply:
        _start.cache_clear()
        raise AtpError(
            f"the helper process of {module}.{name} ended with status {process.wait()}; a negative number is a signal, "
            "as when memory is short; otherwise its error is printed above"
        )
    return json.loads(reply)


@cache
def _start(owner: int, *settings: Any) -> "tuple[subprocess.Popen[str], threading.Lock]":
    """Start a helper for the process `owner`: a fork of that process must not share its pipes."""
    command = [sys.executable, "-c", _MAIN, json.dumps([sys.path, *settings])]
    pipe = subprocess.PIPE
    # In a session of its own, so that Ctrl-C in a terminal does not end it before the process that it serves.
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1, start_new_session=True)
    return process, threading.Lock()


def serve(function: Callable[..., Any], example: list[Any]) -> None:
    """Answer calls from stdin on stdout until stdin ends: a fork answers until a limit ends it, then the next one."""
    import resource

    function(*example)
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    with open(os.devnull, "w") as null:
        os.dup2(null.fileno(), 1)
        os.dup2(null.fileno(), 2)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while (fork := os.fork()) and os.waitpid(fork, 0)[1]:
        print("null", file=replies)
    if not fork:
        _answer(function, replies)
        os._exit(0)


def _answer(function: Callable[..., Any], replies: Any) -> None:
    import signal

    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process
    # Unbuffered: what a fork has read ahead would be lost with it.
    for line in os.fdopen(0, "rb", buffering=0):
        signal.setitimer(signal.ITIMER_PROF, MAX_CPU_SECONDS)
        result = function(*json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(result), file=replies)
