"""Python that a model wrote, in a process of its own, which bubblewrap shuts off: no network, host file or secret.

It sees the interpreter's own folders and can write nowhere: a file, even an empty one, is memory of the kernel, and
bubblewrap cannot bound how many there are. It is one task for as long as it lives: a filter of system calls lets it
start neither process nor thread. So the limits of a process hold all of it, whoever runs it (those on processes do not
hold root's), it can be on one processor only, and nothing can outlive it.

Its memory is bounded, and at its worst has tables twice as large; what the kernel holds for it besides is some tens of
MiB (pipes, sockets, locks).

Where this cannot be had, nothing runs.
"""

import fcntl
import os
import platform
import selectors
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from errno import ENOSYS, EPERM
from functools import cache
from pathlib import Path

from atp.errors import AtpError
from atp.tools.calculator import ToolError

NO_SANDBOX = "tool python: its sandbox cannot be had here ({}), and it does not run without; other tools do not need it"
#: Longest program, and what it may print to both its streams together, in bytes.
PROGRAM, OUTPUT = 60_000, 2**20
#: Seconds of processor time, and how many times as long it may take in all, as programs can sleep. (2 would be too few:
#: which of both ends a program that shares its processor with one other would be left to chance.)
SECONDS, PATIENCE = 5, 3
#: Its memory in bytes, and what else a process is held to; timers count as signals.
MEMORY = 256 * 2**20
LIMITS = {"RLIMIT_AS": MEMORY, "RLIMIT_NOFILE": 64, "RLIMIT_SIGPENDING": 64, "RLIMIT_CORE": 0, "RLIMIT_MEMLOCK": 0}

#: What the sandboxed interpreter does first: a limit cannot be raised again.
BEGIN = f"""
import resource, site, sys
for name, most in {LIMITS}.items():
    resource.setrlimit(getattr(resource, name), (most, most))
resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[1]), int(sys.argv[1]) + 1))
site.setquit()
sys.argv = [""]
del name, most, resource, site, sys
exec(compile(__import__("sys").stdin.buffer.read(), "<program>", "exec"))
"""
#: A fixed hash seed: the same program prints its sets in the same order.
ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "LD_LIBRARY_PATH": "/python/lib"}

#: Calls that are denied, with their numbers on x86_64 and on aarch64: new tasks, sockets, other processes, memory that
#: no limit counts, and whatever has been a way out of sandboxes.
DENIED = {
    "clone": (56, 220),
    "fork": (57, None),
    "vfork": (58, None),
    "unshare": (272, 97),
    "setns": (308, 268),
    "socket": (41, 198),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "memfd_create": (319, 279),
    "fsetxattr": (190, 7),  # on the program's own file
    "vmsplice": (278, 75),  # what lies in a pipe is kept whole, up to 2 MiB for a byte
    "setsockopt": (54, 208),  # larger buffers
    "sendmsg": (46, 211),  # sockets in sockets
    "sendmmsg": (307, 269),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_setup": (206, 0),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "quotactl": (179, 60),
    "personality": (135, 92),
    "syslog": (103, 116),
}
#: Calls from this number on (clone3, io_uring, ...) are told that the kernel is older than they are: libc falls back.
NEWER = 424
#: Column of DENIED, and the kernel's name of the architecture.
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}


def run_python(code: str, seconds: int = SECONDS) -> str:
    """What a program prints.

    Args:
        code: the program.
        seconds: of processor time.

    Raises:
        ToolError: it fails, or exceeds a limit.
        AtpError: there is no sandbox here.
    """
    program = code.encode("utf-8", "replace")
    if len(program) > PROGRAM:
        raise ToolError(f"a program may have {PROGRAM} bytes, this one has {len(program)}")
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise AtpError(NO_SANDBOX.format("bubblewrap is not installed"))
    _probe(bwrap)
    return _run(bwrap, program, seconds)


@cache  # success only: a busy machine's failure is no reason to refuse all that follows
def _probe(bwrap: str) -> None:
    """See that a program runs in the sandbox that cannot start another.

    Raises:
        AtpError: it does not.
    """
    probe = b"import os\ntry: os.fork()\nexcept PermissionError: print('alone')"
    try:
        printed = _run(bwrap, probe, SECONDS)
    except ToolError as error:
        raise AtpError(NO_SANDBOX.format(error)) from None
    if printed != "alone":
        raise AtpError(NO_SANDBOX.format("it does not confine"))


def _run(bwrap: str, program: bytes, seconds: int) -> str:
    if platform.machine() not in MACHINES:
        raise ToolError(f"no filter of system calls for {platform.machine()}")
    try:
        with _readable(program) as code, _readable(_filter(platform.machine())) as rules:
            process = subprocess.Popen(
                [bwrap, *_walls(), "--seccomp", str(rules), *_interpreter(), str(seconds)],
                stdin=code,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=ENVIRONMENT,
                cwd="/",
                pass_fds=[rules],
            )
    except OSError as error:
        raise ToolError(f"the sandbox did not start: {error.strerror}") from None
    with process:
        try:
            printed, complained = _listen(process, time.monotonic() + PATIENCE * seconds)
        except subprocess.TimeoutExpired:
            raise ToolError(f"the program took longer than {PATIENCE * seconds} s") from None
        finally:
            process.kill()  # and with it all that it holds: --die-with-parent
    if process.returncode:
        raise ToolError(_failure(process.returncode, complained, seconds))
    return printed.decode("utf-8", "replace").rstrip() or "(the program printed nothing)"


def _listen(process: subprocess.Popen[bytes], end: float) -> tuple[bytes, bytes]:
    """What a process printed and complained until it ended."""
    assert process.stdout and process.stderr
    heard = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    with selectors.DefaultSelector() as selector:
        for stream in heard:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(0.0, end - time.monotonic()))
            for key, _ in ready:
                new = os.read(key.fd, 65536)
                heard[key.fd] += new
                if not new:
                    selector.unregister(key.fd)
            if sum(map(len, heard.values())) > OUTPUT:
                raise ToolError(f"the program printed more than {OUTPUT} bytes")
            if time.monotonic() >= end:
                raise subprocess.TimeoutExpired(process.args, 0)
    process.wait(max(0.0, end - time.monotonic()))
    printed, complained = heard.values()
    return bytes(printed), bytes(complained)


def _failure(code: int, complained: bytes, seconds: int) -> str:
    """Why a program failed. bubblewrap says a signal as 128 + its number, a code that a program can choose, too."""
    ended = f"the program ended with code {code}"
    if code == 128 + signal.SIGXCPU:
        return f"{ended}, as after more than {seconds} s of processor time"
    lines = complained.decode("utf-8", "replace").strip().splitlines()
    if lines:
        return lines[-1]
    if code - 128 in set(signal.Signals):
        return f"{ended}, as after {signal.Signals(code - 128).name}"
    return ended


def _walls() -> Iterator[str]:
    """bubblewrap's arguments: what the sandbox is shut off from, and the little that it sees."""
    yield from ("--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--cap-drop", "ALL")
    yield from ("--uid", "65534", "--gid", "65534", "--hostname", "sandbox")
    for name in ("lib", "lib32", "lib64"):
        root, folder = Path("/", name), Path("/usr", name)
        if folder.exists():
            yield from ("--ro-bind", str(folder), str(folder))
        if root.is_symlink():
            yield from ("--symlink", os.readlink(root), str(root))
        elif root.exists():
            yield from ("--ro-bind", str(root), str(root))
        if (own := Path(sys.base_prefix, name)).exists():
            yield from ("--ro-bind", str(own), f"/python/{name}")
    # At a place of its own, and no /proc: programs print paths, and the machine's are nobody's business. No /dev: its
    # null would be the machine's own, and a program that root runs could change its mode.
    yield from ("--ro-bind", os.path.realpath(sys.executable), "/python/bin/python3")
    # An empty /tmp, so that a program that wants to write there is told that it cannot.
    yield from ("--dir", "/tmp", "--remount-ro", "/")


def _interpreter() -> list[str]:
    # Not -I, which would ignore the hash seed: the environment is ours, -s -P do the rest of it.
    return ["/python/bin/python3", "-s", "-P", "-S", "-B", "-c", BEGIN]


@cache
def _filter(machine: str) -> bytes:
    """A seccomp filter (classic BPF): an instruction is code, jumps where true and where false, operand."""
    column, architecture = MACHINES[machine]
    load, equal, at_least, end = 0x20, 0x15, 0x35, 0x06
    kill, refuse, allow = 0x8000_0000, 0x0005_0000, 0x7FFF_0000
    rules = [(load, 0, 0, 4), (equal, 1, 0, architecture), (end, 0, 0, kill)]
    rules += [(load, 0, 0, 0), (at_least, 0, 1, NEWER), (end, 0, 0, refuse | ENOSYS)]
    for numbers in DENIED.values():
        if (number := numbers[column]) is not None:
            rules += [(equal, 0, 1, number), (end, 0, 0, refuse | EPERM)]
    return b"".join(struct.pack("HBBI", *rule) for rule in [*rules, (end, 0, 0, allow)])


@contextmanager
def _readable(content: bytes) -> Iterator[int]:
    """A file in memory with a content that cannot be changed: nothing has to wait until it is read."""
    with ExitStack() as stack:
        file = os.memfd_create("atp", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        stack.callback(os.close, file)
        os.write(file, content)
        os.lseek(file, 0, os.SEEK_SET)
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
        yield file
