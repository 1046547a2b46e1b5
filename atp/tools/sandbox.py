"""Run Python programs that a model wrote, in a bubblewrap sandbox: no network, no host files, no secrets.

The program sees only the interpreter's folders and has no writable file system: even empty files take kernel memory,
and bubblewrap cannot limit their number. A seccomp filter denies new processes and threads, so per-process resource
limits cover the whole program for any user (RLIMIT_NPROC does not apply to root), it uses at most one processor, and
nothing survives it.

Memory is limited to `MEMORY` bytes; in the worst case page tables take twice as much in addition, and kernel objects
(pipes, sockets, locks) some tens of MiB. If the sandbox is not available, no program is run.
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
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from errno import ENOSYS, EPERM
from functools import cache
from pathlib import Path

from atp.errors import AtpError
from atp.tools.calculator import ToolError

NO_SANDBOX = "tools: the sandbox is not available here ({}); programs need bubblewrap and user namespaces"
#: Maximum length of a program, and of its stdout and stderr together, in bytes.
MAX_PROGRAM, MAX_OUTPUT = 60_000, 2**20
#: Limit of processor time in seconds, and the factor from it to the limit of wall time, as programs can sleep. (With 2,
#: chance would decide which limit ends a program that shares its processor with one other.)
MAX_CPU_SECONDS, WALL_TIME_FACTOR = 5, 3
#: Address space in bytes, and all resource limits of the process; timers count as pending signals.
MEMORY = 256 * 2**20
LIMITS = {"RLIMIT_AS": MEMORY, "RLIMIT_NOFILE": 64, "RLIMIT_SIGPENDING": 64, "RLIMIT_CORE": 0, "RLIMIT_MEMLOCK": 0}

#: The folder of a program's files. It is last in the import path, so that no file takes the place of a library.
FOLDER = "/files"

#: Prologue of the sandboxed interpreter: sets limits, which the program cannot raise again, then runs the program.
PROLOGUE = f"""
import resource, site, sys
for name, most in {LIMITS}.items():
    resource.setrlimit(getattr(resource, name), (most, most))
resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[1]), int(sys.argv[1]) + 1))
site.setquit()
sys.argv = [""]
sys.path.append({FOLDER!r})
del name, most, resource, site, sys
exec(compile(__import__("sys").stdin.buffer.read(), "<program>", "exec"))
"""
#: Not -I, which would ignore the hash seed; the environment is set by us, and -s -P cover the rest.
INTERPRETER = ("/python/bin/python3", "-s", "-P", "-S", "-B", "-c")
#: The fixed hash seed makes the order of sets reproducible.
ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "LD_LIBRARY_PATH": "/python/lib"}

#: Denied system calls, with their numbers on x86_64 and aarch64: new tasks, sockets, access to other processes, memory
#: that no limit counts, and calls used in known sandbox escapes.
DENIED_CALLS = {
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
    "fsetxattr": (190, 7),  # could set attributes of the program's own file
    "vmsplice": (278, 75),  # pins whole pages in pipes, up to 2 MiB for one byte
    "setsockopt": (54, 208),  # could enlarge buffers
    "sendmsg": (46, 211),  # could send sockets through sockets
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
#: System calls from this number on (clone3, io_uring, ...) return ENOSYS, as on old kernels, so that libc falls back.
FIRST_UNKNOWN_CALL = 424
#: Column in DENIED_CALLS, and the kernel's architecture identifier (AUDIT_ARCH_*).
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}


class ProgramEnded(ToolError):
    """A program ended with another code than 0."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


def run_python(code: str, seconds: int = MAX_CPU_SECONDS, files: Mapping[str, str] | None = None) -> str:
    """Run a program and return what it prints.

    Args:
        code: the program.
        seconds: limit of its processor time.
        files: texts of files by name, which the program can read in its folder, and import.

    Raises:
        ToolError: the program fails or exceeds a limit; ProgramEnded if it ended with another code than 0.
        AtpError: the sandbox is not available on this machine.
    """
    program = code.encode("utf-8", "replace")
    if len(program) > MAX_PROGRAM:
        raise ToolError(f"a program may have {MAX_PROGRAM} bytes, this one has {len(program)}")
    return _run(find_sandbox(), program, seconds, files or {})


def find_sandbox() -> str:
    """Return bubblewrap's path, after checking that it confines programs. Raises AtpError if there is no sandbox."""
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise AtpError(NO_SANDBOX.format("bubblewrap is not installed"))
    _probe(bwrap)
    return bwrap


@cache  # caches success only: a failure on a busy machine must not disable the tool
def _probe(bwrap: str) -> None:
    """Check that programs run in the sandbox and cannot start processes.

    Raises:
        AtpError: they do not run, or can start processes.
    """
    probe = b"import os\ntry: os.fork()\nexcept PermissionError: print('alone')"
    try:
        printed = _run(bwrap, probe, MAX_CPU_SECONDS, {})
    except ToolError as error:
        raise AtpError(NO_SANDBOX.format(error)) from None
    if printed != "alone":
        raise AtpError(NO_SANDBOX.format("it does not prevent new processes"))


def _run(bwrap: str, program: bytes, seconds: int, files: Mapping[str, str]) -> str:
    if platform.machine() not in ARCHITECTURES:
        raise ToolError(f"no filter of system calls for {platform.machine()}")
    try:
        with ExitStack() as opened:
            code_file = opened.enter_context(_sealed_file(program))
            filter_file = opened.enter_context(_sealed_file(_seccomp_filter(platform.machine())))
            copies = {
                name: opened.enter_context(_sealed_file(text.encode("utf-8", "replace")))
                for name, text in files.items()
            }
            process = subprocess.Popen(
                [bwrap, *_isolation(copies), "--seccomp", str(filter_file), *INTERPRETER, PROLOGUE, str(seconds)],
                stdin=code_file,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=ENVIRONMENT,
                cwd="/",
                pass_fds=[filter_file, *copies.values()],
            )
    except OSError as error:
        raise ToolError(f"the sandbox did not start: {error.strerror}") from None
    with process:
        try:
            printed, errors = _read_output(process, time.monotonic() + WALL_TIME_FACTOR * seconds)
        except subprocess.TimeoutExpired:
            raise ToolError(f"the program took longer than {WALL_TIME_FACTOR * seconds} s") from None
        finally:
            process.kill()  # --die-with-parent ends all processes in the sandbox too
    if process.returncode:
        raise ProgramEnded(_explain_failure(process.returncode, errors, seconds), process.returncode)
    return printed.decode("utf-8", "replace").rstrip() or "(the program printed nothing)"


def _read_output(process: subprocess.Popen[bytes], deadline: float) -> tuple[bytes, bytes]:
    """Return a process's stdout and stderr, read until it ends."""
    assert process.stdout and process.stderr
    output = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    with selectors.DefaultSelector() as selector:
        for stream in output:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            events = selector.select(max(0.0, deadline - time.monotonic()))
            for key, _ in events:
                chunk = os.read(key.fd, 65536)
                output[key.fd] += chunk
                if not chunk:
                    selector.unregister(key.fd)
            if sum(map(len, output.values())) > MAX_OUTPUT:
                raise ToolError(f"the program printed more than {MAX_OUTPUT} bytes")
            if time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired(process.args, 0)
    process.wait(max(0.0, deadline - time.monotonic()))
    printed, errors = output.values()
    return bytes(printed), bytes(errors)


def _explain_failure(code: int, errors: bytes, seconds: int) -> str:
    """Return why a program failed. bubblewrap reports signals as code 128 + signal, which programs can also return."""
    status = f"the program ended with code {code}"
    if code == 128 + signal.SIGXCPU:
        return f"{status}, as after more than {seconds} s of processor time"
    lines = errors.decode("utf-8", "replace").strip().splitlines()
    if lines:
        return lines[-1]
    if code - 128 in set(signal.Signals):
        return f"{status}, as after {signal.Signals(code - 128).name}"
    return status


def _isolation(copies: Mapping[str, int]) -> Iterator[str]:
    """Yield bubblewrap's arguments: isolation from the machine, and the folders that are visible.

    Args:
        copies: name of a file in the program's folder -> descriptor of its content.
    """
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
        if (own_folder := Path(sys.base_prefix, name)).exists():
            yield from ("--ro-bind", str(own_folder), f"/python/{name}")
    # Neutral path and no /proc, so that programs cannot print the machine's paths. No /dev: its null would be the
    # machine's own, whose mode a program could change when run by root.
    yield from ("--ro-bind", os.path.realpath(sys.executable), "/python/bin/python3")
    for name, descriptor in copies.items():
        yield from ("--file", str(descriptor), f"{FOLDER}/{name}")
    if copies:
        yield from ("--chdir", FOLDER)
    # An empty read-only /tmp: programs that write there get an error.
    yield from ("--dir", "/tmp", "--remount-ro", "/")


@cache
def _seccomp_filter(machine: str) -> bytes:
    """Return a seccomp filter (classic BPF). A rule is (code, jump if true, jump if false, operand)."""
    column, architecture = ARCHITECTURES[machine]
    load, equal, at_least, ret = 0x20, 0x15, 0x35, 0x06
    kill, refuse, allow = 0x8000_0000, 0x0005_0000, 0x7FFF_0000
    rules = [(load, 0, 0, 4), (equal, 1, 0, architecture), (ret, 0, 0, kill)]
    rules += [(load, 0, 0, 0), (at_least, 0, 1, FIRST_UNKNOWN_CALL), (ret, 0, 0, refuse | ENOSYS)]
    for numbers in DENIED_CALLS.values():
        if (number := numbers[column]) is not None:
            rules += [(equal, 0, 1, number), (ret, 0, 0, refuse | EPERM)]
    return b"".join(struct.pack("HBBI", *rule) for rule in [*rules, (ret, 0, 0, allow)])


@contextmanager
def _sealed_file(content: bytes) -> Iterator[int]:
    """Yield the descriptor of a sealed in-memory file with this content; unlike a pipe, nobody has to feed it."""
    with os.fdopen(os.memfd_create("atp", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "wb", buffering=0) as file:
        file.write(content)
        file.seek(0)
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
        yield file.fileno()
