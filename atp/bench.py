"""Measure speed: the engine compared with plain `generate` and vLLM, scripted agents, a server with latency,
Snakemake's planning, and the default study compared with an earlier version of the project. `make bench`, half an hour.

A model plays SCENARIOS held-out scenarios through the engine: the model organism, and SmolLM2 after `make smollm2`.
Then plain `generate` answers the same prompts with replies of the same lengths, one prompt at a time and in batches; it
recomputes the whole history in each round.
Everything runs in one process, so that the ratios are valid on a busy machine.
"""

import heapq
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import pyarrow as pa

from atp.agents.base import Agent
from atp.agents.load import load_agent
from atp.agents.served import SEED_MODULUS
from atp.files.provenance import Stage
from atp.files.turns import read_turns
from atp.models.engines import PYTHON
from atp.models.spec import ModelSpec, Sampling
from atp.progress import Progress
from atp.registry import find_testbed
from atp.rollout.drive import play_batch
from atp.rollout.engine import RolloutJob, rollout
from atp.rollout.table import Cell, PlannedEpisode
from atp.scenarios.sources import TemplateSource
from atp.study.read import read_models
from atp.testbed import Scenario

ROOT = Path(__file__).parents[1]
SCENARIOS, ROUNDS, REPEATS, GAMES = 64, 6, 3, 10_000
#: Testbeds of the engine and of the populations, and their settings.
SINGLE, SINGLE_SETTINGS = "role_play", {"schedule": "all_unsupervised", "rounds": ROUNDS}
POPULATION, POPULATION_SETTINGS = "coordination", {"first_colluders": 3}

#: Episodes that a server plays, prompts in flight, and the median of its lognormal latency in seconds, with sigma 1.
SERVED, IN_FLIGHT, LATENCY = 512, 64, 0.6
#: Sampling with which vLLM and the engine give equal replies, apart from rounding.
EQUAL = Sampling(temperature=0, max_new_tokens=48)
#: Version with which the default study is compared.
BASE = "d802e36"

Row = dict[str, Any]


@dataclass
class Spent:
    """Seconds in the model's forward passes, and the tokens that they processed, including padding."""

    seconds: float = 0.0
    prompt: int = 0
    written: int = 0


def main() -> None:
    """Print the table."""
    smollm2 = (ROOT / "models/smollm2-135m/config.json").is_file()
    parts: list[Callable[[], list[tuple[str, str]]]] = [partial(engine, "organism")]
    parts += [partial(engine, "smollm2-135m", 1, 7)] if smollm2 else []
    for part in (*parts, vllm, scripted, served, population, planning, study):
        for name, value in part():
            print(f"  {name:58} {value}", flush=True)


def engine(name: str, repeats: int = REPEATS, every: int = 1) -> list[tuple[str, str]]:
    """Return the speed of the engine and of plain loops.

    Args:
        every: the loop of one prompt at a time answers one of so many prompts; its time is scaled to all of them.
    """
    import torch

    spec = read_models((name,), ROOT / "config/models")[name]
    assert spec is not None
    agent: Any = load_agent(name, spec.model_copy(update={"path": str(ROOT / spec.path)}).of(SINGLE))
    episodes = _episodes()
    rows, spent = _played(agent, episodes), Spent()
    model, tokenizer = agent.model, agent.tokenizer
    engine, one, many = [], [], []
    sample = rows[::every]
    for _ in range(repeats):
        with _timed(model, spent):
            engine.append(_clock(lambda: _played(agent, episodes)))
        one.append(_clock(lambda: _loop(model, tokenizer, sample, 1)) * len(rows) / len(sample))
        many.append(_clock(lambda: _loop(model, tokenizer, rows, SCENARIOS)))
    count, seconds = len(rows), median(engine)
    distinct, computed = _distinct(agent, rows), sum(row["prompt_tokens"] - row["cached_tokens"] for row in rows)
    rate, needed = _matmul_rate(model.dtype), _operations(model.config, rows)
    return [
        (f"model {name}", str(model.dtype)),
        ("threads", str(torch.get_num_threads())),
        (f"decisions, {SCENARIOS} scenarios x {ROUNDS} rounds", f"{count}"),
        ("engine, decisions/s", f"{count / seconds:.2f}"),
        ("(a) plain generate, one prompt at a time, decisions/s", f"{count / median(one):.2f}"),
        ("(b) plain generate, batched, decisions/s", f"{count / median(many):.2f}"),
        ("engine / (a)", _times(one, engine)),
        ("engine / (b)", _times(many, engine)),
        ("prompt tokens computed per distinct prompt token", f"{computed / distinct:.3f}"),
        ("... including the padding of batches", f"{spent.prompt / repeats / distinct:.3f}"),
        ("time outside the model's forward passes", f"{100 * (1 - spent.seconds / sum(engine)):.1f} %"),
        ("matmul rate of this machine, GFLOP/s", f"{rate / 1e9:.0f}"),
        ("arithmetic limit, decisions/s", f"{count * rate / needed:.0f}"),
        ("engine / arithmetic limit", f"{100 * needed / rate / seconds:.0f} %"),
    ]


def vllm() -> list[tuple[str, str]]:
    """Return the speed of vLLM on this machine's CPU and of the engine, on the same episodes with equal replies."""
    python, folder = ROOT / ".venv-vllm/bin/python", ROOT / "models/smollm2-135m"
    name = f"vLLM on the CPU, SmolLM2-135M, {SCENARIOS} scenarios x {ROUNDS} rounds"
    if not (python.is_file() and (folder / "config.json").is_file()):
        return [(name, "not run: make test-vllm makes what it needs")]
    os.environ[PYTHON] = str(python)
    seconds, written = {}, {}
    for engine in ("vllm", "transformers"):
        keys = {"path": str(folder), "engine": engine, "device": "cpu", "mem_mb": 12_000, "sampling": EQUAL}
        spec = ModelSpec.model_validate(keys)
        agent, job = load_agent("m", spec), RolloutJob(cell=Cell("m", SINGLE), variants={"default": SINGLE_SETTINGS})
        with tempfile.TemporaryDirectory() as out:
            turns, stage = Path(out) / "turns.parquet", Stage("rollout", "atp.rollout.engine", {})
            seconds[engine] = _clock(partial(rollout, job, _scenarios(SINGLE), agent, turns, stage))
            written[engine] = sum(read_turns(turns)["completion_tokens"].to_pylist())
    return [
        (f"{name}, decisions/s", f"{SCENARIOS * ROUNDS / seconds['vllm']:.2f}"),
        ("... generated tokens/s", f"{written['vllm'] / seconds['vllm']:.0f}"),
        ("... vLLM / engine", f"{seconds['transformers'] / seconds['vllm']:.2f}x"),
        ("... tokens of vLLM's replies / of the engine's", f"{written['vllm'] / written['transformers']:.3f}"),
    ]


def _times(slower: list[float], faster: list[float]) -> str:
    """Return the median of the ratios of successive runs, and their range."""
    ratios = [one / other for one, other in zip(slower, faster, strict=True)]
    return f"{median(ratios):.1f}x ({min(ratios):.1f} to {max(ratios):.1f})"


def scripted() -> list[tuple[str, str]]:
    """Return the decisions per second of a scripted agent, through the same engine."""
    agent, episodes = load_agent("scripted:win_stay_lose_shift", None), _episodes() * 32
    seconds = _clock(lambda: _played(agent, episodes))
    return [("scripted agent, decisions/s", f"{len(episodes) * ROUNDS / seconds:,.0f}")]


def population() -> list[tuple[str, str]]:
    """Return the seconds in which scripted populations play and their turns are written."""
    name, testbed, scenarios = "scripted:imitate_majority", find_testbed(POPULATION), _scenarios(POPULATION)
    agent, settings = load_agent(name, None, testbed=POPULATION), testbed.settings(**POPULATION_SETTINGS)
    samples = -(-GAMES // SCENARIOS)
    job = RolloutJob(cell=Cell(name, POPULATION), variants={"game": settings}, samples=samples)
    with tempfile.TemporaryDirectory() as folder:
        out, stage = Path(folder) / "turns.parquet", Stage(job.stage, "atp.rollout.engine", job.params())
        seconds = _clock(lambda: rollout(job, scenarios, agent, out, stage))
    return [(f"{samples * SCENARIOS:,} games of 8 players x 3 rounds, s", f"{seconds:.1f}")]


def study() -> list[tuple[str, str]]:
    """Return the CPU seconds of the default study, in one run with BASE at the same time, on a core each."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / BASE
        archive = subprocess.run(["git", "archive", BASE], cwd=ROOT, capture_output=True)
        if not archive.returncode:
            base.mkdir()
            subprocess.run(["tar", "x", "-C", base], input=archive.stdout, check=True)
        projects = {"this version": ROOT} | ({BASE: base} if base.is_dir() else {})
        runs = {name: _begin_study(project, Path(folder) / f"{name} results") for name, project in projects.items()}
        seconds = {}
        for name, run in runs.items():
            _, status, usage = os.wait4(run.pid, 0)
            if status:
                raise SystemExit(f"the default study of {name} failed: {run.args!r:.300}")
            seconds[name] = usage.ru_utime + usage.ru_stime
    rows = [(f"default study, {name}, CPU s", f"{taken:.0f}") for name, taken in seconds.items()]
    return [*rows, *([(f"... / {BASE}", f"{seconds['this version'] / seconds[BASE]:.2f}")] if BASE in seconds else [])]


def _begin_study(project: Path, folder: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "snakemake", "-s", str(project / "Snakefile"), "--directory", str(folder)]
    nowhere = subprocess.DEVNULL
    return subprocess.Popen([*command, "--cores", "1"], cwd=project, stdout=nowhere, stderr=nowhere)


def planning() -> list[tuple[str, str]]:
    """Return the seconds of a dry run of the largest study, including imports."""
    command = [sys.executable, "-m", "snakemake", "-n", "--cores", "1", "--config", "study=paper_grid"]
    start = time.perf_counter()
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - start
    jobs = next(line.split()[1] for line in result.stdout.splitlines() if line.startswith("total"))
    return [(f"snakemake -n of {jobs} jobs, s", f"{seconds:.1f}")]


def served() -> list[tuple[str, str]]:
    """Return how busy a rollout keeps a server whose replies take lognormal times.

    The bound is that IN_FLIGHT requests are always in flight: the sum of all latencies, divided by IN_FLIGHT. Nobody
    reaches it, because the last episodes are too few to fill all places, and their replies are one after the other.
    The schedule is what IN_FLIGHT episodes at a time would take on a machine without any overhead.
    """
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=_serve, args=(theirs,), daemon=True)
    server.start()
    try:
        url = ours.recv()
        os.environ.setdefault("BENCH_API_KEY", "none")
        spec = ModelSpec(kind="inspect", path="openai-api/bench/model", base_url=url, batch=IN_FLIGHT)
        job = RolloutJob(
            cell=Cell("served", SINGLE), variants={"default": find_testbed(SINGLE).settings(rounds=ROUNDS)}
        )
        agent = load_agent("served", spec)
        with tempfile.TemporaryDirectory() as folder:
            stage = Stage("rollout", "atp.rollout.engine", {})
            out = Path(folder, "turns.parquet")
            seconds = _clock(lambda: rollout(job, _scenarios(SINGLE, SERVED), agent, out, stage))
            turns = read_turns(out).select(["episode", "sampling_seed"])
    finally:
        server.kill()
    name = f"{SERVED} episodes from a server, {IN_FLIGHT} in flight"
    bound, schedule = _ideals(turns)
    return [
        (f"{name}, s", f"{seconds:.1f}"),
        (f"{name}, bound / time", f"{bound / seconds:.0%}"),
        (f"{name}, schedule / time", f"{schedule / seconds:.0%}"),
    ]


def _latency(seed: int) -> float:
    return Random(seed % SEED_MODULUS).lognormvariate(math.log(LATENCY), 1)


def _ideals(turns: pa.Table) -> tuple[float, float]:
    """Return the seconds if IN_FLIGHT places are always busy, and if each plays one episode after another."""
    episodes: dict[str, float] = defaultdict(float)
    for turn in turns.to_pylist():
        episodes[turn["episode"]] += _latency(turn["sampling_seed"])
    places = [0.0] * IN_FLIGHT
    for seconds in episodes.values():
        heapq.heapreplace(places, places[0] + seconds)
    return sum(places) / IN_FLIGHT, max(places)


def _serve(pipe: Any) -> None:
    """Answer requests of the chat completions API after random times."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            time.sleep(_latency(request["seed"]))
            message = {"role": "assistant", "content": "I cannot say."}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            head = {"id": "1", "object": "chat.completion", "created": 0, "model": "model"}
            self._send({**head, "choices": [choice], "usage": usage})

        def _send(self, body: Any) -> None:
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Write nothing."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 2 * IN_FLIGHT

    with Server(("127.0.0.1", 0), Handler) as server:
        pipe.send(f"http://127.0.0.1:{server.server_address[1]}/v1")
        server.serve_forever()


def _scenarios(testbed: str, count: int = SCENARIOS) -> Sequence[Scenario]:
    return TemplateSource(test=count).scenarios(find_testbed(testbed), ROOT)


def _episodes() -> list[PlannedEpisode]:
    settings = find_testbed(SINGLE).settings(**SINGLE_SETTINGS)
    return [PlannedEpisode(scenario, "default", settings, 0) for scenario in _scenarios(SINGLE)]


def _played(agent: Agent, episodes: Sequence[PlannedEpisode]) -> list[Row]:
    """Play episodes in batches and return their turns."""
    cell = Cell("organism", SINGLE)
    batches = [episodes[start : start + agent.batch] for start in range(0, len(episodes), agent.batch)]
    return [row for batch in batches for row in play_batch(batch, find_testbed(SINGLE), agent, cell).to_pylist()]


def _clock(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@contextmanager
def _timed(model: Any, spent: Spent) -> Any:
    """Add up the time and tokens of a model's forward passes within the block."""
    original = model.forward

    def forward(**arguments: Any) -> Any:
        start = time.perf_counter()
        output = original(**arguments)
        spent.seconds += time.perf_counter() - start
        tokens = arguments["input_ids"]
        if tokens.shape[1] > 1:
            spent.prompt += tokens.numel()
        else:
            spent.written += tokens.numel()
        return output

    model.forward = forward
    try:
        yield
    finally:
        del model.forward


def _loop(model: Any, tokenizer: Any, rows: list[Row], batch: int) -> None:
    """Answer every prompt by `generate`, `batch` prompts of a round at a time, with replies of the recorded lengths."""
    import torch

    ordered = sorted(rows, key=lambda row: row["round"])
    progress = Progress(f"generate, {batch} at a time", len(rows), "decisions")
    for start in range(0, len(ordered), batch):
        part = ordered[start : start + batch]
        texts = [
            tokenizer.apply_chat_template(row["messages"], tokenize=False, add_generation_prompt=True) for row in part
        ]
        inputs = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
        length = max(row["completion_tokens"] for row in part)
        with torch.inference_mode():
            replies = model.generate(
                **inputs,
                do_sample=True,
                max_new_tokens=length,
                min_new_tokens=length,
                pad_token_id=tokenizer.pad_token_id,
            )
        tokenizer.batch_decode(replies[:, inputs.input_ids.shape[1] :])
        progress.advance(len(part))


def _distinct(agent: Any, rows: list[Row]) -> int:
    """Return the distinct prompt tokens: nodes of the prefix tree of all conversations, without those of replies."""
    seen: set[int] = set()
    replies = 0
    for row in rows:
        text = agent.tokenizer.apply_chat_template(row["messages"], tokenize=False, add_generation_prompt=True)
        prompt = agent.tokenizer(text, add_special_tokens=False).input_ids
        tokens = prompt + agent.tokenizer(row["reply"] + agent.tokenizer.eos_token, add_special_tokens=False).input_ids
        node = 0
        for position, token in enumerate(tokens):
            node = hash((node, token))
            if node not in seen:
                seen.add(node)
                replies += position >= len(prompt)
    return len(seen) - replies


def _matmul_rate(dtype: Any, size: int = 2048, times: int = 5) -> float:
    """Return the floating-point operations per second of square matrix products in a torch type."""
    import torch

    matrix = torch.rand(size, size).to(dtype)
    matrix @ matrix
    return times * 2 * size**3 / _clock(lambda: [matrix @ matrix for _ in range(times)])


def _operations(config: Any, rows: list[Row]) -> float:
    """Return the floating-point operations of these rows: each token once, with attention to all tokens before it."""
    hidden, width = config.hidden_size, config.num_attention_heads * config.head_dim
    weights = hidden * (2 * width + 2 * config.num_key_value_heads * config.head_dim)
    weights += 3 * hidden * config.intermediate_size
    total = 0.0
    for row in rows:
        written = row["completion_tokens"]
        new, end = row["prompt_tokens"] - row["cached_tokens"] + written, row["prompt_tokens"] + written
        before = (end * (end + 1) - (end - new) * (end - new + 1)) / 2
        total += config.num_hidden_layers * (2 * weights * new + 4 * width * before)
        total += 2 * hidden * config.vocab_size * written
    return total


if __name__ == "__main__":
    main()
