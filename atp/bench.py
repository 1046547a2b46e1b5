"""Speed, as a table: the engine against plain `generate`, scripted agents, Snakemake's planning. `make bench`.

The organism plays SCENARIOS held-out scenarios through the engine; then the same prompts are answered again, with
replies of the same lengths, by `generate` on one prompt at a time and by `generate` on a batch, both of which compute
the whole history anew each round. All in one process and one run, so that ratios hold on a noisy machine.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from atp.agents import Agent, load_agent
from atp.config import read_models
from atp.progress import Progress
from atp.provenance import Stage
from atp.rollout import Cell, Planned, play_batch, rollout
from atp.scenarios import coordination
from atp.scenarios.coordination import CoordinationTemplate
from atp.scenarios.role_play import RolePlayTemplate, instantiate
from atp.scenarios.templates import generate, read_templates
from atp.testbeds import TESTBEDS

ROOT = Path(__file__).parents[1]
SCENARIOS, ROUNDS, REPEATS, GAMES = 64, 6, 3, 10_000
SCHEDULE = "all_unsupervised"

Row = dict[str, Any]


@dataclass
class Spent:
    """Seconds in the model's forward passes, and the tokens that went through them, padding included."""

    seconds: float = 0.0
    prompt: int = 0
    written: int = 0


def main() -> None:
    """Print the table."""
    print("Engine, on the organism\n")
    for name, value in [*engine(), *scripted(), *population(), *planning()]:
        print(f"  {name:58} {value}")


def engine() -> list[tuple[str, str]]:
    """The engine against plain loops."""
    import torch

    spec = read_models(("organism",), ROOT / "config/models")["organism"]
    assert spec is not None
    agent: Any = load_agent("organism", spec.model_copy(update={"path": str(ROOT / spec.path)}).of("role_play"))
    planned = _episodes()
    rows, spent = _played(agent, planned), Spent()
    model, tokenizer = agent.model, agent.tokenizer
    ours, one, many = [], [], []
    for _ in range(REPEATS):
        with _timed(model, spent):
            ours.append(_clock(lambda: _played(agent, planned)))
        one.append(_clock(lambda: _loop(model, tokenizer, rows, 1)))
        many.append(_clock(lambda: _loop(model, tokenizer, rows, SCENARIOS)))
    count, seconds = len(rows), median(ours)
    distinct = _distinct(agent, rows)
    rate, needed = _matmul_rate(), _operations(model.config, rows)
    return [
        ("threads", str(torch.get_num_threads())),
        (f"decisions, {SCENARIOS} scenarios x {ROUNDS} rounds", f"{count}"),
        ("engine, decisions/s", f"{count / seconds:.1f}"),
        ("(a) generate, one prompt at a time, decisions/s", f"{count / median(one):.1f}"),
        ("(b) generate, batched, decisions/s", f"{count / median(many):.1f}"),
        ("engine over (a)", _times(one, ours)),
        ("engine over (b)", _times(many, ours)),
        ("prompt tokens computed per distinct prompt token", f"{_computed(rows) / distinct:.3f}"),
        ("... with the padding of its batches", f"{spent.prompt / REPEATS / distinct:.3f}"),
        ("time outside the model's forward passes", f"{100 * (1 - spent.seconds / sum(ours)):.1f} %"),
        ("matmul rate of this machine, GFLOP/s", f"{rate / 1e9:.0f}"),
        ("arithmetic limit, decisions/s", f"{count * rate / needed:.0f}"),
        ("share of the limit that the engine reaches", f"{100 * needed / rate / seconds:.0f} %"),
    ]


def _times(slower: list[float], faster: list[float]) -> str:
    """The median of the ratios of neighbouring runs, and their range."""
    ratios = [one / other for one, other in zip(slower, faster, strict=True)]
    return f"{median(ratios):.1f}x ({min(ratios):.1f} to {max(ratios):.1f})"


def scripted() -> list[tuple[str, str]]:
    """Decisions a second of a scripted agent, through the same path."""
    agent, planned = load_agent("scripted:win_stay_lose_shift", None), _episodes() * 32
    seconds = _clock(lambda: _played(agent, planned))
    return [("scripted agent, decisions/s", f"{len(planned) * ROUNDS / seconds:,.0f}")]


def population() -> list[tuple[str, str]]:
    """Seconds in which scripted populations play and their turns are written."""
    templates = read_templates(ROOT / "config/templates/coordination.yaml", CoordinationTemplate)
    scenarios = generate(templates, coordination.instantiate, 0, SCENARIOS, seed=0)
    agent, testbed = load_agent("scripted:imitate_majority", None), TESTBEDS["coordination"]
    settings = testbed.settings.model_validate({"first_colluders": 3})
    cell = Cell("scripted:imitate_majority", "coordination", "none", "plain", 0, "context", 0)
    samples = -(-GAMES // SCENARIOS)
    with tempfile.TemporaryDirectory() as folder:
        out, stage = Path(folder) / "turns.parquet", Stage("rollout", "atp.rollout", {}, [])
        seconds = _clock(lambda: rollout(scenarios, testbed, {"game": settings}, agent, cell, samples, out, stage))
    return [(f"{samples * SCENARIOS:,} games of 8 players x 3 rounds, s", f"{seconds:.1f}")]


def planning() -> list[tuple[str, str]]:
    """Seconds of a dry run of the largest study, imports included."""
    command = [sys.executable, "-m", "snakemake", "-n", "--cores", "1", "--config", "study=paper_grid"]
    begun = time.perf_counter()
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - begun
    jobs = next(line.split()[1] for line in result.stdout.splitlines() if line.startswith("total"))
    return [(f"snakemake -n of {jobs} jobs, s", f"{seconds:.1f}")]


def _episodes() -> list[Planned]:
    scenarios = generate(
        read_templates(ROOT / "config/templates/role_play.yaml", RolePlayTemplate), instantiate, 0, SCENARIOS, seed=0
    )
    settings = TESTBEDS["role_play"].settings.model_validate({"schedule": SCHEDULE, "rounds": ROUNDS})
    return [Planned(scenario, SCHEDULE, settings, 0) for scenario in scenarios]


def _played(agent: Agent, planned: Sequence[Planned]) -> list[Row]:
    cell = Cell("organism", "role_play", "none", "plain", 0, "context", 0)
    batches = [planned[start : start + agent.batch] for start in range(0, len(planned), agent.batch)]
    return [row for batch in batches for row in play_batch(batch, TESTBEDS["role_play"], agent, cell).to_pylist()]


def _clock(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


@contextmanager
def _timed(model: Any, spent: Spent) -> Any:
    """Counts a model's forward passes while it lasts."""
    plain = model.forward

    def forward(**arguments: Any) -> Any:
        begun = time.perf_counter()
        output = plain(**arguments)
        spent.seconds += time.perf_counter() - begun
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
    """Answer every prompt by `generate`, `batch` prompts of a round at a time, replies as long as they were."""
    import torch

    ordered = sorted(rows, key=lambda row: row["round"])
    progress = Progress(f"generate, {batch} at a time", len(rows), "decisions")
    for start in range(0, len(ordered), batch):
        part = ordered[start : start + batch]
        texts = [
            tokenizer.apply_chat_template(row["messages"], tokenize=False, add_generation_prompt=True) for row in part
        ]
        inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
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


def _computed(rows: list[Row]) -> int:
    return sum(row["prompt_tokens"] - row["cached_tokens"] for row in rows)


def _distinct(agent: Any, rows: list[Row]) -> int:
    """Prompt tokens that no earlier prompt or reply of any conversation had computed: nodes of their prefix tree."""
    seen: set[int] = set()
    replies = 0
    for row in rows:
        text = agent.tokenizer.apply_chat_template(row["messages"], tokenize=False, add_generation_prompt=True)
        prompt = agent.tokenizer(text, add_special_tokens=False).input_ids
        whole = prompt + agent.tokenizer(row["reply"] + agent.tokenizer.eos_token, add_special_tokens=False).input_ids
        node = 0
        for place, token in enumerate(whole):
            node = hash((node, token))
            if node not in seen:
                seen.add(node)
                replies += place >= len(prompt)
    return len(seen) - replies


def _matmul_rate(size: int = 2048, times: int = 5) -> float:
    """Floating-point operations a second of square matrix products in float32."""
    import torch

    one = torch.rand(size, size)
    one @ one
    return times * 2 * size**3 / _clock(lambda: [one @ one for _ in range(times)])


def _operations(config: Any, rows: list[Row]) -> float:
    """Floating-point operations that the played rows need: each token once, attention over what stands before it."""
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
