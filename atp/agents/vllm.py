"""Agent for a local model in vLLM, which runs in worker processes (`vllm_worker.py`).

Prompts have the same tokens as in the engine on transformers, and replies are read from tokens in the same way. The
weights are in processes of their own: their memory is free once the agent is gone, and vLLM may be in another Python
with other versions. A model that fits one GPU gets a worker for each of its GPUs.

A reply's random numbers depend on its seed alone. Logits depend, in their last digits, on what is computed together.
"""

import asyncio
import itertools
import json
import logging
import os
import signal
import subprocess
import tempfile
import weakref
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import numpy as np

from atp.agents import vllm_worker
from atp.agents.base import ConcurrentAgent, Request
from atp.agents.deciding import (
    MARK_TOKENS,
    DecisionPoint,
    Row,
    check_guided,
    ends_thought,
    guided_decision,
    normalise,
    stated_decision,
)
from atp.errors import AtpError
from atp.files.provenance import OTHER_VERSIONS
from atp.models.chat import Chat
from atp.models.engines import check_vllm, tensor_parallel_size
from atp.models.gpus import gpu_memory, visible_gpus
from atp.models.load import (
    PROBE,
    check_base,
    check_tokenizer,
    is_whole,
    load_skeleton,
    load_tokenizer,
    on_gpu,
    weights_of,
)
from atp.models.spec import ModelSpec
from atp.testbed import Prompt, Reply

log = logging.getLogger("atp")

#: Ranks of LoRA for which vLLM has kernels.
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
#: vLLM takes seeds below this.
SEED_MODULUS = 2**63
#: Proportion of a job's memory for keys and values on a CPU.
CPU_CACHE_SHARE = 0.25
#: Maximum length of a quoted message of vLLM, in characters.
MAX_QUOTE_CHARS = 300
#: Environment of a worker: no process of its own for the scheduler, no reports to vLLM's authors.
ENVIRONMENT = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1"}


def load_vllm(spec: ModelSpec, adapter: Path | None) -> "VllmAgent":
    """Load a model and a trained agent's weights into vLLM.

    Args:
        adapter: folder of a LoRA adapter, or of all weights, which replace the model's; None for the model itself.

    Raises:
        AtpError: no vLLM; a folder without weights, tokenizer or chat template; a model that does not fit the GPUs or
            that vLLM cannot play; an adapter that does not match or changes nothing.
    """
    python = check_vllm(spec)
    adapter = weights_of(adapter)
    if adapter is not None and is_whole(adapter):
        spec, adapter = spec.at(adapter), None
    tokenizer, network = load_tokenizer(spec), load_skeleton(spec)
    check_tokenizer(tokenizer, network, spec.path)
    rank = _rank(adapter, network.config.model_type) if adapter else 0
    agent = VllmAgent(spec, tokenizer, network, Engine(python, spec, network, adapter, rank))
    if adapter:
        agent.check_adapter(adapter)
    return agent


def _rank(adapter: Path, model_type: str) -> int:
    """Return the rank for which vLLM reserves memory, for a LoRA adapter. Raises AtpError for another adapter."""
    try:
        config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise AtpError(f"{adapter}: not an adapter folder: no readable adapter_config.json") from None
    check_base(adapter, str(config.get("base_model_name_or_path")), model_type)
    if config.get("peft_type") != "LORA":
        raise AtpError(f"{adapter}: vLLM plays LoRA adapters, not {config.get('peft_type')}; set engine: transformers")
    rank: int = max(config["r"], *config.get("rank_pattern", {}).values(), 1)
    if rank > RANKS[-1]:
        raise AtpError(f"{adapter}: vLLM plays LoRA adapters of rank up to {RANKS[-1]}, found {rank}")
    return next(larger for larger in RANKS if larger >= rank)


class Worker:
    """A process with a model in vLLM.

    Args:
        name: of the model, for error messages.
        arguments: the first line that `vllm_worker` reads.
        environment: variables on top of this process's.
    """

    def __init__(self, python: str, name: str, arguments: dict[str, Any], environment: dict[str, str]):
        self.name, self.log = name, tempfile.TemporaryFile()  # noqa: SIM115  closed with this object
        self.process = subprocess.Popen(
            # Without -P, the folder's other modules would hide packages of the same names.
            [python, "-P", vllm_worker.__file__],
            env=os.environ | ENVIRONMENT | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            start_new_session=True,
        )
        self.numbers, self.lock = itertools.count(), Lock()
        self.open: dict[int, Future[dict[str, Any]]] = {}
        self.error: AtpError | None = None
        self.ended = weakref.finalize(self, _end, self.process)
        self._send(arguments)

    def wait(self) -> dict[str, Any]:
        """Return what the worker says once the model is loaded, and begin to read answers."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        ready: dict[str, Any] = json.loads(line) if line else {"error": self._death()}
        if "error" in ready:
            raise AtpError(f"{self.name}: vLLM cannot play the model: {ready['error']:.{MAX_QUOTE_CHARS}}")
        Thread(target=_receive, args=(weakref.ref(self), self.process.stdout), daemon=True).start()
        return ready

    def request(self, **values: Any) -> "Future[dict[str, Any]]":
        """Send a request and return the future of its answer, which may be an AtpError."""
        future: Future[dict[str, Any]] = Future()
        future.set_running_or_notify_cancel()
        with self.lock:
            number = next(self.numbers)
            self.open[number] = future
            self._send({"id": number, **values})
        if self.error:
            self._fail()
        return future

    def receive(self, line: str) -> None:
        """Take a line of the worker's; an empty one is the end of its output."""
        if line:
            answer = json.loads(line)
            future = self.open.pop(answer["id"])
            if "error" in answer:
                future.set_exception(AtpError(f"{self.name}: vLLM: {answer['error']:.{MAX_QUOTE_CHARS}}"))
            else:
                future.set_result(answer)
            return
        self.error = AtpError(f"{self.name}: vLLM ended: {self._death()}; what is finished is kept, rerun to resume")
        self._fail()

    def _fail(self) -> None:
        with self.lock:
            while self.open:
                self.open.popitem()[1].set_exception(self.error)

    def _send(self, value: Any) -> None:
        assert self.process.stdin
        with suppress(OSError):  # it has ended, and whoever reads its output reports why
            self.process.stdin.write(json.dumps(value) + "\n")
            self.process.stdin.flush()

    def _death(self) -> str:
        """Return the exit code of the process and the end of its log, whose whole text goes to the job's log."""
        code = self.process.wait()
        self.log.seek(0)
        text = self.log.read().decode(errors="replace")
        log.debug("%s: log of vLLM:\n%s", self.name, text)
        last = next((line for line in reversed(text.splitlines()) if line.strip()), "no message")
        return f"exit code {code}, its log ends with: {last.strip():.{MAX_QUOTE_CHARS}}"


def _end(process: "subprocess.Popen[str]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # its own children too, which have the other GPUs of a split model
    process.wait()


def _receive(worker: "weakref.ref[Worker]", lines: Any) -> None:
    """Pass a worker's lines on, without keeping the worker alive."""
    while True:
        line = lines.readline()
        if (target := worker()) is not None:
            target.receive(line)
        if not line or target is None:
            return
        del target


class Engine:
    """The workers of a model: one, or one for each GPU or group of GPUs that holds a whole copy.

    Args:
        network: the model without values of its weights.
        rank: up to which an adapter may go.
        fields: further fields of vLLM's `EngineArgs`.

    Raises:
        AtpError: a model that does not fit the GPUs, or that vLLM cannot play.
    """

    def __init__(
        self, python: str, spec: ModelSpec, network: Any, adapter: Path | None = None, rank: int = 0, **fields: Any
    ):
        gpu, config = on_gpu(spec), network.config.get_text_config()
        memory = gpu_memory()[: max(1, spec.gpus)] if gpu else []
        dtype = ("bfloat16" if gpu else "float32") if spec.dtype == "auto" else spec.dtype
        weights = sum(weight.numel() for weight in network.parameters()) * (4 if dtype == "float32" else 2)
        heads = getattr(config, "num_attention_heads", 1)
        size = tensor_parallel_size(spec.path, weights, heads, memory) if memory else 1
        count = max(1, len(memory) // size)
        arguments = {
            "model": str(Path(spec.path).absolute()) if Path(spec.path).is_dir() else spec.path,
            "revision": spec.revision,
            "trust_remote_code": spec.trust_remote_code,
            "skip_tokenizer_init": True,
            "generation_config": "vllm",
            "dtype": dtype,
            "max_model_len": -1,  # as long as the model and the memory allow
            "max_num_seqs": -(-spec.batch // count),
            "tensor_parallel_size": size,
            "enable_prefix_caching": True,
            "disable_log_stats": True,
        }
        if adapter:
            arguments |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": rank}
        if not gpu:
            # On CPUs, vLLM cannot compute a prompt with a seed in parts.
            longest = getattr(config, "max_position_embeddings", 4096)
            arguments |= {"enforce_eager": True, "enable_chunked_prefill": False, "max_num_batched_tokens": longest}
            arguments |= {"kv_cache_memory_bytes": int(CPU_CACHE_SHARE * spec.mem_mb * 2**20)}
        first = {"engine": arguments | fields, "adapter": str(adapter.absolute()) if adapter else None}
        visible = visible_gpus() if gpu else [""]
        groups = [",".join(visible[number * size : (number + 1) * size]) for number in range(count)]
        self.workers = [Worker(python, spec.path, first, {"CUDA_VISIBLE_DEVICES": group}) for group in groups]
        first_lines = [worker.wait() for worker in self.workers]
        self.max_tokens: int = min(line["max_tokens"] for line in first_lines)
        OTHER_VERSIONS["vllm"] = first_lines[0]["version"]


class VllmAgent(ConcurrentAgent):
    """Answers requests with a model in vLLM, with up to `batch` of them in flight."""

    def __init__(self, spec: ModelSpec, tokenizer: Any, network: Any, engine: Engine):
        self.spec, self.tokenizer, self.engine, self.batch = spec, tokenizer, engine, spec.batch
        self.chat = Chat(tokenizer, spec)
        self.stop = sorted(self.chat.stop_tokens(network.generation_config))

    async def reply(self, request: Request) -> Reply:
        """Return the reply to a request.

        Raises:
            AtpError: the prompt is too long, or vLLM ended.
        """
        text, sampling = self.prompt_text(request.prompt), self.spec.sampling
        prompt = self._tokens(text)
        if len(prompt) + sampling.max_new_tokens > self.engine.max_tokens:
            raise AtpError(
                f"{self.spec.path}: a prompt of {len(prompt)} tokens and a reply of up to {sampling.max_new_tokens} "
                f"exceed the {self.engine.max_tokens} for which vLLM has memory; lower sampling.max_new_tokens or the "
                "number of rounds"
            )
        uniforms = np.random.Generator(np.random.PCG64(request.seed)).random(1)
        row = Row(request.conversation, request, prompt, 0, uniforms)
        if self.spec.answers == "guided":
            check_guided(self.spec, [request])
            await self._think(row)
            decision: DecisionPoint | None = guided_decision(self, row)
        else:
            await self._write(row, sampling.max_new_tokens)
            decision = stated_decision(self, row)
        if decision:
            decision.settle(await self._probabilities(decision))
        return row.reply(self.chat.read(text, row.written, row.finish == "stop"))

    async def _write(self, row: Row, limit: int) -> None:
        """Sample a row's reply, of at most so many tokens."""
        sampling = self.spec.sampling
        params = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "max_tokens": limit,
            "stop_token_ids": self.stop,
            "seed": row.request.seed % SEED_MODULUS,
        }
        answer = await self._ask(row.number, row.prompt, params)
        row.written, row.cached, row.finish = answer["tokens"], answer["cached"], answer["finish"]

    async def _think(self, row: Row) -> None:
        """Sample a row's thought, if it has one: the beginning of the reply shows whether it does."""
        longest = self.spec.sampling.max_new_tokens
        for limit in dict.fromkeys((min(MARK_TOKENS + 1, longest), longest)):
            await self._write(row, limit)
            reply, row.written = row.written, []
            for token in reply:
                row.written.append(token)
                if ends_thought(self, row):
                    row.finish = "thought"
                    return

    async def _probabilities(self, decision: DecisionPoint) -> dict[str, float]:
        """Return the probability of each decision, with one token for each place where answers part."""

        async def shares(path: tuple[int, ...], tokens: list[int]) -> list[float]:
            params = {"temperature": 0, "max_tokens": 1, "logprob_token_ids": tokens}
            answer = await self._ask(decision.row.number, [*decision.context, *path], params)
            return normalise([answer["next"][str(token)] for token in tokens], self.spec.sampling.temperature)

        points = decision.points.items()
        return decision.combine(await asyncio.gather(*(shares(path, [*branches]) for path, branches in points)))

    async def log_probabilities(self, prompt: Sequence[int], reply: Sequence[int], adapted: bool = True) -> list[float]:
        """Return the log-probability of each token of a reply to a prompt, at temperature 1."""
        params = {"temperature": 0, "max_tokens": 1, "prompt_logprobs": 0}
        answer = await self._ask(0, [*prompt, *reply], params, adapted)
        values: list[float] = answer["log_probabilities"][len(prompt) :]
        return values

    def check_adapter(self, adapter: Path) -> None:
        """Raise AtpError if the adapter changes no log-probability of a short text."""

        async def scores(adapted: bool) -> list[float]:
            return await self.log_probabilities(tokens[:1], tokens[1:], adapted)

        tokens = self._tokens(PROBE)
        if asyncio.run(scores(True)) == asyncio.run(scores(False)):
            raise AtpError(f"{adapter}: this adapter changes nothing: its outputs are the base model's")

    def prompt_text(self, prompt: Prompt) -> str:
        """Return the text that the model reads for a prompt."""
        return self.chat.prompt(prompt.messages, prompt.tools)

    def _tokens(self, text: str) -> list[int]:
        tokens: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return tokens

    async def _ask(
        self, conversation: int, prompt: list[int], params: dict[str, Any], adapted: bool = True
    ) -> dict[str, Any]:
        """Return the answer of the worker that has a conversation's earlier rounds in its cache."""
        worker = self.engine.workers[conversation % len(self.engine.workers)]
        return await asyncio.wrap_future(worker.request(prompt=prompt, sampling=params, adapted=adapted))
