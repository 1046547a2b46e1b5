"""What a reply asks of tools, in the forms that models' families write."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from atp.testbeds.parsing import LONGEST, split_reasoning

#: Calls read of one reply at most.
MOST = 20
_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_FENCE = re.compile(r"```([a-z_]+)[ \t]*\n", re.IGNORECASE)


@dataclass(frozen=True)
class Asked:
    """One call as it was written, from `start` of the answer on; error says why it cannot be run."""

    name: str
    text: str
    error: str | None = None
    start: int = 0


def parse_calls(text: str, tools: Mapping[str, str]) -> list[Asked]:
    """Calls of a reply, in order.

    Forms: JSON in <tool_call> marks (Hermes, Qwen), an answer that is nothing but JSON with a name and parameters
    (Llama), and a code fence in the name of a tool that is offered, with the argument in it.

    Args:
        tools: of each tool that is offered the name of its argument.
    """
    answer = split_reasoning(text)[0][:LONGEST]
    whole = answer.removeprefix("<|python_tag|>").strip()
    if whole.startswith("{") and whole.endswith("}") and '"name"' in whole:
        return [_read(whole, tools, 0)]
    found: list[Asked] = []
    at = 0
    while len(found) < MOST:
        mark, fence = answer.find(_OPEN, at), _FENCE.search(answer, at)
        if mark < 0 and not fence:
            break
        if mark >= 0 and (not fence or mark < fence.start()):
            end = answer.find(_CLOSE, mark)
            if end < 0:
                found.append(Asked("", "", "the call is not closed", mark))
                break
            found.append(_read(answer[mark + len(_OPEN) : end], tools, mark))
            at = end + len(_CLOSE)
            continue
        assert fence
        end, name = answer.find("```", fence.end()), fence.group(1).lower()
        if name in tools and end < 0:
            found.append(Asked(name, "", "the call is not closed", fence.start()))
        elif name in tools:
            found.append(Asked(name, answer[fence.end() : end].strip(), None, fence.start()))
        at = end + 3 if end >= 0 else len(answer)
    return found


def _read(text: str, tools: Mapping[str, str], start: int) -> Asked:
    try:
        value = json.loads(text, parse_int=str, parse_float=str, strict=False)
        name = value["name"]
        given = value.get("arguments", value.get("parameters"))
        given = json.loads(given, strict=False) if isinstance(given, str) else given
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Asked("", "", 'a call must be JSON: {"name": ..., "arguments": {...}}', start)
    if name not in tools if isinstance(name, str) else True:
        there = f"there is {', '.join(tools)}" if tools else "there is none"
        return Asked("", "", f"no tool is called {str(name)[:60]!r}; {there}", start)
    argument = given.get(tools[name]) if isinstance(given, dict) and set(given) == {tools[name]} else None
    if not isinstance(argument, str):
        return Asked(name, "", f"{name} takes one argument, the text '{tools[name]}'", start)
    return Asked(name, argument.encode("utf-8", "replace").decode(), None, start)
