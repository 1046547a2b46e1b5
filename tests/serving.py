"""Servers for tests of served models: a real one and one that fails on demand; requests and agents for them."""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from atp.agents.base import Request
from atp.agents.load import load_agent
from atp.files.provenance import Stage
from atp.files.turns import read_turns
from atp.models.spec import ModelSpec, Sampling
from atp.rollout.engine import RolloutJob, rollout
from atp.rollout.table import Cell
from atp.scenarios.scenario import read_scenarios
from atp.scenarios.sources import ScenariosJob, scenarios_stage
from atp.testbed import Observation, Prompt

KEY = "sk-a-key-of-the-environment"
GREEDY = Sampling(temperature=0, max_new_tokens=96)
LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1
#: Testbed -> settings of a short game.
GAMES: dict[str, dict[str, Any]] = {
    "role_play": {"rounds": 3},
    "coordination": {"rounds": 2, "agents": 4, "threshold": 2},
    "tool_use": {"rounds": 1, "hard": 1},
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def end_with_parent() -> None:
    """Have the kernel end this process when its parent is killed, which leaves the parent no time to do so."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Server:
    """`transformers serve` on one port, which can be killed and started again."""

    def __init__(self, log: Path):
        self.port, self.log = free_port(), log
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.start()

    def command(self) -> list[str | Path]:
        command = Path(sys.executable).with_name("transformers")
        return [command, "serve", "--host", "127.0.0.1", "--port", str(self.port), "--device", "cpu"]

    def start(self, **environment: str) -> None:
        self.process = subprocess.Popen(
            self.command(),
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment},
            stdout=self.log.open("ab"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )

    def wait(self, seconds: int = 90) -> Self:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                urllib.request.urlopen(self.url.replace("/v1", "/health"), timeout=5).close()
                return self
            except OSError:
                time.sleep(0.2)
        raise AssertionError(f"the server does not answer: {self.log.read_text()[-2000:]}")

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class _Http(ThreadingHTTPServer):
    request_queue_size = 64  # with fewer, a busy machine refuses connections, which counts as a retry


class Failing:
    """A server that gives its `answers` (status, headers, body) in order, and then repeats the last one."""

    def __init__(self, *answers: tuple[int, dict[str, str], str], delay: float = 0.0):
        self.answers, self.seen, self.busy, self.max_busy = list(answers), [], 0, 0
        lock, outer = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with lock:
                    outer.seen.append((dict(self.headers), json.loads(body)))
                    outer.busy += 1
                    outer.max_busy = max(outer.max_busy, outer.busy)
                    status, headers, text = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                time.sleep(delay)
                with lock:
                    outer.busy -= 1
                self.send_response(status)
                content = text.encode()
                defaults = {"Content-Type": "application/json"}
                for name, value in (defaults | headers | {"Content-Length": str(len(content))}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self.http = _Http(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()


def completion(finish: str | None = "stop", **message: Any) -> dict[str, Any]:
    """Return the body of an OpenAI-compatible server's answer; its content is null unless `content` is given."""
    reply = {"role": "assistant", "content": None, **message}
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": finish, "message": reply}],
        "usage": {**usage, "prompt_tokens_details": {"cached_tokens": 5}},
    }


def ok(body: Any) -> tuple[int, dict[str, str], str]:
    return 200, {}, json.dumps(body)


FINE = ok(completion(content="fine"))


def request(number: int, question: str = "Well?", **prompt: Any) -> Request:
    messages = prompt.pop("messages", [{"role": "user", "content": question}])
    return Request(number, Prompt(0, 1, messages, Observation({}, "", ()), **prompt), seed=2**62 + number)


def served(folder: Path, url: str, **settings: Any) -> Any:
    """Return the agent of a model that the server loads from its folder."""
    spec = {"path": f"openai-api/local/{folder}", "base_url": url, "sampling": GREEDY, "batch": 8, **settings}
    return load_agent("served", ModelSpec(kind="inspect", **spec))


def in_process(folder: Path, adapter: Path | None = None) -> Any:
    return load_agent("local", ModelSpec(path=str(folder), sampling=GREEDY, batch=8, device="cpu"), adapter)


def play(agent: Any, testbed: str, out: Path, scenarios: int = 6) -> pa.Table:
    """Play a short rollout of scenarios from a testbed's own templates, and return its turns."""
    source = out.with_suffix(".scenarios")
    scenarios_stage(ScenariosJob(testbed=testbed, settings={"test": scenarios, "seed": 1}), source)
    job = RolloutJob(cell=Cell("agent", testbed), variants={"default": GAMES[testbed]})
    rollout(job, read_scenarios(source, testbed, "test"), agent, out, Stage("rollout", "atp.rollout.engine", {}))
    return read_turns(out)
