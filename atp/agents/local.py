"""Agent for a local model: batched, with a key/value cache that is kept between rounds, and a seed for each reply.

On the same machine, with the same number of threads and the same batch, replies are bitwise reproducible. The random
numbers of a reply depend only on its seed. In another batch only floating-point rounding differs: a reply changes only
if rounding moves a cumulative probability across the random number.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.utils import enable_progress_bars
from transformers import TopKLogitsWarper, TopPLogitsWarper
from transformers.utils.logging import disable_progress_bar

from atp.agents.architecture import OutputLayer, check_architecture, masked_attention, max_positions
from atp.agents.base import Agent, Request
from atp.agents.deciding import Row, check_guided, decide, ends_thought, note_forks
from atp.agents.kv import ConversationCache
from atp.errors import AtpError
from atp.models.chat import Chat
from atp.models.load import (
    MAX_DEVIATION,
    PROBE,
    adapt,
    check_tokenizer,
    deviation,
    first_line,
    is_whole,
    load_model,
    load_tokenizer,
    on_gpu,
    weights_of,
)
from atp.models.spec import ModelSpec, Sampling
from atp.testbed import Prompt, Reply

log = logging.getLogger("atp")

# Progress bars are useful for downloads, which take minutes, but not for reading weights.
disable_progress_bar()
enable_progress_bars()

#: Slots of a new cache beyond the longest prompt and reply.
EXTRA_SLOTS = 512
#: Rows of a prefill step. Rows are sorted by length, so that a step has little padding.
PREFILL_ROWS = 8
#: Logits that are in memory at once where hidden states are computed.
MAX_LOGITS = 2**27


def load_local(spec: ModelSpec, adapter: Path | None) -> "LocalAgent":
    """Load a model and a trained agent's weights.

    Args:
        adapter: folder of an adapter, or of all weights, which replace the model's; None for the model itself.

    Raises:
        AtpError: a folder without weights, tokenizer or chat template; a model that the engine cannot play; an adapter
            that does not match or changes nothing; or too few GPUs.
    """
    adapter = weights_of(adapter)
    if adapter is not None and is_whole(adapter):
        spec, adapter = spec.at(adapter), None
    gpu = on_gpu(spec)
    tokenizer = load_tokenizer(spec)
    model = load_model(spec)
    check_tokenizer(tokenizer, model, spec.path)
    model = (model.to("cuda") if gpu else model).eval()
    if adapter is not None:
        model = adapt(model, adapter, tokenizer)
    agent = LocalAgent(model, tokenizer, spec)
    agent.check()
    return agent


class LocalAgent(Agent):
    """Answers batches of requests with a causal language model of transformers."""

    def __init__(self, model: Any, tokenizer: Any, spec: ModelSpec):
        self.model, self.tokenizer, self.spec, self.batch = model, tokenizer, spec, spec.batch
        self.chat = Chat(tokenizer, spec)
        specials = [
            (token.content, number) for number, token in tokenizer.added_tokens_decoder.items() if token.special
        ]
        self.specials = {content: number for content, number in specials if content}
        self.stop = self.chat.stop_tokens(model.generation_config)
        self.warpers, self.guided = _warpers(spec.sampling), spec.answers == "guided"
        self.max_positions = max_positions(self._network())
        self.start()

    def start(self) -> None:
        """Begin a batch of episodes and forget every earlier conversation."""
        self.cache: ConversationCache | None = None
        self.cached_tokens: list[list[int]] = []  # of each row
        self.row_numbers: dict[int, int] = {}  # conversation -> row
        self.tokenized: dict[int, tuple[str, list[int]]] = {}  # conversation -> start of its prompt, as text and tokens

    @torch.inference_mode()
    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        """Return one reply to each request, in their order."""
        if self.guided:
            check_guided(self.spec, requests)
        if any(request.conversation not in self.row_numbers for request in requests):
            self.start()
        texts = [self.prompt_text(request.prompt) for request in requests]
        prompts = self._tokens(requests, texts)
        longest, limit = max(map(len, prompts)), self.spec.sampling.max_new_tokens
        if longest + limit > self.max_positions:
            raise AtpError(
                f"{self.spec.path}: a prompt of {longest} tokens and a reply of up to {limit} exceed the model's "
                f"{self.max_positions} positions; lower sampling.max_new_tokens or the number of rounds"
            )
        with masked_attention(self._network()):
            rows, logits = (self._prefill if self.cache is None else self._extend)(requests, prompts)
            self._write(rows, logits)
            decide(self, rows)
        return [
            row.reply(self.chat.read(text, row.written, row.finish == "stop"))
            for row, text in zip(rows, texts, strict=True)
        ]

    @torch.inference_mode()
    def check(self) -> None:
        """Check that the engine can play the model: that its cache does not change the model's logits.

        Two steps with holes, and with tokens that are taken back, are compared with the model's own forward pass.

        Raises:
            AtpError: the engine cannot play the model.
        """
        tokens: list[int] = self.tokenizer(PROBE, add_special_tokens=False).input_ids
        other, device = tokens[::-1], self.model.device
        self.cache = ConversationCache(2, EXTRA_SLOTS, device)
        try:
            check_architecture(self._network())
            self._forward([tokens + tokens, other], [0, 0])
            self.cache.crop(torch.tensor([len(tokens), 1], device=device))
            logits = self._forward([other, tokens + other], [len(tokens), 1])
            conversations = [tokens + other, other[:1] + tokens + other]
            own = [self.model(input_ids=torch.tensor([row], device=device), use_cache=False) for row in conversations]
            difference = deviation(logits, torch.stack([output.logits[0, -1] for output in own]))
            if not difference < MAX_DEVIATION[self.model.dtype]:
                raise ValueError(f"with a cache, its logits differ by {difference:.2g} standard deviations")
        except Exception as error:
            raise AtpError(
                f"{self.spec.path}: the engine cannot play a model of type '{self.model.config.model_type}' "
                f"({first_line(error)}); run a server for it and use kind: inspect"
            ) from error
        finally:
            self.start()

    def prompt_text(self, prompt: Prompt) -> str:
        """Return the text that the model reads for a prompt."""
        return self.chat.prompt(prompt.messages, prompt.tools)

    @torch.inference_mode()
    def hidden(self, conversations: Sequence[tuple[list[int], list[int]]]) -> list[torch.Tensor]:
        """Return the inputs of the output layer from which a reply's tokens are predicted, [tokens, width] in memory.

        Args:
            conversations: tokens of a prompt, tokens of the reply to it.
        """
        inputs: list[torch.Tensor] = []
        head = self._network().get_output_embeddings()
        longest = max((len(reply) for _, reply in conversations), default=1)
        rows = max(1, min(PREFILL_ROWS, MAX_LOGITS // (longest * head.weight.shape[0])))
        hook = head.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0].cpu()))
        states = []
        try:
            for begin in range(0, len(conversations), rows):
                batch = conversations[begin : begin + rows]
                width = max(len(prompt + reply) for prompt, reply in batch)
                start = min(len(prompt) for prompt, _ in batch) - 1
                # Padding is behind all tokens, so causal attention does not see it.
                padded = [prompt + reply + [0] * (width - len(prompt + reply)) for prompt, reply in batch]
                tokens = torch.tensor(padded, device=self.model.device)
                self.model(input_ids=tokens, use_cache=False, logits_to_keep=width - start)
                for row, (prompt, reply) in zip(inputs.pop(), batch, strict=True):
                    first = len(prompt) - 1 - start
                    states.append(row[first : first + len(reply)].clone())
        finally:
            hook.remove()
        return states

    @property
    def output_layer(self) -> OutputLayer:
        """The function from last hidden states to the logits of the next token."""
        return OutputLayer(self._network())

    def _network(self) -> Any:
        """Return the network without PEFT's wrapper; an adapter remains active."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    def _tokens(self, requests: Sequence[Request], texts: Sequence[str]) -> list[list[int]]:
        """Return the prompts' tokens.

        Of a conversation that continues, only the text from its last prompt's last special token on is tokenized:
        tokenizers split a text at special tokens first, so the tokens before it cannot change.
        """
        starts = []
        for request, text in zip(requests, texts, strict=True):
            known, tokens = self.tokenized.get(request.conversation, ("", []))
            starts.append((known, tokens) if known and text.startswith(known) else ("", []))
        rests = [text[len(known) :] for text, (known, _) in zip(texts, starts, strict=True)]
        new = self.tokenizer(rests, add_special_tokens=False).input_ids
        prompts = [tokens + rest for (_, tokens), rest in zip(starts, new, strict=True)]
        for request, text, prompt in zip(requests, texts, prompts, strict=True):
            end, special = max(((text.rfind(special), special) for special in self.specials), default=(-1, ""))
            number = self.specials.get(special)
            place = next((at for at in range(len(prompt) - 1, -1, -1) if prompt[at] == number), -1)
            if end > 0 and place > 0:
                self.tokenized[request.conversation] = (text[:end], prompt[:place])
        return prompts

    def _prefill(self, requests: Sequence[Request], prompts: list[list[int]]) -> tuple[list[Row], torch.Tensor]:
        """Compute first prompts into a new cache, equal ones once, sorted by length. Return rows and logits."""
        unique = sorted({tuple(prompt) for prompt in prompts}, key=len)
        places = {prompt: place for place, prompt in enumerate(unique)}
        index = [places[tuple(prompt)] for prompt in prompts]
        order = sorted(range(len(prompts)), key=lambda request: index[request])
        longest = max(map(len, prompts))
        capacity = longest + self.spec.sampling.max_new_tokens + EXTRA_SLOTS
        device = self.model.device
        self.cache = ConversationCache(len(unique), capacity, device)
        logits = self._forward([list(prompt) for prompt in unique], [0] * len(unique))
        copies = torch.tensor([index[request] for request in order], device=device)
        self.cache.expand(copies)
        self.cached_tokens = [[] for _ in prompts]
        self.row_numbers = {requests[request].conversation: number for number, request in enumerate(order)}
        rows, seen = [], set[int]()
        for request, prompt, place in zip(requests, prompts, index, strict=True):
            cached = len(prompt) if place in seen else 0
            rows.append(self._row(self.row_numbers[request.conversation], request, prompt, cached))
            seen.add(place)
        return rows, logits[copies][[row.number for row in rows]]

    def _extend(self, requests: Sequence[Request], prompts: list[list[int]]) -> tuple[list[Row], torch.Tensor]:
        """Compute the tokens of later prompts that are not in the cache. Return rows and logits."""
        numbers = [self.row_numbers[request.conversation] for request in requests]
        rows = [
            self._row(number, request, prompt, self._cached(number, prompt))
            for number, request, prompt in zip(numbers, requests, prompts, strict=True)
        ]
        return rows, self.compute(dict(zip(numbers, prompts, strict=True)))

    def branch(self, row: Row, written: list[int], number: int) -> Row:
        """Return a row that continues the same prompt after another beginning of the reply; numbers start at 1."""
        cached = self.row_numbers[row.request.conversation]
        seeds = np.random.SeedSequence([row.request.seed, number])
        uniforms = np.random.Generator(np.random.PCG64(seeds)).random(len(row.uniforms))
        return Row(cached, row.request, row.prompt, row.cached, uniforms, written)

    def resume(self, rows: list[Row]) -> None:
        """Write the rest of replies that have begun."""
        if rows := [row for row in rows if len(row.written) < self.spec.sampling.max_new_tokens]:
            self._write(rows, self.compute({row.number: row.prompt + row.written for row in rows}))

    def compute(self, contexts: Mapping[int, list[int]]) -> torch.Tensor:
        """Compute the tokens of rows that are not in the cache. Return the logits after each row's last token.

        Args:
            contexts: number of a row -> all of its tokens from now on.
        """
        assert self.cache is not None
        keep = [
            self._cached(number, contexts[number]) if number in contexts else len(tokens)
            for number, tokens in enumerate(self.cached_tokens)
        ]
        new = [contexts.get(number, [])[length:] for number, length in enumerate(keep)]
        self.cached_tokens = [
            tokens[:length] + added for tokens, length, added in zip(self.cached_tokens, keep, new, strict=True)
        ]
        self.cache.crop(torch.tensor(keep, device=self.model.device))
        return self._forward(new, keep)[list(contexts)]

    def _cached(self, number: int, tokens: list[int]) -> int:
        """Return how many of a row's next tokens are in the cache; the last one is computed again for its logits."""
        return min(_common_prefix(self.cached_tokens[number], tokens), len(tokens) - 1)

    def _row(self, number: int, request: Request, prompt: list[int], cached: int) -> Row:
        uniforms = np.random.Generator(np.random.PCG64(request.seed)).random(self.spec.sampling.max_new_tokens + 1)
        return Row(number, request, prompt, cached, uniforms)

    def _forward(self, tokens: list[list[int]], starts: list[int]) -> torch.Tensor:
        """Compute new tokens of each row from a position on. Return the last tokens' logits, [rows, vocabulary]."""
        assert self.cache is not None
        device = self.model.device
        self.cache.reserve(*torch.tensor([starts, [len(row) for row in tokens]], device=device))
        parts = []
        for start in range(0, len(tokens), PREFILL_ROWS):
            view = slice(start, start + PREFILL_ROWS)
            width = max(1, max(map(len, tokens[view])))
            padded = torch.tensor([[0] * (width - len(row)) + row for row in tokens[view]], device=device)
            parts.append(self._step(padded, self.cache.select(view, width)))
        return torch.cat(parts)

    def _step(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        output = self.model(
            input_ids=tokens,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1]

    def _write(self, rows: list[Row], logits: torch.Tensor) -> None:
        """Sample tokens until every row has stopped; stopped rows leave holes in the cache.

        Once at least half of the rows of a step have stopped, the remaining rows are moved to the front and computed
        alone.
        """
        assert self.cache is not None
        device, limit, width = self.model.device, self.spec.sampling.max_new_tokens, self.cache.rows
        uniforms = torch.from_numpy(np.stack([row.uniforms for row in rows])).to(device)
        writing = list(range(len(rows)))
        for step in range(limit):
            if self.spec.forks:
                note_forks(self, [rows[place] for place in writing], logits)
            new_tokens = self._sample(logits, uniforms[writing, step]).tolist()
            for row, token in zip([rows[place] for place in writing], new_tokens, strict=True):
                row.written.append(token)
                if token in self.stop:
                    row.finish = "stop"
                elif len(row.written) == limit:
                    row.finish = "length"
                elif self.guided and ends_thought(self, row):
                    row.finish = "thought"
            writing = [place for place in writing if not rows[place].finish]
            if not writing:
                break
            open_rows = [rows[place] for place in writing]
            if 2 * len(writing) <= width:
                self._to_front(open_rows, rows, width)
                width = len(writing)
            lengths, tokens, starts = ([0] * self.cache.rows for _ in range(3))
            for row in open_rows:
                lengths[row.number], tokens[row.number] = 1, row.written[-1]
                starts[row.number] = len(row.prompt) + len(row.written) - 1
            written, new, places = torch.tensor([lengths, tokens, starts], device=device)
            self.cache.reserve(places, written)
            scores = self._step(new[:width, None], self.cache.select(slice(width), 1))
            logits = scores[[row.number for row in open_rows]]
        for row in rows:
            # The last token was sampled, not computed.
            self.cached_tokens[row.number] = row.prompt + row.written[:-1]

    def _to_front(self, first: list[Row], rows: list[Row], width: int) -> None:
        """Move conversations to the front of the cache's first `width` rows."""
        assert self.cache is not None
        numbers = [row.number for row in first]
        order = numbers + sorted(set(range(width)) - set(numbers))
        self.cache.reorder(torch.tensor(order, device=self.model.device))
        moved = {old: new for new, old in enumerate(order)}
        self.cached_tokens[:width] = [self.cached_tokens[old] for old in order]
        self.row_numbers = {name: moved.get(old, old) for name, old in self.row_numbers.items()}
        for row in rows:
            row.number = moved.get(row.number, row.number)

    def scores(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the logits, [rows, vocabulary], of the distribution that tokens are sampled from."""
        scores = logits.float() / self.spec.sampling.temperature
        for warp in self.warpers:
            scores = warp(None, scores)
        return scores

    def _sample(self, logits: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
        """Return one token a row, by inverse transform sampling with the row's uniform number."""
        if self.spec.sampling.temperature == 0:
            return logits.argmax(dim=-1)
        total = self.scores(logits).softmax(dim=-1).cumsum(dim=-1, dtype=torch.float64)
        tokens = torch.searchsorted(total, (uniforms * total[:, -1])[:, None], right=True)
        return tokens[:, 0].clamp(max=total.shape[1] - 1)


def _warpers(sampling: Sampling) -> list[Any]:
    warpers: list[Any] = []
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    return warpers


def _common_prefix(one: list[int], other: list[int]) -> int:
    """Return the length of the longest common prefix."""
    for place, (token, other_token) in enumerate(zip(one, other, strict=False)):
        if token != other_token:
            return place
    return min(len(one), len(other))
