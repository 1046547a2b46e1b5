"""A served model as an agent, through Inspect's model providers: vLLM, any OpenAI-compatible server, the hosted APIs.

Knows prompts and replies as text; Inspect knows the providers, asks again with backoff and keeps to rate limits. What
is promised: the prompt that the local agent would read, and a seed of the turn's own. A server may compute a prompt in
another batch, and a hosted model may change: equal bytes are not promised.

Keys come from the environment alone. They are taken out of whatever a server says, so that they reach no file and no
log.
"""

import asyncio
import itertools
import json
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inspect_ai._util.retry import http_retries_count
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    GenerateConfig,
    Model,
    ModelOutput,
    get_model,
)
from inspect_ai.tool import ToolCall, ToolInfo
from inspect_ai.util import AdaptiveConcurrency
from openai import APIConnectionError
from tenacity import RetryError

from atp.agents.base import Request
from atp.agents.spec import ModelSpec
from atp.errors import AtpError
from atp.testbeds.base import Prompt, Reply
from atp.testbeds.calls import Asked, parse_calls
from atp.testbeds.parsing import split_reasoning
from atp.tools import TOOLS, schema

log = logging.getLogger("atp")

# A line for each request is no progress.
for chatty in ("httpx", "httpx2", "openai"):
    logging.getLogger(chatty).setLevel(logging.WARNING)
# It quotes what a server says, and a server may say a key.
logging.getLogger("inspect_ai").setLevel(logging.CRITICAL)

#: Providers of servers that render a chat template, and take its arguments and `top_k` beside what OpenAI's API has.
TEMPLATED = ("openai-api", "vllm", "sglang")
#: Other providers whose API has `top_k`.
TOP_K = ("anthropic", "bedrock", "google", "hf", "together")
#: What Inspect raises at an answer that it cannot read, and vLLM's provider does not try again.
UNREADABLE = (AttributeError, LookupError, TypeError, ValueError, APIConnectionError)
#: Inspect's reasons for the end of a reply, in a turn's words. `content_filter`: the provider withheld the reply.
FINISHED: dict[str, Any] = {"max_tokens": "length", "model_length": "length", "content_filter": "content_filter"}
#: Reasons that come with another text than the model's: of a filter, or that a prompt is too long.
NO_REPLY = ("content_filter", "model_length")
#: Every provider takes a seed of so many bits.
SEEDS = 2**31
#: Marks of common chat templates begin so. A space makes them inert, as the local agent does with its tokenizer's own.
_MARK = re.compile(r"<(?=[|｜]|/?s>|(?:start|end)_of_turn>)|\[(?=/?INST\])")
#: How Inspect's errors are coloured.
_MARKUP = re.compile(r"\[/?[a-z]+\]")
_SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)$", re.IGNORECASE)
#: Shorter values of the environment stand in replies by chance.
SHORTEST_SECRET = 8
#: Seconds after which Inspect's HTTP clients give a request up, if they are not told otherwise.
LONGEST_REQUEST = 600
#: A server may count as it likes; a reply's steps are summed in 32 bits.
MOST_TOKENS = 2**24
#: Longest quote of what a server says, in characters.
QUOTED = 300


def load_served(spec: ModelSpec, adapter: Path | None) -> "ServedAgent":
    """The agent of a served model, or of the name under which its file says that an adapter is served. Asks nothing.

    Raises:
        AtpError: an adapter without a name, an unknown provider, a key or a provider's package that is missing, a
            setting that the provider has not.
    """
    path = spec.path if adapter is None else _served_name(spec, adapter)
    provider = path.partition("/")[0]
    if spec.chat_template and provider not in TEMPLATED:
        raise AtpError(f"{path}: chat_template: found {spec.chat_template}, '{provider}' takes none")
    if spec.sampling.top_k and provider not in TEMPLATED + TOP_K:
        raise AtpError(f"{path}: sampling.top_k: found {spec.sampling.top_k}, '{provider}' takes none")
    if spec.timeout > LONGEST_REQUEST:
        os.environ.setdefault("INSPECT_HTTP_REQUEST_TIMEOUT", str(spec.timeout))
    try:
        model = get_model(path, base_url=spec.base_url, memoize=False)
    except Exception as error:  # of the provider's own kinds
        raise AtpError(f"{path}: {_one_line(_MARKUP.sub('', str(error)))}") from None
    return ServedAgent(model, spec)


def _served_name(spec: ModelSpec, adapter: Path) -> str:
    for folder, name in spec.adapters.items():
        if Path(folder).resolve() == adapter.resolve():
            return name
    known = ", ".join(spec.adapters) or "none"
    raise AtpError(f"{spec.path}: adapters: does not say under which name {adapter} is served, known are: {known}")


class ServedAgent:
    """Answers batches of requests with a model behind an API, up to `batch` at a time, fewer where it is told so.

    served counts the requests answered; the retries, for want of an answer that can be read; and of the replies those
    that were empty, and those that the provider refused or cut off with a text of its own. Both are invalid.
    """

    def __init__(self, model: Model, spec: ModelSpec):
        self.model, self.spec, self.batch = model, spec, spec.batch
        self.name, self.templated = str(model), str(model).partition("/")[0] in TEMPLATED
        self.served = dict.fromkeys(("requests", "retries", "empty", "refused"), 0)
        self.secrets = [
            value for name, value in os.environ.items() if _SECRET.search(name) and len(value) >= SHORTEST_SECRET
        ]
        self.told = ""
        self._ask_again_at_garbage()

    def start(self) -> None:
        """Nothing to forget: a server is sent the whole conversation each time."""

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        """Replies in the order of the requests.

        Raises:
            AtpError: a request that the server refuses, or no answer in spite of all retries.
        """
        before, retries, self.told = dict(self.served), http_retries_count(), ""
        try:
            outputs = asyncio.run(self._all(requests))
        except Exception as error:  # of the provider's own kinds
            raise self._failure(error) from None
        finally:
            self.served["retries"] += http_retries_count() - retries
        replies = [self._reply(output) for output in outputs]
        self.served["requests"] += len(replies)
        if any(self.served[name] > before[name] for name in ("retries", "empty", "refused")):
            counts = ", ".join(f"{number} {name}" for name, number in self.served.items())
            log.warning("%s: so far %s", self.name, counts)
        return replies

    async def _all(self, requests: Sequence[Request]) -> list[ModelOutput]:
        return await asyncio.gather(*(self._ask(request) for request in requests))

    async def _ask(self, request: Request) -> ModelOutput:
        tools = [schema(name) for name in request.prompt.tools]
        return await self.model.generate(
            chat_messages(request.prompt),
            tools=[ToolInfo(**tool["function"]) for tool in tools],
            config=self._config(request.seed, tools),
            cache=False,
        )

    def _config(self, seed: int, tools: list[dict[str, Any]]) -> GenerateConfig:
        sampling = self.spec.sampling
        extra: dict[str, Any] = {}
        if self.templated:
            # Tools as the local agent offers them: Inspect adds keys, which a template would show to the model.
            extra = {"top_k": sampling.top_k, "chat_template_kwargs": self.spec.chat_template, "tools": tools}
        return GenerateConfig(
            temperature=sampling.temperature,
            top_p=sampling.top_p if sampling.top_p < 1 else None,
            top_k=sampling.top_k or None,
            max_tokens=sampling.max_new_tokens,
            seed=seed % SEEDS,
            timeout=self.spec.timeout,
            attempt_timeout=self.spec.timeout,
            adaptive_connections=AdaptiveConcurrency(min=1, start=self.batch, max=self.batch),
            extra_body={key: value for key, value in extra.items() if value},
        )

    def _reply(self, output: ModelOutput) -> Reply:
        refused = not output.empty and output.stop_reason in NO_REPLY
        text = "" if output.empty or refused else self._without_secrets(reply_text(output.message))
        self.served["refused"] += refused
        self.served["empty"] += not text and not refused
        usage = output.usage
        cached = usage.input_tokens_cache_read or 0 if usage else 0
        prompt = usage.input_tokens + cached + (usage.input_tokens_cache_write or 0) if usage else 0
        written = usage.output_tokens if usage else 0
        prompt, cached, written = (min(max(0, tokens), MOST_TOKENS) for tokens in (prompt, cached, written))
        return Reply(
            text=text,
            prompt_tokens=prompt,
            cached_tokens=cached,
            completion_tokens=written,
            finish_reason="stop" if output.empty else FINISHED.get(output.stop_reason, "stop"),
        )

    def _ask_again_at_garbage(self) -> None:
        """Treat an answer that cannot be read as one that did not come, and say why the agent waits."""
        inspect_decides = self.model.api.should_retry

        def should_retry(error: Any) -> Any:
            again = isinstance(error, UNREADABLE) or inspect_decides(error)
            if again and (said := self._said(error)) != self.told:
                self.told = said
                log.warning("%s: %s; asks again, for up to %d s", self.name, said, self.spec.timeout)
            return again

        setattr(self.model.api, "should_retry", should_retry)  # noqa: B010  mypy knows it as a method

    def _failure(self, error: BaseException) -> AtpError:
        gave_up = isinstance(error, RetryError)
        if isinstance(error, RetryError):
            error = error.last_attempt.exception() or error
        if getattr(error, "status_code", None) == 401:  # what a server says of a key may quote it in part
            keys = " or ".join(self.model.api.api_key_vars) or "the environment"
            return AtpError(f"{self.name}: the server did not accept the key in {keys} (status 401)")
        if gave_up:
            silent = type(error).__name__ == "AttemptTimeoutError"
            last = "" if silent else f"; the last try: {self._said(error)}"
            kept = "finished batches are kept, a rerun goes on there"
            return AtpError(f"{self.name}: no answer in {self.spec.timeout} s, its file's timeout{last}; {kept}")
        return AtpError(f"{self.name}: the request fails: {self._said(error)}")

    def _said(self, error: BaseException) -> str:
        """What went wrong, without the request that Inspect quotes."""
        status, said = getattr(error, "status_code", None), getattr(error, "provider_message", None) or str(error)
        text = f"{type(error.__cause__ or error).__name__}{f' {status}' if status else ''}: {said}"
        return _one_line(self._without_secrets(text))

    def _without_secrets(self, text: str) -> str:
        for secret in self.secrets:
            text = text.replace(secret, "[secret]")
        return text


def chat_messages(prompt: Prompt) -> list[ChatMessage]:
    """A prompt in Inspect's types. Of a reply that tools answered to, the calls stand apart from the text, as every API
    wants them; of a call that could not be run, a tool's name with an empty argument.
    """
    chat: list[ChatMessage] = []
    calls: list[ToolCall] = []
    for place, message in enumerate(prompt.messages):
        role, text = message["role"], message["content"]
        if role == "tool":
            call = calls.pop(0)
            chat.append(ChatMessageTool(content=_inert(text), tool_call_id=call.id, function=call.function))
        elif role == "assistant":
            results = itertools.takewhile(lambda later: later["role"] == "tool", prompt.messages[place + 1 :])
            if answered := len(list(results)):
                text, calls = _calls_apart(text, answered, place)
            chat.append(ChatMessageAssistant(content=_inert(text), tool_calls=[*calls] or None))
        else:
            kind = ChatMessageSystem if role == "system" else ChatMessageUser
            chat.append(kind(content=_inert(text)))
    return chat


def _calls_apart(text: str, answered: int, place: int) -> tuple[str, list[ToolCall]]:
    """(a reply's text before its first call, as many calls as tools answered)."""
    answer, reasoning = split_reasoning(text)
    asked = parse_calls(text, {name: tool.argument for name, tool in TOOLS.items()})
    before = answer[: asked[0].start] if asked else answer
    calls = []
    for number, one in enumerate([*asked, *[Asked("", "")] * answered][:answered]):
        tool = TOOLS.get(one.name) or next(iter(TOOLS.values()))
        # Nine letters and digits, as Mistral's API wants it.
        calls.append(ToolCall(f"call{place:03}{number:02}", tool.name, {tool.argument: one.text}))
    return _thought(reasoning) + before.strip(), calls


def reply_text(message: ChatMessageAssistant) -> str:
    """A reply as a local model would have written it: reasoning in <think>, then its words, then its calls as Qwen's
    chat templates write them.
    """
    parts = message.content if isinstance(message.content, list) else []
    thoughts = [part.summary if part.redacted else part.reasoning for part in parts if part.type == "reasoning"]
    calls = [{"name": call.function, "arguments": call.arguments} for call in message.tool_calls or []]
    written = [f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>" for call in calls]
    text = _thought("\n".join(filter(None, thoughts))) + "\n".join([message.text.strip(), *written]).strip()
    return text.encode("utf-8", "replace").decode("utf-8")  # JSON can hold halves of characters, no file does


def _thought(reasoning: str) -> str:
    return f"<think>\n{reasoning.strip()}\n</think>\n\n" if reasoning.strip() else ""


def _inert(text: str) -> str:
    return _MARK.sub(r"\g<0> ", text)


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= QUOTED else f"{line[: QUOTED - 1]}…"
