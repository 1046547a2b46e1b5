"""Tools: their definition, their schemas, and running calls."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from atp.errors import AtpError
from atp.tools.calculator import ToolError, evaluate
from atp.tools.sandbox import run_python

#: Maximum length of a result that an agent sees, in characters.
MAX_RESULT_CHARS = 2000
#: Control characters except newline and tab, characters that change the direction of text, and lone surrogates.
_UNSAFE_CHARS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a tool, with its one argument."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a call; if it failed, the text begins with "Error: "."""

    text: str
    failed: bool


@dataclass(frozen=True)
class Tool:
    """A tool with one argument.

    Args:
        run: argument -> result. Raises ToolError with a sentence for the agent.
    """

    name: str
    description: str
    argument: str
    argument_description: str
    run: Callable[[str], str]


TOOLS = {
    tool.name: tool
    for tool in (
        Tool("calculator", "Evaluates an expression exactly.", "expression", "such as 12 * 34", evaluate),
        Tool("python", "Runs a Python program and returns what it prints.", "code", "the program", run_python),
    )
}
#: Tools whose calls are separate processes, so that several can run in parallel.
PARALLEL_TOOLS = ("python",)


def schema(name: str) -> dict[str, Any]:
    """Return a tool's schema as chat templates expect it."""
    tool = TOOLS[name]
    properties = {tool.argument: {"type": "string", "description": tool.argument_description}}
    parameters = {"type": "object", "properties": properties, "required": [tool.argument]}
    return {
        "type": "function",
        "function": {"name": name, "description": tool.description, "parameters": parameters},
    }


def run_calls(calls: Sequence[Call]) -> list[Outcome]:
    """Run calls, equal ones once, and return their outcomes in order. A failed call is an outcome, not an exception.

    Raises:
        AtpError: a tool that is not available on this machine.
    """
    different = list(dict.fromkeys(calls))
    parallel = [call for call in different if call.name in PARALLEL_TOOLS]
    outcomes = {call: _run(call) for call in different if call.name not in PARALLEL_TOOLS}
    if len(parallel) == 1:
        outcomes[parallel[0]] = _run(parallel[0])
    elif parallel:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(min(len(parallel), len(os.sched_getaffinity(0)))) as pool:
            outcomes |= zip(parallel, pool.map(_run, parallel), strict=True)
    return [outcomes[call] for call in calls]


def _run(call: Call) -> Outcome:
    tool = TOOLS.get(call.name)
    if tool is None:
        return Outcome(_clean(f"Error: no tool is called '{call.name[:40]}'; there is {', '.join(TOOLS)}"), True)
    try:
        result = tool.run(call.text)
    except ToolError as error:
        return Outcome(_clean(f"Error: {error}"), True)
    if not isinstance(result, str):
        raise AtpError(f"tool '{call.name}': run returned {result!r:.80} ({type(result).__name__}), must be a text")
    return Outcome(_clean(result), False)


def _clean(text: str) -> str:
    """Return a text cut to the maximum length, without control characters and characters that cannot be encoded."""
    cut = f" (and {len(text) - MAX_RESULT_CHARS} more characters)" if len(text) > MAX_RESULT_CHARS else ""
    return _UNSAFE_CHARS.sub("\ufffd", text[:MAX_RESULT_CHARS]) + cut
