"""What a reply asks of a tool, in the forms that model families write. Knows tools by name, not what they do."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from atp.testbeds.parsing import LONGEST, split_reasoning

#: Of more calls in one reply only the first are read.
MOST_CALLS = 20

NOT_CLOSED = "the call is not closed"

#: How much of what the model wrote an error quotes.
_QUOTED = 60
_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_START = re.compile(r"<tool_call>|^ {0,3}(?P<fence>`{3,})(?P<info>[^`\n]*)$", re.MULTILINE)
_FENCE_END = re.compile(r"^ {0,3}(`{3,})[ \t\r]*$", re.MULTILINE)
_FUNCTION = re.compile(r"\s*<function=([^>\n]{1,200})>")
_PARAMETER = re.compile(r"\s*<parameter=([^>\n]{1,200})>")
_PARAMETER_END = re.compile(r"</parameter>(?=\s*(?:<parameter=|</function>))")
_FUNCTION_END = re.compile(r"\s*</function>\s*</tool_call>")
_PYTHON_TAG = re.compile(r"\s*<\|python_tag\|>")
_TURN_END = re.compile(r"(?:\s*<\|(?:eom_id|eot_id)\|>)?\s*\Z")
_LLAMA = re.compile(r'\s*\{\s*"(?:name|type)"\s*:\s*"')
_PARAMETERS = re.compile(r'"(?:parameters|arguments)"\s*:')
_SPACE = re.compile(r"\s*")

# Numbers stay as written: an argument 10 is the text "10", and 0.10 the text "0.10".
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str, strict=False)


@dataclass(frozen=True)
class Asked:
    """One call as written, at `start` in the reply's answer; where it cannot be run, `error` says why."""

    name: str
    text: str
    error: str | None = None
    start: int = 0


def parse_calls(text: str, tools: Mapping[str, str]) -> list[Asked]:
    """The calls in a reply's answer, in order, its reasoning left out. `tools`: each offered tool's one argument.

    The forms: `<tool_call>` around JSON (Hermes, Qwen) or around `<function=…>` (Qwen3-Coder); nothing but JSON with
    "name" and "parameters" (Llama); a code fence in a tool's name around its argument, or in `tool_call` around JSON.
    """
    answer = split_reasoning(text)[0][:LONGEST]
    asked = _llama(answer, tools)
    if not asked:
        asked = [call for call, _ in zip(_marked(answer, tools), range(MOST_CALLS), strict=False)]
    return [replace(call, text=_encodable(call.text)) for call in asked]


def _llama(answer: str, tools: Mapping[str, str]) -> list[Asked]:
    """The calls of an answer that consists of nothing but calls as JSON objects; none if it is anything else."""
    tag = _PYTHON_TAG.match(answer)
    at = tag.end() if tag else 0
    asked: list[Asked] = []
    while not _TURN_END.match(answer, at):
        start = _past_space(answer, at)
        try:
            value, at = _DECODER.raw_decode(answer, start)
        except (ValueError, RecursionError) as error:
            # A call that breaks off is one that failed; any other text is no call.
            call = _LLAMA.match(answer, start) and _PARAMETERS.search(answer, start)
            return [*asked, _bad(_complaint(error), start)] if call else []
        if not _is_call(value):
            return []
        if len(asked) < MOST_CALLS:
            asked.append(_read(value, tools, start))
        at = _past_space(answer, at)
        at += answer.startswith(";", at)
    return asked


def _marked(answer: str, tools: Mapping[str, str]) -> Iterator[Asked]:
    """The calls that tags or fences mark, in order."""
    names = {name.casefold(): name for name in tools}
    foreign = 0  # the length of the open fence in another language, which a fence without a language closes
    at = 0
    while start := _START.search(answer, at):
        at = start.end()
        if not start["fence"]:
            call, at = _tagged(answer, start.start(), tools)
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
        end = _fence_end(answer, at, length)
        if not end:
            yield Asked(names.get(language, ""), "", NOT_CLOSED, start.start())
            return
        body = answer[at + 1 : max(end.start() - 1, at + 1)]
        at = end.end()
        if language in names:
            yield Asked(names[language], body, None, start.start())
        else:
            yield _from_json(body, tools, start.start())


def _fence_end(answer: str, at: int, length: int) -> re.Match[str] | None:
    return next((end for end in _FENCE_END.finditer(answer, at) if len(end[1]) >= length), None)


def _tagged(answer: str, start: int, tools: Mapping[str, str]) -> tuple[Asked, int]:
    """(the call whose opening tag stands at `start`, where to read on)."""
    inside = start + len(_OPEN)
    function = _FUNCTION.match(answer, inside)
    read = _function(answer, function, tools, start) if function else None
    if read:
        return read
    try:
        # By the decoder, not up to the next closing tag: an argument may hold one.
        value, end = _DECODER.raw_decode(answer, _past_space(answer, inside))
    except (ValueError, RecursionError) as error:
        value, end, problem = None, inside, _complaint(error)
    else:
        closing = _past_space(answer, end)
        if answer.startswith(_CLOSE, closing):
            return _read(value, tools, start), closing + len(_CLOSE)
        problem = "the call is not valid JSON: something follows its end"
    close, following = answer.find(_CLOSE, end), answer.find(_OPEN, end)
    if close < 0 or 0 <= following < close:
        # What follows may still hold calls: those that open anew, or all that stands behind complete JSON.
        return _bad(NOT_CLOSED, start), end if value is not None else following if following >= 0 else len(answer)
    if function:
        problem = "the call's function or parameter is not closed"
    return _bad(problem, start), close + len(_CLOSE)


def _function(answer: str, function: re.Match[str], tools: Mapping[str, str], start: int) -> tuple[Asked, int] | None:
    """As `_tagged`, for a call in tags of its own; None if they do not close."""
    arguments: dict[str, object] = {}
    at = function.end()
    while parameter := _PARAMETER.match(answer, at):
        end = _PARAMETER_END.search(answer, parameter.end())
        if not end:
            return None
        # The family's template puts the text on lines of its own.
        value = answer[parameter.end() : end.start()].removeprefix("\n").removesuffix("\n")
        arguments[parameter[1].strip()] = value
        at = end.end()
    closed = _FUNCTION_END.match(answer, at)
    return (_checked(function[1].strip(), arguments, tools, start), closed.end()) if closed else None


def _from_json(body: str, tools: Mapping[str, str], start: int) -> Asked:
    try:
        value = _DECODER.decode(body.strip())
    except (ValueError, RecursionError) as error:
        return _bad(_complaint(error), start)
    return _read(value, tools, start)


def _is_call(value: object) -> bool:
    """Whether a JSON value is a call, and not just an answer in JSON."""
    if not isinstance(value, dict):
        return False
    inner = value.get("function")
    value = inner if isinstance(inner, dict) else value
    return "name" in value and ("parameters" in value or "arguments" in value)


def _read(value: object, tools: Mapping[str, str], start: int) -> Asked:
    """The call that a JSON value makes."""
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    if not isinstance(value, dict):
        return _bad("the call is not a JSON object", start)
    name = value.get("name")
    if not isinstance(name, str) or not name:
        return _bad("the call names no tool", start)
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):  # some write the object as text
        try:
            arguments = _DECODER.decode(arguments)
        except (ValueError, RecursionError):
            return _checked(name, None, tools, start)
    return _checked(name, arguments, tools, start)


def _checked(name: str, arguments: object, tools: Mapping[str, str], start: int) -> Asked:
    """A call, if its tool is offered and it has that tool's one argument as text."""
    if name not in tools:
        there_is = f"there is {', '.join(tools)}" if tools else "there is no tool"
        return Asked(_short(name), "", f"no tool is called '{_short(name)}'; {there_is}", start)
    key = tools[name]
    if not isinstance(arguments, dict):
        problem = "the call's arguments are not a JSON object"
    elif key not in arguments:
        problem = f"{name} needs the argument '{key}'"
    elif extra := [other for other in arguments if other != key]:
        problem = f"{name} takes only '{key}', not '{_short(extra[0])}'"
    elif not isinstance(arguments[key], str):
        problem = f"the argument '{key}' must be text"
    else:
        return Asked(name, arguments[key], None, start)
    return Asked(name, "", problem, start)


def _bad(problem: str, start: int) -> Asked:
    return Asked("", "", problem, start)


def _complaint(error: Exception) -> str:
    said = error.msg if isinstance(error, json.JSONDecodeError) else "it is nested too deeply"
    return f"the call is not valid JSON: {said}"


def _short(written: str) -> str:
    """What a model wrote, short and printable, to be quoted."""
    shown = written if len(written) <= _QUOTED else written[: _QUOTED - 1] + "…"
    return "".join(character if character.isprintable() else "?" for character in shown)


def _past_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _encodable(text: str) -> str:
    """A text without lone surrogates, which JSON's escapes can write and no file holds."""
    return text.encode("utf-8", "replace").decode("utf-8")
