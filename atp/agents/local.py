"""A local model as an agent: batched, its key/value cache kept from round to round, each turn's randomness its own.

Knows prompts and tokens, not games. What is promised: on the same machine, with the same number of threads and the same
batch, the same bytes. A turn's random numbers depend on its seed alone, so that in another batch only floating-point
rounding differs, and a decision changes only where rounding moves a probability across the number drawn.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.utils import enable_progress_bars
from jinja2 import TemplateError
from transformers import AutoModelForCausalLM, AutoTokenizer, TopKLogitsWarper, TopPLogitsWarper
from transformers.utils import is_flash_attn_2_available
from transformers.utils.logging import disable_progress_bar

from atp.agents.base import Request
from atp.agents.kv import ConversationCache
from atp.agents.spec import NO_TEMPLATE, ModelSpec, Sampling, check_folder
from atp.agents.template import rendered
from atp.artifacts import LINEAGE
from atp.errors import AtpError
from atp.testbeds.base import Prompt, Reply

log = logging.getLogger("atp")

# Bars are for downloads, which take minutes, not for weights that are read.
disable_progress_bar()
enable_progress_bars()

PROBE = "Which option do you choose?"
SLOTS = 512
#: Prompts are computed this many rows at a time, rows of like length together, so that little of it is padding.
PREFILL = 16


def load_local(spec: ModelSpec, adapter: Path | None) -> "LocalAgent":
    """Load a model and, on top, an adapter; a folder that holds all weights takes the model's place.

    Raises:
        AtpError: a folder without weights, tokenizer or chat template; an adapter that is none or changes nothing; a
            GPU asked for and absent.
    """
    adapter = weights_of(adapter)
    if adapter is not None and is_whole(adapter):
        spec, adapter = spec.model_copy(update={"path": str(adapter)}), None
    gpu = on_gpu(spec)
    tokenizer = load_tokenizer(spec)
    model = load_model(spec)
    model = model.to("cuda") if gpu else model
    if adapter is not None:
        model = _adapted(model, adapter, tokenizer)
    return LocalAgent(model.eval(), tokenizer, spec)


def weights_of(folder: Path | None) -> Path | None:
    """A trained agent's folder, or None where it holds no weights: it had nothing to learn and is the model itself."""
    if folder is None or any((folder / file).exists() for file in ("config.json", "adapter_config.json")):
        return folder
    return None if (folder / LINEAGE).is_file() else folder


def is_whole(folder: Path) -> bool:
    """Whether a trained folder holds all weights, and not an adapter."""
    return (folder / "config.json").is_file()


def on_gpu(spec: ModelSpec) -> bool:
    """Whether the model runs on a GPU here. Raises AtpError if it must and there is none, or too few."""
    found = 0 if spec.device == "cpu" else torch.cuda.device_count()
    if spec.device == "cuda" and found < max(1, spec.gpus):
        raise AtpError(
            f"{spec.path}: device is 'cuda' with gpus: {spec.gpus}, this machine has {found}; 'auto' and 'cpu' run here"
        )
    return found > 0


def attention(spec: ModelSpec) -> str:
    """The attention implementation for training: FlashAttention where it is installed, else PyTorch's own.

    The engine's own masks have holes, which FlashAttention does not take, so play always has PyTorch's.
    """
    return "flash_attention_2" if on_gpu(spec) and is_flash_attn_2_available() else "sdpa"


def load_tokenizer(spec: ModelSpec) -> Any:
    """The model's tokenizer; it must have a chat template that can be used."""
    _check_source(spec)
    try:
        tokenizer = AutoTokenizer.from_pretrained(spec.path, **_source(spec))
    except (OSError, ValueError, KeyError) as error:
        raise AtpError(f"{spec.path}: no readable tokenizer: {_first_line(error)}") from error
    if not tokenizer.chat_template:
        raise AtpError(f"{spec.path}: {NO_TEMPLATE}")
    try:
        tokenizer.apply_chat_template([{"role": "user", "content": PROBE}], tokenize=False, **spec.chat_template)
    except (TemplateError, TypeError, ValueError) as error:
        raise AtpError(f"{spec.path}: its chat template fails: {_first_line(error)}") from error
    return tokenizer


def load_model(spec: ModelSpec, attention: str = "sdpa") -> Any:
    """The model, in memory: float32 for CPU, bfloat16 for GPU, unless spec.dtype says otherwise."""
    _check_source(spec)
    gpu = on_gpu(spec)
    dtype = (torch.bfloat16 if gpu else torch.float32) if spec.dtype == "auto" else getattr(torch, spec.dtype)
    how: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "attn_implementation": attention}
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(spec.path, output_loading_info=True, **how, **_source(spec))
    except RuntimeError as error:
        raise AtpError(f"{spec.path}: its weights do not fit its config.json: {_first_line(error)}") from error
    except (OSError, ValueError, KeyError) as error:
        raise AtpError(f"{spec.path}: no readable model: {_first_line(error)}") from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        raise AtpError(f"{spec.path}: no readable safetensors weights: {_first_line(error)}") from error
    model, loading = loaded
    if missing := sorted(loading["missing_keys"]):
        raise AtpError(f"{spec.path}: {len(missing)} weights are missing, '{missing[0]}' among them")
    if spec.gpus and not gpu:
        log.warning("%s: its file asks for gpus: %d and none is here, it runs on the CPU", spec.path, spec.gpus)
    if not gpu:  # masked attention without copies of the shared heads; on a GPU it would lose the fast kernel
        os.environ.setdefault("TRANSFORMERS_SDPA_FORCE_GQA", "1")
    return model


def _source(spec: ModelSpec) -> dict[str, Any]:
    return {
        "revision": spec.revision,
        "trust_remote_code": spec.trust_remote_code,
        "local_files_only": Path(spec.path).is_dir(),
    }


def _check_source(spec: ModelSpec) -> None:
    """Raises AtpError for a folder that holds no model, and for a hub that has none of this name or is out of reach."""
    check_folder(spec, Path())
    if Path(spec.path).is_dir() or isinstance(
        try_to_load_from_cache(spec.path, "config.json", revision=spec.revision), str
    ):
        return
    try:
        HfApi().model_info(spec.path, revision=spec.revision, timeout=30)
    except Exception as error:
        raise AtpError(
            f"{spec.path}: not among this machine's downloads, and not to be had from the hub: {_first_line(error)}; "
            "'path' in config/models may name a folder instead"
        ) from error


def with_adapter(model: Any, folder: Path, trainable: bool = False) -> Any:
    """The model with a LoRA adapter beside its weights. Raises AtpError if the folder holds none for this model."""
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / file).is_file():
            raise AtpError(f"{folder}: not an adapter folder: no {file}")
    from peft import PeftModel  # seconds that a model without adapter need not pay

    try:
        return PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
    except Exception as error:
        raise AtpError(f"{folder}: no adapter for this model: {_first_line(error)}") from error


def add_adapter(network: Any, folder: Path, name: str) -> None:
    """Another adapter beside those of a network, not trained and not at work. Raises AtpError as `with_adapter`."""
    try:
        network.load_adapter(str(folder), name)
    except Exception as error:
        raise AtpError(f"{folder}: no adapter for this model: {_first_line(error)}") from error


def _adapted(model: Any, folder: Path, tokenizer: Any) -> Any:
    """The model with an adapter: merged in float32; beside the weights in bfloat16, which would round it away."""
    probe = tokenizer(PROBE, return_tensors="pt").input_ids.to(model.device)
    with torch.inference_mode():
        before = model(probe).logits
    adapted = with_adapter(model, folder)
    updates = [weight for name, weight in adapted.named_parameters() if "lora_B" in name]
    with torch.inference_mode():
        same = torch.equal(adapted(probe).logits, before)
    if same or not any(weight.any() for weight in updates):
        raise AtpError(f"{folder}: this adapter changes nothing: its outputs are the base model's")
    return adapted.merge_and_unload() if model.dtype == torch.float32 else adapted


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


@dataclass
class _Row:
    """One request on its way: what its prompt holds, what is written so far."""

    number: int
    request: Request
    prompt: list[int]
    cached: int
    uniforms: np.ndarray
    written: list[int] = field(default_factory=list)
    finish: str = ""


class LocalAgent:
    """Answers batches of requests with a causal language model of transformers."""

    def __init__(self, model: Any, tokenizer: Any, spec: ModelSpec):
        self.model, self.tokenizer, self.spec, self.batch = model, tokenizer, spec, spec.batch
        eos = model.generation_config.eos_token_id
        self.stop = {tokenizer.eos_token_id, *(eos if isinstance(eos, list) else [eos])} - {None}
        self.warpers = _warpers(spec.sampling)
        self.specials, self.special_ids = tokenizer.all_special_tokens, set(tokenizer.all_special_ids)
        self.start()

    def start(self) -> None:
        """Forget every conversation."""
        self.cache: ConversationCache | None = None
        self.held: list[list[int]] = []
        self.numbers: dict[int, int] = {}
        self.split: dict[int, tuple[str, list[int]]] = {}

    @torch.inference_mode()
    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        if any(request.conversation not in self.numbers for request in requests):
            self.start()
        prompts = self._tokens(requests)
        rows, logits = (self._open if self.cache is None else self._go_on)(requests, prompts)
        self._write(rows, logits)
        for row in rows:
            self.held[row.number] = row.prompt + row.written[:-1]  # the last token was drawn, not computed
        return [self._reply(row) for row in rows]

    def prompt_text(self, prompt: Prompt) -> str:
        """A prompt as the model reads it."""
        return rendered(self.tokenizer, self.spec, prompt.messages, prompt.tools)

    @torch.inference_mode()
    def hidden(self, prompt: str, reply: str) -> torch.Tensor:
        """Last hidden states where each token of a reply, and then its end, is predicted: [tokens + 1, width]."""
        asked, said = self.tokenizer([prompt, reply], add_special_tokens=False).input_ids
        tokens = torch.tensor([asked + said], device=self.model.device)
        states: torch.Tensor = self._bare().get_decoder()(input_ids=tokens, use_cache=False).last_hidden_state
        return states[0, len(asked) - 1 :]

    @property
    def output_layer(self) -> Any:
        """From last hidden states to the scores of the next token."""
        return self._bare().get_output_embeddings()

    def _bare(self) -> Any:
        """The network itself, an adapter beside its weights still at work."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    def _tokens(self, requests: Sequence[Request]) -> list[list[int]]:
        """Prompts in tokens; of a conversation that grew, only what follows its last prompt's last special token is
        split anew, for at such a token every tokenizer starts afresh.
        """
        texts = [self.prompt_text(request.prompt) for request in requests]
        starts = []
        for request, text in zip(requests, texts, strict=True):
            known, tokens = self.split.get(request.conversation, ("", []))
            starts.append((known, tokens) if known and text.startswith(known) else ("", []))
        rests = [text[len(known) :] for text, (known, _) in zip(texts, starts, strict=True)]
        new = self.tokenizer(rests, add_special_tokens=False).input_ids
        prompts = [tokens + rest for (_, tokens), rest in zip(starts, new, strict=True)]
        for request, text, prompt in zip(requests, texts, prompts, strict=True):
            end = max((text.rfind(special) for special in self.specials), default=-1)
            place = next((at for at in range(len(prompt) - 1, -1, -1) if prompt[at] in self.special_ids), -1)
            if end > 0 and place > 0:
                self.split[request.conversation] = (text[:end], prompt[:place])
        return prompts

    def _open(self, requests: Sequence[Request], prompts: list[list[int]]) -> tuple[list[_Row], torch.Tensor]:
        """First prompts: equal ones are computed once, their keys and values copied. Rows are ordered by length."""
        unique = sorted({tuple(prompt) for prompt in prompts}, key=len)
        places = {prompt: place for place, prompt in enumerate(unique)}
        index = [places[tuple(prompt)] for prompt in prompts]
        order = sorted(range(len(prompts)), key=lambda request: index[request])
        longest = max(map(len, prompts))
        capacity = longest + self.spec.sampling.max_new_tokens + SLOTS
        device, dtype = self.model.device, self.model.dtype
        layers = self.model.config.num_hidden_layers
        self.cache = ConversationCache(layers, len(unique), capacity, device, dtype)
        logits = self._forward([list(prompt) for prompt in unique], [0] * len(unique))
        copies = torch.tensor([index[request] for request in order], device=device)
        self.cache.expand(copies)
        self.held = [[] for _ in prompts]
        self.numbers = {requests[request].conversation: number for number, request in enumerate(order)}
        rows, seen = [], set[int]()
        for request, prompt, place in zip(requests, prompts, index, strict=True):
            cached = len(prompt) if place in seen else 0
            rows.append(self._row(self.numbers[request.conversation], request, prompt, cached))
            seen.add(place)
        return rows, logits[copies][[row.number for row in rows]]

    def _go_on(self, requests: Sequence[Request], prompts: list[list[int]]) -> tuple[list[_Row], torch.Tensor]:
        """Later prompts: what a row holds of its conversation stays, the rest is computed."""
        assert self.cache is not None
        keep = [len(held) for held in self.held]
        new: list[list[int]] = [[] for _ in self.held]
        rows = []
        for request, prompt in zip(requests, prompts, strict=True):
            number = self.numbers[request.conversation]
            # The last token is computed anyway: its logits are what the reply begins with.
            keep[number] = min(_common(self.held[number], prompt), len(prompt) - 1)
            new[number] = prompt[keep[number] :]
            rows.append(self._row(number, request, prompt, keep[number]))
        self.held = [held[:length] for held, length in zip(self.held, keep, strict=True)]
        self.cache.crop(torch.tensor(keep, device=self.model.device))
        logits = self._forward(new, keep)
        return rows, logits[[row.number for row in rows]]

    def _row(self, number: int, request: Request, prompt: list[int], cached: int) -> _Row:
        uniforms = np.random.Generator(np.random.PCG64(request.seed)).random(self.spec.sampling.max_new_tokens)
        return _Row(number, request, prompt, cached, uniforms)

    def _forward(self, tokens: list[list[int]], positions: list[int]) -> torch.Tensor:
        """Compute new tokens of each row from its next position on; logits of the last ones, [rows, vocabulary]."""
        assert self.cache is not None
        device = self.model.device
        lengths = torch.tensor([len(row) for row in tokens], device=device)
        self.cache.reserve(lengths)
        parts = []
        for start in range(0, len(tokens), PREFILL):
            view = slice(start, start + PREFILL)
            width = max(1, max(map(len, tokens[view])))
            padded = torch.tensor([[0] * (width - len(row)) + row for row in tokens[view]], device=device)
            first = torch.tensor(positions[view], device=device) - (width - lengths[view])
            places = (first[:, None] + torch.arange(width, device=device)).clamp(min=0)
            parts.append(self._step(padded, places, self.cache.mask(view, width)))
        return torch.cat(parts)

    def _step(self, tokens: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        output = self.model(
            input_ids=tokens,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1]

    def _write(self, rows: list[_Row], logits: torch.Tensor) -> None:
        """Draw tokens until every row has stopped; a stopped row leaves holes. Once at least half of the rows that a
        step computes have nothing to write, the others go on alone.
        """
        assert self.cache is not None
        device, limit, width = self.model.device, self.spec.sampling.max_new_tokens, self.cache.rows
        uniforms = torch.from_numpy(np.stack([row.uniforms for row in rows])).to(device)
        writing = list(range(len(rows)))
        for step in range(limit):
            drawn = self._draw(logits, uniforms[writing, step]).tolist()
            for row, token in zip([rows[place] for place in writing], drawn, strict=True):
                row.written.append(token)
                if token in self.stop:
                    row.finish = "stop"
                elif len(row.written) == limit:
                    row.finish = "length"
            writing = [place for place in writing if not rows[place].finish]
            if not writing:
                return
            open_rows = [rows[place] for place in writing]
            if 2 * len(writing) <= width:
                self._to_front(open_rows, rows, width)
                width = len(writing)
            lengths, tokens, positions = ([0] * self.cache.rows for _ in range(3))
            for row in open_rows:
                lengths[row.number], tokens[row.number] = 1, row.written[-1]
                positions[row.number] = len(row.prompt) + len(row.written) - 1
            written, new, places = torch.tensor([lengths, tokens, positions], device=device)
            self.cache.reserve(written)
            mask = self.cache.mask(slice(width), 1)
            scores = self._step(new[:width, None], places[:width, None], mask)
            logits = scores[[row.number for row in open_rows]]

    def _to_front(self, first: list[_Row], rows: list[_Row], width: int) -> None:
        """Move conversations to the first rows of the cache, of its first `width`."""
        assert self.cache is not None
        numbers = [row.number for row in first]
        order = numbers + sorted(set(range(width)) - set(numbers))
        self.cache.reorder(torch.tensor(order, device=self.model.device))
        now = {old: new for new, old in enumerate(order)}
        self.held[:width] = [self.held[old] for old in order]
        self.numbers = {name: now.get(old, old) for name, old in self.numbers.items()}
        for row in rows:
            row.number = now.get(row.number, row.number)

    def _draw(self, logits: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
        """One token a row, by the inverse of the cumulative distribution at the row's uniform number."""
        if self.spec.sampling.temperature == 0:
            return logits.argmax(dim=-1)
        scores = logits.float() / self.spec.sampling.temperature
        for warp in self.warpers:
            scores = warp(None, scores)
        total = scores.softmax(dim=-1).cumsum(dim=-1, dtype=torch.float64)
        drawn = torch.searchsorted(total, (uniforms * total[:, -1])[:, None], right=True)
        return drawn[:, 0].clamp(max=total.shape[1] - 1)

    def _reply(self, row: _Row) -> Reply:
        text = self.tokenizer.decode(row.written, skip_special_tokens=True)
        return Reply(
            text=text.strip(),
            prompt_tokens=len(row.prompt),
            cached_tokens=row.cached,
            completion_tokens=len(row.written),
            finish_reason="length" if row.finish == "length" else "stop",
            tokens=tuple(row.written),
        )


def _warpers(sampling: Sampling) -> list[Any]:
    warpers: list[Any] = []
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    return warpers


def _common(held: list[int], prompt: list[int]) -> int:
    """Length of the longest common prefix."""
    for place, (one, other) in enumerate(zip(held, prompt, strict=False)):
        if one != other:
            return place
    return min(len(held), len(prompt))
