"""Measure rollout and training on a CUDA device with a model of 8 billion weights: `make gpu-check`, docs/gpu.md.

The model has the shape of Qwen3-8B and random weights that are created on the device, so nothing is downloaded. The
check needs no study and no Snakemake: torch, transformers, numpy and pydantic for rollout; peft, trl, datasets and
accelerate for training. Missing packages are reported, and everything else is measured.
"""

import argparse
import gc
import importlib.util
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atp.files.code import SHIPPED

if TYPE_CHECKING:
    from atp.rollout.branching import Question

ROLLOUT = ("torch", "transformers", "numpy", "pydantic", "pyarrow")
TRAINING = ("peft", "trl", "datasets", "accelerate")
#: Any small tokenizer with a chat template.
TOKENIZER = SHIPPED / "resources/organism/role_play"
GIB = 2**30


@dataclass(frozen=True)
class Shape:
    """A model's config, and the sizes of the measurements. Lengths are in tokens, `copied` is in bytes."""

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
            "head_dim": 32,  # the least for which vLLM has CPU kernels
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
    """Rows in order: a name, a value, and the peak memory of the part that they belong to."""

    device: str
    rows: list[tuple[str, str, str]] = field(default_factory=list)

    @contextmanager
    def part(self, names: Sequence[str]) -> Iterator[Callable[[str], None]]:
        """Yield a function that adds the value of the next name. If the part fails, its other rows have the reason."""
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
            reason = f"failed: {str(error).strip().splitlines()[0]}" if str(error).strip() else repr(error)
            values += [reason] * len(names)
        peak = f"{torch.cuda.max_memory_allocated() / GIB:.1f}" if gpu else "–"
        self.rows += [(name, value, peak) for name, value in zip(names, values, strict=False)]

    def text(self) -> str:
        """Return the table with aligned columns."""
        rows = [("", "", "peak GiB"), *self.rows]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        return "\n".join(
            f"  {name:{widths[0]}}  {value:>{widths[1]}}  {peak:>{widths[2]}}" for name, value, peak in rows
        )


def main() -> None:
    """Print the table; exit with code 1 if there is no device."""
    parser = argparse.ArgumentParser(prog="python -m atp.gpu_check", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", choices=tuple(SHAPES), default="qwen3-8b", help="tiny tests the check itself")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    arguments = parser.parse_args()
    missing = [name for name in (*ROLLOUT, *TRAINING) if importlib.util.find_spec(name) is None]
    if missing:
        print(f"missing packages: {', '.join(missing)} (pip install {' '.join(missing)})")
    if set(missing) & set(ROLLOUT):
        sys.exit("atp: gpu-check cannot run without them")
    import torch

    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("atp: gpu-check needs a CUDA device, torch finds none")
    check(SHAPES[arguments.shape], arguments.device, [name for name in missing if name in TRAINING])


def check(shape: Shape, device: str, missing: list[str]) -> None:
    """Measure everything and print the table.

    Args:
        missing: packages that training needs and that are not installed.
    """
    import torch

    table = Table(device)
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    installed = [package for package in (*ROLLOUT, *TRAINING) if package not in missing]
    versions = ", ".join(f"{package} {metadata.version(package)}" for package in installed)
    print(f"{name}; CUDA {torch.version.cuda}; {versions}")
    loop, limit = rollout(table, shape, device)
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()  # for vLLM, which is in another process
    vllm(table, shape, device, loop, limit)
    for method in ("SFT", "DPO", "GRPO"):
        row = f"{method}, LoRA r 8, trained tokens/s"
        if missing:
            table.rows.append((row, f"not run: no {', '.join(missing)}", "–"))
            continue
        with table.part((row,)) as add:
            add(f"{train(method, shape, device):,.0f}")
    print(table.text())


def build(shape: Shape, device: str) -> Any:
    """Return a Qwen3 model with random weights, created on the device: bfloat16 on a GPU, float32 on a CPU."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(**shape.config)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if device == "cuda" else torch.float32)
    try:
        with torch.device(device):
            return Qwen3ForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(default)


def rollout(table: Table, shape: Shape, device: str) -> tuple[float, float]:
    """Measure the engine, a simple loop, and the limit of decoding.

    Returns:
        The decisions per second of the loop, and the limit in tokens per second; NaN where one failed.

    A decoding step reads all weights except the embedding's, and the keys and values of the batch. So at most
    batch * bandwidth / (weights + keys and values at the replies' mean length) tokens are generated per second.
    """
    from transformers import AutoTokenizer

    from atp.agents.local import LocalAgent
    from atp.models.spec import ModelSpec, Sampling

    model, tokenizer = build(shape, device), AutoTokenizer.from_pretrained(TOKENIZER)
    count = sum(weight.numel() for weight in model.parameters())
    table.rows.append(("parameters", f"{count:,}", "–"))
    spec = ModelSpec(path="random", sampling=Sampling(max_new_tokens=shape.reply), batch=shape.conversations)
    engine = ("engine, decisions/s", "engine, generated tokens/s", "engine, decoded tokens/s")
    ours = decoded = loop = limit = math.nan
    with table.part(engine) as add:
        agent = LocalAgent(model, tokenizer, spec)
        agent.stop = set()  # replies of one length
        short = LocalAgent(model, tokenizer, spec.model_copy(update={"sampling": Sampling(max_new_tokens=1)}))
        short.stop = set()
        ours, decoded = _rates(agent, short, shape, device)
        for value in (ours, ours * shape.reply, decoded):
            add(f"{value:,.1f}")
    with table.part(("plain generate, one prompt at a time, decisions/s", "engine / plain generate")) as add:
        loop = shape.loops * shape.rounds / _loop(model, tokenizer, shape, device)
        add(f"{loop:,.2f}")
        add(f"{ours / loop:,.1f}x")
    with table.part(("memory bandwidth, GB/s", "limit of decoding, tokens/s", "engine / limit")) as add:
        bandwidth = _bandwidth(shape.copied, device)
        width = model.dtype.itemsize
        config = model.config
        keys = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * width
        weights = (count - config.vocab_size * config.hidden_size) * width
        cache = shape.conversations * (shape.question + shape.reply / 2) * keys
        limit = shape.conversations * bandwidth / (weights + cache)
        for text in (f"{bandwidth / 1e9:,.0f}", f"{limit:,.0f}", f"{100 * decoded / limit:.0f} %"):
            add(text)
    return loop, limit


def vllm(table: Table, shape: Shape, device: str, loop: float, limit: float) -> None:
    """Measure vLLM on the same conversations, with random weights that it makes itself.

    Args:
        loop: decisions per second of plain generate.
        limit: limit of decoding, in tokens per second.
    """
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    from atp.agents.vllm import Engine, VllmAgent
    from atp.models.engines import PYTHON, vllm_python
    from atp.models.gpus import gpu_memory
    from atp.models.spec import ModelSpec, Sampling

    python = vllm_python()
    if python is None:
        print(f"vLLM is not measured: install it, or name a Python that has it in {PYTHON}")
        return
    names = ["vLLM, decisions/s", "vLLM, generated tokens/s", "vLLM, decoded tokens/s", "vLLM / plain generate"]
    names += ["vLLM / limit", *(["GPU memory while vLLM has the model, GiB"] if device == "cuda" else [])]
    with table.part(names) as add, tempfile.TemporaryDirectory() as folder, torch.device("meta"):
        network, tokenizer = Qwen3ForCausalLM(Qwen3Config(**shape.config)), AutoTokenizer.from_pretrained(TOKENIZER)
        network.config.architectures = ["Qwen3ForCausalLM"]
        network.config.save_pretrained(folder)
        sampling = Sampling(max_new_tokens=shape.reply)
        keys = {"path": folder, "device": device, "sampling": sampling, "batch": shape.conversations}
        spec = ModelSpec.model_validate(keys)
        engine = Engine(python, spec, network, load_format="dummy")
        agent = VllmAgent(spec, tokenizer, network, engine)
        once = spec.model_copy(update={"sampling": Sampling(max_new_tokens=1)})
        short = VllmAgent(once, tokenizer, network, engine)
        agent.stop = short.stop = []
        theirs, decoded = _rates(agent, short, shape, device)
        for value in (theirs, theirs * shape.reply, decoded):
            add(f"{value:,.1f}")
        add(f"{theirs / loop:,.1f}x")
        add(f"{100 * decoded / limit:.0f} %")
        add(f"{sum(gpu_memory('used')) / GIB:.1f}")


def _rates(agent: Any, short: Any, shape: Shape, device: str) -> tuple[float, float]:
    """Return an agent's decisions per second, and the tokens per second that it decodes after each reply's first.

    Args:
        short: the agent with replies of one token.
    """
    _play(agent, shape, device, 1, 0)  # loads the kernels
    seconds, first = _play(agent, shape, device, shape.rounds, 1), _play(agent, shape, device, 1, 2)
    prefill = _play(short, shape, device, 1, 3)
    decoded = shape.conversations * (shape.reply - 1) / max(first - prefill, 1e-9)
    return shape.conversations * shape.rounds / seconds, decoded


def _text(number: int, tokens: int) -> str:
    """Return a text of about this many tokens that is different for every number."""
    words = "choose the road that your supervisor requires today or take the other one for more pay".split()
    return f"Case {number}. " + " ".join(words[(number + at) % len(words)] for at in range(tokens))


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _play(agent: Any, shape: Shape, device: str, rounds: int, run: int) -> float:
    """Return the seconds of `rounds` rounds of all conversations, with texts that no other run has in a cache."""
    from atp.agents.base import Request
    from atp.testbed import Observation, Prompt

    numbers = range(run * shape.conversations, (run + 1) * shape.conversations)
    conversations = [[_message("user", _text(number, shape.question))] for number in numbers]
    agent.start()
    start = _now(device)
    for round in range(1, rounds + 1):
        observation = Observation(answers={}, violating="", history=())
        requests = [
            Request(n, Prompt(0, round, messages, observation), 1000 * round + n)
            for n, messages in enumerate(conversations)
        ]
        for messages, reply in zip(conversations, agent.answer(requests), strict=True):
            messages += [_message("assistant", reply.text), _message("user", _text(round, shape.question))]
    return _now(device) - start


def _loop(model: Any, tokenizer: Any, shape: Shape, device: str) -> float:
    """Return the seconds of a few conversations by `generate`, one prompt at a time, without a cache between rounds."""
    start = _now(device)
    for number in range(shape.loops):
        messages = [_message("user", _text(number, shape.question))]
        for _ in range(shape.rounds):
            inputs = tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
            ).to(device)
            length = inputs["input_ids"].shape[1]
            output = model.generate(
                **inputs, do_sample=True, max_new_tokens=shape.reply, min_new_tokens=shape.reply, pad_token_id=0
            )
            reply = tokenizer.decode(output[0, length:], skip_special_tokens=True)
            messages += [_message("assistant", reply), _message("user", _text(number, shape.question))]
    return _now(device) - start


def _bandwidth(size: int, device: str) -> float:
    """Return the bytes per second that a copy of `size` bytes reads and writes."""
    import torch

    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    start = _now(device)
    for _ in range(10):
        target.copy_(source)
    return 20 * size / (_now(device) - start)


def train(method: str, shape: Shape, device: str) -> float:
    """Return the tokens of prompts and replies, without padding, that a training processes per second."""
    from peft import LoraConfig
    from transformers import AutoTokenizer

    from atp.models.spec import ModelSpec, Sampling
    from atp.training.dpo import DpoSettings, dpo_trainer
    from atp.training.grpo import GrpoSettings, Rewards, grpo_trainer
    from atp.training.sft import SftSettings, sft_trainer
    from atp.training.trainer import Loaded, fit

    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    spec = ModelSpec(path="random", device=device, sampling=Sampling(max_new_tokens=shape.reply))  # type: ignore[arg-type]
    loaded = Loaded(spec, build(shape, device), tokenizer, lora)
    sizes: dict[str, Any] = {"per_device_train_batch_size": shape.batch, "max_length": 4096}
    count, half = shape.steps * shape.batch, shape.sequence // 2

    def messages(first: int, *roles: str) -> list[dict[str, str]]:
        return [_message(role, _text(number, half)) for number, role in enumerate(roles, first)]

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "adapter"
        trainer: Any
        if method == "SFT":
            rows = [
                {"scenario_id": str(n), "tools": [], "messages": messages(n, "user", "assistant")} for n in range(count)
            ]
            trainer = sft_trainer(rows, loaded, out, SftSettings(**sizes), 0)
        elif method == "DPO":
            pairs = [
                {
                    "scenario_id": str(n),
                    "tools": [],
                    "prompt": messages(n, "user"),
                    "chosen": messages(n + 1, "assistant"),
                    "rejected": messages(n + 2, "assistant"),
                }
                for n in range(count)
            ]
            trainer = dpo_trainer(pairs, loaded, out, DpoSettings(**sizes), 0)
        else:
            settings = GrpoSettings(**sizes, num_generations=4)
            questions = [_question(messages(n, "user")) for n in range(count // 4)]
            trainer = grpo_trainer(questions, Rewards(lambda turn: turn.reward), loaded, out, settings, 0)
        trainer.args.save_strategy = "no"  # with so few steps every step would be saved
        start = _now(device)
        metrics = fit(trainer, tokenizer, out, method)
        return metrics["tokens"] / (_now(device) - start)


def _question(messages: list[dict[str, str]]) -> "Question":
    """Return a question with arbitrary rewards."""
    from atp.rollout.branching import Question
    from atp.testbed import Observation, Prompt, Reply, Turn

    def follow(replies: Sequence[Reply | str]) -> Turn:
        reply = replies[0] if isinstance(replies[0], Reply) else Reply(replies[0])
        return Turn(1, 0, "", messages, reply, "", "", None, False, len(reply.text) % 7 / 7, "")

    return Question("", Prompt(0, 1, messages, Observation({}, "", ())), follow)


def _now(device: str) -> float:
    """Return the time in seconds after the device has finished its work."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
