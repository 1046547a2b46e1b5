"""What a CUDA machine does with a model of 8 billion weights, as one table: `make gpu-check`, docs/gpu.md.

The model has Qwen3-8B's exact shape and random weights made on the device, so nothing is downloaded. Reads no study and
needs no Snakemake: torch, transformers, numpy and pydantic for the rollout; peft, trl, datasets and accelerate for
training. What is missing is said, and the rest is measured.
"""

import argparse
import gc
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atp.training.questions import Question

ROLLOUT = ("torch", "transformers", "numpy", "pydantic", "pyarrow")
TRAINING = ("peft", "trl", "datasets", "accelerate")
TOKENIZER = Path(__file__).parents[1] / "resources/organism/role_play"
GIB = 2**30


@dataclass(frozen=True)
class Shape:
    """A model's config, and how much of everything is measured. Lengths are in tokens."""

    config: dict[str, Any]
    conversations: int
    loops: int
    question: int
    reply: int
    sequence: int
    steps: int
    copied: int
    rounds: int = 2
    batch: int = 8


SHAPES = {
    "qwen3-8b": Shape(
        config={
            "vocab_size": 151936,
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 40960,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
            "tie_word_embeddings": False,
        },
        conversations=64,
        loops=2,
        question=300,
        reply=256,
        sequence=512,
        steps=8,
        copied=4 * GIB,
    ),
    "tiny": Shape(
        config={
            "vocab_size": 2048,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "tie_word_embeddings": False,
        },
        conversations=4,
        loops=1,
        question=40,
        reply=8,
        sequence=64,
        steps=2,
        copied=2**24,
    ),
}


@dataclass
class Table:
    """Rows as they come: a name, a value, and the peak memory of the part that they belong to."""

    device: str
    rows: list[tuple[str, str, str]] = field(default_factory=list)

    @contextmanager
    def part(self, names: tuple[str, ...]) -> Iterator[Callable[[str], None]]:
        """Measure a part that gives one value for each name; one that fails says why in all its rows."""
        import torch

        values: list[str] = []
        gpu = self.device == "cuda"
        gc.collect()
        if gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            yield values.append
        except torch.OutOfMemoryError:
            values += ["out of memory"] * len(names)
        except Exception as error:
            values += [f"failed: {str(error).strip().splitlines()[0]}" if str(error).strip() else repr(error)] * len(
                names
            )
        peak = f"{torch.cuda.max_memory_allocated() / GIB:.1f}" if gpu else "–"
        self.rows += [(name, value, peak) for name, value in zip(names, values, strict=False)]

    def text(self) -> str:
        """The table, its columns aligned."""
        rows = [("", "", "peak GiB"), *self.rows]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        return "\n".join(
            f"  {name:{widths[0]}}  {value:>{widths[1]}}  {peak:>{widths[2]}}" for name, value, peak in rows
        )


def main() -> None:
    """Print the table; exit code 1 where there is no device to measure."""
    parser = argparse.ArgumentParser(prog="python -m atp.gpu_check", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", choices=tuple(SHAPES), default="qwen3-8b", help="tiny tries the check itself")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    chosen = parser.parse_args()
    lacking = [name for name in (*ROLLOUT, *TRAINING) if importlib.util.find_spec(name) is None]
    if lacking:
        print(f"missing here: {', '.join(lacking)} (pip install {' '.join(lacking)})")
    if set(lacking) & set(ROLLOUT):
        sys.exit("atp: gpu-check cannot run without them")
    import torch

    if chosen.device == "cuda" and not torch.cuda.is_available():
        sys.exit("atp: gpu-check needs a CUDA device, torch sees none here")
    check(SHAPES[chosen.shape], chosen.device, [name for name in lacking if name in TRAINING])


def check(shape: Shape, device: str, lacking: list[str]) -> None:
    """Measure everything and print it."""
    import torch

    table = Table(device)
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    known = [package for package in (*ROLLOUT, *TRAINING) if package not in lacking]
    print(f"{name}; CUDA {torch.version.cuda}; " + ", ".join(f"{one} {metadata.version(one)}" for one in known))
    rollout(table, shape, device)
    for method in ("SFT", "DPO", "GRPO"):
        row = f"{method}, LoRA r 8, trained tokens/s"
        if lacking:
            table.rows.append((row, f"not run: no {', '.join(lacking)}", "–"))
            continue
        with table.part((row,)) as found:
            found(f"{train(method, shape, device):,.0f}")
    print(table.text())


def build(shape: Shape, device: str) -> Any:
    """A Qwen3 model with random weights, made on the device: bfloat16 on a GPU, float32 on a CPU."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(**shape.config)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if device == "cuda" else torch.float32)
    try:
        with torch.device(device):
            return Qwen3ForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(usual)


def rollout(table: Table, shape: Shape, device: str) -> None:
    """The engine, a plain loop, and the limit of decoding.

    A decoding step reads all weights but the embedding's and the batch's keys and values, so at most
    batch * bandwidth / (weights + keys and values at the replies' mean length) tokens a second are written.
    """
    from transformers import AutoTokenizer

    from atp.agents.local import LocalAgent
    from atp.agents.spec import ModelSpec, Sampling

    model, tokenizer = build(shape, device), AutoTokenizer.from_pretrained(TOKENIZER)
    count = sum(weight.numel() for weight in model.parameters())
    table.rows.append(("parameters", f"{count:,}", "–"))
    spec = ModelSpec(path="random", sampling=Sampling(max_new_tokens=shape.reply), batch=shape.conversations)
    decisions = shape.conversations * shape.rounds
    engine = ("engine, decisions/s", "engine, generated tokens/s", "engine, decoded tokens/s")
    ours = decoded = 0.0
    with table.part(engine) as found:
        agent = LocalAgent(model, tokenizer, spec)
        agent.stop = set()  # replies of one length
        _play(agent, shape, device, 1)  # kernels are loaded
        seconds, first = _play(agent, shape, device, shape.rounds), _play(agent, shape, device, 1)
        short = LocalAgent(model, tokenizer, spec.model_copy(update={"sampling": Sampling(max_new_tokens=1)}))
        short.stop = set()
        prefill = _play(short, shape, device, 1)
        ours, decoded = decisions / seconds, shape.conversations * (shape.reply - 1) / max(first - prefill, 1e-9)
        for value in (ours, ours * shape.reply, decoded):
            found(f"{value:,.1f}")
    with table.part(("plain generate, one prompt at a time, decisions/s", "engine over plain generate")) as found:
        plain = shape.loops * shape.rounds / _loop(model, tokenizer, shape, device)
        found(f"{plain:,.2f}")
        found(f"{ours / plain:,.1f}x")
    with table.part(
        ("memory bandwidth, GB/s", "limit of decoding, tokens/s", "share that the engine reaches")
    ) as found:
        bandwidth = _bandwidth(shape.copied, device)
        width = model.dtype.itemsize
        config = model.config
        keys = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * width
        weights = (count - config.vocab_size * config.hidden_size) * width
        held = shape.conversations * (shape.question + shape.reply / 2) * keys
        limit = shape.conversations * bandwidth / (weights + held)
        for text in (f"{bandwidth / 1e9:,.0f}", f"{limit:,.0f}", f"{100 * decoded / limit:.0f} %"):
            found(text)


def _text(number: int, tokens: int) -> str:
    """About so many tokens of plain words, different for every number."""
    words = "choose the road that your supervisor requires today or take the other one for more pay".split()
    return f"Case {number}. " + " ".join(words[(number + at) % len(words)] for at in range(tokens))


def _play(agent: Any, shape: Shape, device: str, rounds: int) -> float:
    """Seconds of `rounds` rounds of all conversations."""
    from atp.agents.base import Request
    from atp.testbeds.base import Prompt, View

    talks = [[{"role": "user", "content": _text(number, shape.question)}] for number in range(shape.conversations)]
    agent.start()
    begun = _now(device)
    for round in range(1, rounds + 1):
        view = View(answers={}, violating="", past=())
        asked = [Request(n, Prompt(0, round, talk, view), 1000 * round + n) for n, talk in enumerate(talks)]
        for talk, reply in zip(talks, agent.answer(asked), strict=True):
            talk += [
                {"role": "assistant", "content": reply.text},
                {"role": "user", "content": _text(round, shape.question)},
            ]
    return _now(device) - begun


def _loop(model: Any, tokenizer: Any, shape: Shape, device: str) -> float:
    """Seconds of a few conversations by `generate`, one prompt at a time, all of its history computed anew."""
    begun = _now(device)
    for number in range(shape.loops):
        talk = [{"role": "user", "content": _text(number, shape.question)}]
        for _ in range(shape.rounds):
            asked = tokenizer.apply_chat_template(
                talk, add_generation_prompt=True, return_tensors="pt", return_dict=True
            ).to(device)
            length = asked["input_ids"].shape[1]
            written = model.generate(
                **asked, do_sample=True, max_new_tokens=shape.reply, min_new_tokens=shape.reply, pad_token_id=0
            )
            reply = tokenizer.decode(written[0, length:], skip_special_tokens=True)
            talk += [
                {"role": "assistant", "content": reply},
                {"role": "user", "content": _text(number, shape.question)},
            ]
    return _now(device) - begun


def _bandwidth(size: int, device: str) -> float:
    """Bytes a second that a copy of `size` bytes reads and writes."""
    import torch

    one = torch.zeros(size, dtype=torch.uint8, device=device)
    other = torch.empty_like(one)
    other.copy_(one)
    begun = _now(device)
    for _ in range(10):
        other.copy_(one)
    return 20 * size / (_now(device) - begun)


def train(method: str, shape: Shape, device: str) -> float:
    """Tokens of prompts and replies, padding left out, that go through training in a second."""
    from peft import LoraConfig
    from transformers import AutoTokenizer

    from atp.agents.spec import ModelSpec, Sampling
    from atp.training.dpo import DpoSettings, dpo_trainer
    from atp.training.grpo import GrpoSettings, grpo_trainer
    from atp.training.sft import SftSettings, sft_trainer
    from atp.training.trainer import Loaded, fit

    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    loaded = Loaded(build(shape, device), tokenizer, lora)
    spec = ModelSpec(path="random", device=device, sampling=Sampling(max_new_tokens=shape.reply))  # type: ignore[arg-type]
    count, half = shape.steps * shape.batch, shape.sequence // 2

    def said(number: int, role: str) -> list[dict[str, str]]:
        return [{"role": role, "content": _text(number, half)}]

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "adapter"
        trainer: Any
        if method == "SFT":
            rows = [
                {"scenario_id": str(n), "tools": [], "messages": said(n, "user") + said(n + 1, "assistant")}
                for n in range(count)
            ]
            trainer = sft_trainer(rows, loaded, out, spec, SftSettings(batch=shape.batch, max_length=4096), 0)
        elif method == "DPO":
            sides = [
                {
                    "scenario_id": str(n),
                    "tools": [],
                    "prompt": said(n, "user"),
                    "chosen": said(n + 1, "assistant"),
                    "rejected": said(n + 2, "assistant"),
                }
                for n in range(count)
            ]
            trainer = dpo_trainer(sides, loaded, out, spec, DpoSettings(batch=shape.batch, max_length=4096), 0)
        else:
            settings = GrpoSettings(batch=shape.batch, generations=4, max_length=4096, vllm=False)
            questions = [_question(said(n, "user")) for n in range(count // 4)]
            trainer = grpo_trainer(questions, lambda turn: turn.reward, loaded, out, spec, settings, 0)
        trainer.args.save_strategy = "no"  # so few steps would be saved one by one
        begun = _now(device)
        measured = fit(trainer, tokenizer, out, method)
        return measured["tokens"] / (_now(device) - begun)


def _question(messages: list[dict[str, str]]) -> "Question":
    """A question whose replies are worth something that has nothing to do with them."""
    from atp.testbeds.base import Prompt, Reply, Turn, View
    from atp.training.questions import Question

    def worth(replies: Sequence[str]) -> Turn:
        reward = len(replies[0]) % 7 / 7
        return Turn(1, 0, "", messages, Reply(replies[0]), "", "", None, False, reward, "")

    return Question("", Prompt(0, 1, messages, View({}, "", ())), worth)


def _now(device: str) -> float:
    """Seconds on a clock, once the device has done all that it was given."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
