"""Parse the tool calls of a reply, in the formats that different model families write."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from atp.parsing.choices import MAX_SEARCHED_CHARS, invalid_reply
from atp.parsing.families import CALL_CLOSE, CALL_OPEN, DECODER, UNNAMED
from atp.parsing.replies import split_reply
from atp.testbed import Reply

#: Maximum number of calls parsed from one reply; further ones are ignored.
MAX_CALLS = 20

NOT_CLOSED = "the call is not closed"
TOO_LONG = f"the call is not closed within the first {MAX_SEARCHED_CHARS:,} characters of the reply"

#: Maximum length of a quote of the reply in an error, in characters.
_MAX_QUOTE_CHARS = 60
_START = re.compile(r"<tool_call>|^ {0,3}(?P<fence>`{3,})(?P<info>[^`\n]*)$", re.MULTILINE)
_FENCE_END = re.compile(r"^ {0,3}(`{3,})[ \t\r]*$", re.MULTILINE)
_FUNCTION = re.compile(r"\s*<function=([^>\n]{1,200})>")
_PARAMETER = re.compile(r"\s*<parameter=([^>\n]{1,200})>")
_PARAMETER_END = re.compile(r"</parameter>(?=\s*(?:<parameter=|</function>))")
_FUNCTION_END = re.compile(r"\s*</function>\s*</tool_call>")
_PYTHON_TAG = re.compile(r"\s*<\|python_tag\|>")
_TURN_END = re.compile(r"(?:\s*<\|(?:eom_id|eot_id)\|>)?\s*\Z")
_LLAMA_START = re.compile(r'\s*\{\s*"(?:name|type)"\s*:\s*"')
_FENCED = re.compile(r"\s*```(?:json)?[ \t]*\n([^`]*)```\s*", re.IGNORECASE)
_PARAMETERS = re.compile(r'"(?:parameters|arguments)"\s*:')
_WHITESPACE = re.compile(r"\s*")


@dataclass(frozen=True)
class ParsedCall:
    """One parsed call at offset `start` of the reply's answer; `error` is the reason if it cannot be run."""

    name: str
    text: str
    error: str | None = None
    start: int = 0


def parse_calls(reply: Reply | str, tools: Mapping[str, str]) -> list[ParsedCall]:
    """Return the calls in a reply's answer, in order, ignoring its reasoning.

    Formats: `<tool_call>` around JSON (Hermes, Qwen) or around `<function=…>` (Qwen3-Coder); only JSON objects with
    "name" and "parameters" (Llama), also in one fence; a code fence named after a tool around its argument, or
    `tool_call` around JSON; those of `atp.parsing.families`. `tools` maps each offered tool to the name of its only
    argument.
    """
    if invalid_reply(reply):
        return []
    whole = split_reply(reply).answer
    answer = whole[:MAX_SEARCHED_CHARS]
    calls = _parse_llama(answer, tools)
    if not calls:
        calls = [call for call, _ in zip(_parse_marked(answer, tools), range(MAX_CALLS), strict=False)]
    if len(whole) > len(answer):
        calls = [replace(call, error=TOO_LONG) if call.error == NOT_CLOSED else call for call in calls]
    return [replace(call, text=_replace_surrogates(call.text)) for call in calls]


def _parse_llama(answer: str, tools: Mapping[str, str]) -> list[ParsedCall]:
    """Return the calls of an answer that consists only of calls as JSON objects, else an empty list."""
    if fenced := _FENCED.fullmatch(answer):
        # The fence is blanked, so that the offsets remain those of the answer.
        answer = " " * fenced.start(1) + fenced[1]
    tag = _PYTHON_TAG.match(answer)
    offset = tag.end() if tag else 0
    calls: list[ParsedCall] = []
    while not _TURN_END.match(answer, offset):
        start = _skip_space(answer, offset)
        try:
            value, offset = DECODER.raw_decode(answer, start)
        except (ValueError, RecursionError) as error:
            # A truncated call counts as a failed call, other text as no call.
            is_truncated_call = _LLAMA_START.match(answer, start) and _PARAMETERS.search(answer, start)
            return [*calls, _failed(_json_error(error), start)] if is_truncated_call else []
        if not _is_call(value):
            return []
        if len(calls) < MAX_CALLS:
            calls.append(_parse_value(value, tools, start))
        offset = _skip_space(answer, offset)
        offset += answer.startswith(";", offset)
    return calls


def _parse_marked(answer: str, tools: Mapping[str, str]) -> Iterator[ParsedCall]:
    """Yield the calls marked by tags or fences, in order."""
    names = {name.casefold(): name for name in tools}
    foreign = 0  # length of the open fence of another language; a fence without a language closes it
    offset = 0
    while start := _START.search(answer, offset):
        offset = start.end()
        if not start["fence"]:
            call, offset = _parse_tagged(answer, start.start(), tools)
            yield call
            continue
        length, info = len(start["fence"]), start["info"].strip()
        if foreign:
            foreign = 0 if not info and length >= foreign else foreign
            continue
        language = info.split()[0].casefold() if info else ""
        if language not in names and language != "tool_call":
            foreign = length
            continue
        end = _fence_end(answer, offset, length)
        if not end:
            yield ParsedCall(names.get(language, ""), "", NOT_CLOSED, start.start())
            return
        body = answer[offset + 1 : max(end.start() - 1, offset + 1)]
        offset = end.end()
        if language in names:
            yield ParsedCall(names[language], body, None, start.start())
        else:
            yield _parse_json(body, tools, start.start())


def _fence_end(answer: str, offset: int, length: int) -> re.Match[str] | None:
    return next((end for end in _FENCE_END.finditer(answer, offset) if len(end[1]) >= length), None)


def _parse_tagged(answer: str, start: int, tools: Mapping[str, str]) -> tuple[ParsedCall, int]:
    """Return (the call whose opening tag is at `start`, the offset to continue at)."""
    inside = start + len(CALL_OPEN)
    function = _FUNCTION.match(answer, inside)
    result = _parse_tags(answer, function, tools, start) if function else None
    if result:
        return result
    try:
        # Decode instead of searching for the closing tag, which an argument may contain.
        value, end = DECODER.raw_decode(answer, _skip_space(answer, inside))
    except (ValueError, RecursionError) as error:
        value, end, problem = None, inside, _json_error(error)
    else:
        closing = _skip_space(answer, end)
        if answer.startswith(CALL_CLOSE, closing):
            return _parse_value(value, tools, start), closing + len(CALL_CLOSE)
        problem = "the call is not valid JSON: something follows its end"
    close, following = answer.find(CALL_CLOSE, end), answer.find(CALL_OPEN, end)
    if close < 0 or 0 <= following < close:
        # The rest may contain calls: resume after complete JSON, else at the next opening tag.
        return _failed(NOT_CLOSED, start), end if value is not None else following if following >= 0 else len(answer)
    if function:
        problem = "the call's function or parameter is not closed"
    return _failed(problem, start), close + len(CALL_CLOSE)


def _parse_tags(
    answer: str, function: re.Match[str], tools: Mapping[str, str], start: int
) -> tuple[ParsedCall, int] | None:
    """Return the same as `_parse_tagged` for a call in `<function=…>` tags; None if they are not closed."""
    arguments: dict[str, object] = {}
    offset = function.end()
    while parameter := _PARAMETER.match(answer, offset):
        end = _PARAMETER_END.search(answer, parameter.end())
        if not end:
            return None
        # Qwen3-Coder's template puts the value on separate lines.
        value = answer[parameter.end() : end.start()].removeprefix("\n").removesuffix("\n")
        arguments[parameter[1].strip()] = value
        offset = end.end()
    closing = _FUNCTION_END.match(answer, offset)
    return (_check(function[1].strip(), arguments, tools, start), closing.end()) if closing else None


def _parse_json(body: str, tools: Mapping[str, str], start: int) -> ParsedCall:
    try:
        value = DECODER.decode(body.strip())
    except (ValueError, RecursionError) as error:
        return _failed(_json_error(error), start)
    return _parse_value(value, tools, start)


def _is_call(value: object) -> bool:
    """Return whether a JSON value is a call, rather than an answer in JSON."""
    if not isinstance(value, dict):
        return False
    inner = value.get("function")
    value = inner if isinstance(inner, dict) else value
    return "name" in value and ("parameters" in value or "arguments" in value)


def _parse_value(value: object, tools: Mapping[str, str], start: int) -> ParsedCall:
    """Return the call that a JSON value represents."""
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    if not isinstance(value, dict):
        return _failed("the call is not a JSON object", start)
    name = value.get("name")
    if not isinstance(name, str) or not name:
        return _failed("the call names no tool", start)
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):  # some models write the object as a JSON string
        try:
            arguments = DECODER.decode(arguments)
        except (ValueError, RecursionError):
            return _check(name, None, tools, start)
    return _check(name, arguments, tools, start)


def _check(name: str, arguments: object, tools: Mapping[str, str], start: int) -> ParsedCall:
    """Return a call, with an error unless its tool is offered and its only argument is given as text."""
    if name not in tools:
        available = f"there is {', '.join(tools)}" if tools else "there is no tool"
        return ParsedCall(_quote(name), "", f"no tool is called '{_quote(name)}'; {available}", start)
    key = tools[name]
    if isinstance(arguments, dict) and list(arguments) == [UNNAMED]:
        arguments = {key: arguments[UNNAMED]}
    if not isinstance(arguments, dict):
        problem = "the call's arguments are not a JSON object"
    elif key not in arguments:
        problem = f"{name} needs the argument '{key}'"
    elif extra := [other for other in arguments if other != key]:
        problem = f"{name} takes only '{key}', not '{_quote(extra[0])}'"
    elif not isinstance(arguments[key], str):
        problem = f"the argument '{key}' must be text"
    else:
        return ParsedCall(name, arguments[key], None, start)
    return ParsedCall(name, "", problem, start)


def _failed(problem: str, start: int) -> ParsedCall:
    return ParsedCall("", "", problem, start)


def _json_error(error: Exception) -> str:
    message = error.msg if isinstance(error, json.JSONDecodeError) else "it is nested too deeply"
    return f"the call is not valid JSON: {message}"


def _quote(text: str) -> str:
    """Return a printable, shortened quote of text that a model wrote."""
    quote = text if len(text) <= _MAX_QUOTE_CHARS else text[: _MAX_QUOTE_CHARS - 1] + "…"
    return "".join(character if character.isprintable() else "?" for character in quote)


def _skip_space(text: str, offset: int) -> int:
    match = _WHITESPACE.match(text, offset)
    return match.end() if match else offset


def _replace_surrogates(text: str) -> str:
    """Replace lone surrogates, which JSON escapes can produce and UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode("utf-8")
