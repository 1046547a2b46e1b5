"""Agent for a served model, using Inspect's model providers: vLLM, any OpenAI-compatible server, the hosted APIs.

Inspect handles the providers, retries with backoff and rate limits. The agent guarantees the same prompt that the local
agent would use, and a separate seed for each turn. It does not guarantee byte-identical replies: a server may batch
prompts differently, and a hosted model may change.

API keys are read only from the environment. They are removed from everything that a server returns, so that they are
never written to a file or log.
"""

import itertools
import json
import logging
import os
import re
from contextlib import suppress
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

from atp.agents.base import ConcurrentAgent, Request
from atp.agents.likelihood import violation_probability, weigh_tokens
from atp.errors import AtpError
from atp.models.spec import ModelSpec
from atp.parsing.families import UNNAMED, call_block
from atp.parsing.replies import split_reasoning, thought_block
from atp.parsing.tool_calls import ParsedCall, parse_calls
from atp.testbed import Observation, Prompt, Reply
from atp.tools import TOOLS, schema

log = logging.getLogger("atp")

# These log one line per request.
for logger_name in ("httpx", "httpx2", "openai"):
    logging.getLogger(logger_name).setLevel(logging.WARNING)
# Inspect logs server responses, which may contain a key.
logging.getLogger("inspect_ai").setLevel(logging.CRITICAL)

#: Providers whose servers render a chat template and accept, beyond OpenAI's API, its arguments and `top_k`.
TEMPLATE_PROVIDERS = ("openai-api", "vllm", "sglang")
#: Other providers whose API accepts `top_k`.
TOP_K_PROVIDERS = ("anthropic", "bedrock", "google", "hf", "together")
#: Errors to retry: Inspect raises them for responses that it cannot parse, or vLLM's provider does not retry them.
RETRIED_ERRORS = (AttributeError, LookupError, TypeError, ValueError, APIConnectionError)
#: Key of an output's metadata: the calls' names and the texts of their arguments, as the server sent them.
SENT_CALLS = "sent_calls"
#: Inspect's stop reasons, mapped to `finish_reason`. `content_filter`: the provider withheld the reply.
FINISH_REASONS: dict[str, Any] = {"max_tokens": "length", "model_length": "length", "content_filter": "content_filter"}
#: Stop reasons whose text is not the model's: a filter's message, or that the prompt is too long.
NO_REPLY_REASONS = ("content_filter", "model_length")
#: Seeds are taken modulo this, a range that every provider accepts.
SEED_MODULUS = 2**31
#: Start of the special tokens of common chat templates. A space after it makes them plain text, as in the local agent.
_SPECIAL_TOKEN = re.compile(r"<(?=[|｜]|/?s>|(?:start|end)_of_turn>)|\[(?=/?INST\])")
#: Colour markup in Inspect's errors.
_MARKUP = re.compile(r"\[/?[a-z]+\]")
_SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)$", re.IGNORECASE)
#: Minimum length of a secret in characters; shorter values could occur in replies by chance.
MIN_SECRET_CHARS = 8
#: Default request timeout of Inspect's HTTP clients, in seconds.
DEFAULT_REQUEST_TIMEOUT = 600
#: Upper bound for a server's token counts, because they are summed in 32 bits.
MAX_TOKEN_COUNT = 2**24
#: Maximum length of a quoted server message, in characters.
MAX_QUOTE_CHARS = 300


class BadResponseError(ValueError):
    """A response with status 200 that holds no reply."""


def load_served(spec: ModelSpec, adapter: Path | None) -> "ServedAgent":
    """Create the agent of a served model, or of an adapter under its name in `spec.adapters`; send no request.

    Raises:
        AtpError: an adapter without a name, an unknown provider, a missing key or provider package, or an unsupported
            setting.
    """
    path = spec.path if adapter is None else _served_name(spec, adapter)
    provider = path.partition("/")[0]
    if spec.chat_template and provider not in TEMPLATE_PROVIDERS:
        raise AtpError(f"{path}: chat_template: found {spec.chat_template}, '{provider}' takes none; remove it")
    if spec.sampling.top_k and provider not in TEMPLATE_PROVIDERS + TOP_K_PROVIDERS:
        raise AtpError(f"{path}: sampling.top_k: found {spec.sampling.top_k}, '{provider}' takes none; remove it")
    if spec.timeout > DEFAULT_REQUEST_TIMEOUT:
        os.environ.setdefault("INSPECT_HTTP_REQUEST_TIMEOUT", str(spec.timeout))
    try:
        model = get_model(path, base_url=spec.base_url, memoize=False)
    except Exception as error:  # exception types differ between providers
        raise AtpError(f"{path}: {_one_line(_MARKUP.sub('', str(error)))}") from None
    key = model.api.api_key or ""
    if not (key.isascii() and key.isprintable()):
        raise AtpError(
            f"{path}: the key in {_key_names(model)} has a line break or a letter beyond ASCII; set it again"
        )
    return ServedAgent(model, spec)


def _key_names(model: Model) -> str:
    return " or ".join(model.api.api_key_vars) or "the environment"


def _served_name(spec: ModelSpec, adapter: Path) -> str:
    for folder, name in spec.adapters.items():
        if Path(folder).resolve() == adapter.resolve():
            return name
    known = ", ".join(spec.adapters) or "none"
    raise AtpError(f"{spec.path}: adapters: no served name for {adapter}, add it; known are: {known}")


class ServedAgent(ConcurrentAgent):
    """Answers requests with a model behind an API, with up to `batch` of them in flight.

    `served` counts answered requests, retries, empty replies, and replies that the provider refused or replaced with
    its own text. Empty and refused replies are invalid.
    """

    def __init__(self, model: Model, spec: ModelSpec):
        self.model, self.spec, self.batch = model, spec, spec.batch
        self.name, self.templated = str(model), str(model).partition("/")[0] in TEMPLATE_PROVIDERS
        self.served = dict.fromkeys(("requests", "retries", "empty", "refused"), 0)
        self.secrets = [
            value for name, value in os.environ.items() if _SECRET.search(name) and len(value) >= MIN_SECRET_CHARS
        ]
        self.last_warning, self.retries_before = "", http_retries_count()
        self._read_responses()
        self._retry_unreadable()

    def start(self) -> None:
        """Do nothing: every request contains the whole conversation."""

    async def reply(self, request: Request) -> Reply:
        """Return the reply to a request.

        Raises:
            AtpError: the server rejects the request, or does not answer despite retries.
        """
        before = self._problems()
        try:
            output = await self._send(request)
        except Exception as error:  # exception types differ between providers
            raise self._failure(error) from None
        finally:
            self.served["retries"] = http_retries_count() - self.retries_before
        reply, self.last_warning = self._reply(output), ""
        if self.spec.top_logprobs:
            self._weigh(reply, output, request.prompt.observation)
        self.served["requests"] += 1
        if self._problems().bit_length() > before.bit_length():  # at 1, 2, 4, 8, …
            counts = ", ".join(f"{number} {name}" for name, number in self.served.items())
            log.warning("%s: so far %s", self.name, counts)
        return reply

    def _problems(self) -> int:
        return sum(self.served[name] for name in ("retries", "empty", "refused"))

    async def _send(self, request: Request) -> ModelOutput:
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
            # Schemas as in the local agent: Inspect adds keys, which a chat template would show to the model.
            extra = {"top_k": sampling.top_k, "chat_template_kwargs": self.spec.chat_template, "tools": tools}
        return GenerateConfig(
            temperature=sampling.temperature,
            top_p=sampling.top_p if sampling.top_p < 1 else None,
            top_k=sampling.top_k or None,
            max_tokens=sampling.max_new_tokens,
            seed=seed % SEED_MODULUS,
            logprobs=self.spec.top_logprobs > 0 or None,
            top_logprobs=self.spec.top_logprobs or None,
            timeout=self.spec.timeout,
            attempt_timeout=self.spec.timeout,
            adaptive_connections=AdaptiveConcurrency(min=1, start=self.batch, max=self.batch),
            extra_body={key: value for key, value in extra.items() if value},
        )

    def _reply(self, output: ModelOutput) -> Reply:
        refused = output.stop_reason in NO_REPLY_REASONS
        text = "" if refused else self._without_secrets(reply_text(output))
        self.served["refused"] += refused
        self.served["empty"] += not text and not refused
        usage = output.usage
        cached = usage.input_tokens_cache_read or 0 if usage else 0
        prompt = usage.input_tokens + cached + (usage.input_tokens_cache_write or 0) if usage else 0
        written = usage.output_tokens if usage else 0
        prompt, cached, written = (min(max(0, tokens), MAX_TOKEN_COUNT) for tokens in (prompt, cached, written))
        return Reply(
            text=text,
            prompt_tokens=prompt,
            cached_tokens=cached,
            completion_tokens=written,
            finish_reason=FINISH_REASONS.get(output.stop_reason, "stop"),
        )

    def _weigh(self, reply: Reply, output: ModelOutput, observation: Observation) -> None:
        """Set the probability of a violation, if the reply states its decision in a known form."""
        logprobs = output.choices[0].logprobs
        tokens = [
            (token.token, {top.token: top.logprob for top in token.top_logprobs or []})
            for token in (logprobs.content if logprobs else [])
        ]
        if output.message.text.strip() and not any(likely for _, likely in tokens):
            raise AtpError(f"{self.name}: top_logprobs: the server returns no log-probabilities; remove the key")
        if observation.violations is None:
            return
        weighed = weigh_tokens(tokens, observation.answers, self.spec.sampling.temperature)
        if weighed:
            reply.stated, probabilities = weighed
            reply.p_violation = violation_probability(probabilities, observation.violations)

    def _read_responses(self) -> None:
        """Make Inspect raise an error for responses without a reply, and keep the calls as the server sent them."""
        api: Any = self.model.api
        inspect_generates, inspect_reads = api.generate, getattr(api, "on_response", lambda response: None)

        async def generate(*arguments: Any, **options: Any) -> Any:
            result = await inspect_generates(*arguments, **options)
            output, call = result if isinstance(result, tuple) else (result, None)
            if isinstance(output, ModelOutput):
                if output.empty:
                    raise BadResponseError("the response has no choices")
                output.metadata = {**(output.metadata or {}), SENT_CALLS: _sent_calls(call.response if call else None)}
            return result

        def on_response(response: dict[str, Any]) -> None:
            parts = [response, *(response.get("choices") or [])]  # routers to several providers put it into the choice
            if error := next((part["error"] for part in parts if part.get("error")), None):
                raise BadResponseError(f"the response is an error: {error}")
            inspect_reads(response)

        api.generate, api.on_response = generate, on_response

    def _retry_unreadable(self) -> None:
        """Make Inspect retry after responses that it cannot parse, and log the reason for each wait."""
        inspect_decides = self.model.api.should_retry

        def should_retry(error: Any) -> Any:
            retry = isinstance(error, RETRIED_ERRORS) or inspect_decides(error)
            if retry and (message := self._error_text(error)) != self.last_warning:
                self.last_warning = message
                log.warning("%s: %s; retrying for up to %d s", self.name, message, self.spec.timeout)
            return retry

        setattr(self.model.api, "should_retry", should_retry)  # noqa: B010  mypy rejects assignment to a method

    def _failure(self, error: BaseException) -> AtpError:
        gave_up = isinstance(error, RetryError)
        if isinstance(error, RetryError):
            error = error.last_attempt.exception() or error
        if getattr(error, "status_code", None) == 401:  # the message may quote part of the key
            return AtpError(f"{self.name}: the server did not accept the key in {_key_names(self.model)} (status 401)")
        if gave_up:
            silent = type(error).__name__ == "AttemptTimeoutError"
            last = "" if silent else f"; last error: {self._error_text(error)}"
            hint = "what is finished is kept, rerun to resume"
            return AtpError(f"{self.name}: no answer in {self.spec.timeout} s (timeout in its file){last}; {hint}")
        return AtpError(f"{self.name}: request failed: {self._error_text(error)}")

    def _error_text(self, error: BaseException) -> str:
        """Return a one-line error message, without the request that Inspect quotes and without keys."""
        status, message = getattr(error, "status_code", None), getattr(error, "provider_message", None) or str(error)
        text = f"{type(error.__cause__ or error).__name__}{f' {status}' if status else ''}: {message}"
        return _one_line(self._without_secrets(text))

    def _without_secrets(self, text: str) -> str:
        for secret in self.secrets:
            text = text.replace(secret, "[secret]")
        return text


def chat_messages(prompt: Prompt) -> list[ChatMessage]:
    """Convert a prompt to Inspect's types.

    In replies that tools answered, calls are separated from the text, as every API requires; a call that could not be
    run becomes a call of a known tool with an empty argument.
    """
    chat: list[ChatMessage] = []
    calls: list[ToolCall] = []
    for index, message in enumerate(prompt.messages):
        role, text = message["role"], message["content"]
        if role == "tool":
            call = calls.pop(0)
            chat.append(ChatMessageTool(content=_escape(text), tool_call_id=call.id, function=call.function))
        elif role == "assistant":
            results = itertools.takewhile(lambda later: later["role"] == "tool", prompt.messages[index + 1 :])
            if answer_count := len(list(results)):
                text, calls = _separate_calls(text, answer_count, index)
            chat.append(ChatMessageAssistant(content=_escape(text), tool_calls=[*calls] or None))
        else:
            kind = ChatMessageSystem if role == "system" else ChatMessageUser
            chat.append(kind(content=_escape(text)))
    return chat


def _separate_calls(text: str, answer_count: int, index: int) -> tuple[str, list[ToolCall]]:
    """Return (the reply's text before its first call, one call per tool answer)."""
    answer, reasoning = split_reasoning(text)
    parsed_calls = parse_calls(text, {name: tool.argument for name, tool in TOOLS.items()})
    before = answer[: parsed_calls[0].start] if parsed_calls else answer
    calls = []
    for position, call in enumerate([*parsed_calls, *[ParsedCall("", "")] * answer_count][:answer_count]):
        tool = TOOLS.get(call.name) or next(iter(TOOLS.values()))
        # Mistral's API requires nine letters and digits.
        calls.append(ToolCall(f"call{index:03}{position:02}", tool.name, {tool.argument: call.text}))
    return thought_block(reasoning) + before.strip(), calls


def reply_text(output: ModelOutput) -> str:
    """Return a reply as a local model would have written it: reasoning in <think>, then the text, then the calls in the
    format of Qwen's chat templates.
    """
    message = output.message
    parts = message.content if isinstance(message.content, list) else []
    thoughts = [part.summary if part.redacted else part.reasoning for part in parts if part.type == "reasoning"]
    calls = [(call.function, json.dumps(call.arguments, ensure_ascii=False)) for call in message.tool_calls or []]
    sent: list[tuple[str, str]] = (output.metadata or {}).get(SENT_CALLS, [])
    if [name for name, _ in sent] == [name for name, _ in calls]:
        calls = [(name, _arguments(text)) for name, text in sent]
    blocks = [call_block(name, arguments) for name, arguments in calls]
    text = thought_block("\n".join(filter(None, thoughts))) + "\n".join([message.text.strip(), *blocks]).strip()
    return text.encode("utf-8", "replace").decode("utf-8")  # replaces lone surrogates from JSON escapes


def _sent_calls(response: dict[str, Any] | None) -> list[tuple[str, str]]:
    """Return (name, arguments) of the calls in a response of the chat completions API, else an empty list.

    Inspect reads arguments as JSON numbers or as YAML, which rounds numbers and folds the lines of a program.
    """
    try:
        first = min((response or {})["choices"], key=lambda choice: choice["index"])
        functions = [call["function"] for call in first["message"]["tool_calls"] or [] if call["type"] == "function"]
        return [(function["name"], function["arguments"]) for function in functions]
    except (LookupError, TypeError, ValueError):
        return []


def _arguments(text: str) -> str:
    """Return a call's arguments as JSON: the text as sent if it is meant as an object, also where that is broken.

    Other text is the tool's only argument, as Inspect takes it too.
    """
    with suppress(ValueError):
        value = json.loads(text)
        text = value if isinstance(value, str) else text
    if text.lstrip().startswith("{"):
        return text
    if text.strip() in ("", "null"):
        return "{}"
    return json.dumps({UNNAMED: text}, ensure_ascii=False)


def _escape(text: str) -> str:
    return _SPECIAL_TOKEN.sub(r"\g<0> ", text)


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_QUOTE_CHARS else f"{line[: MAX_QUOTE_CHARS - 1]}…"
