"""What a tool is, how it is offered, and how calls are run."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from atp.tools.calculator import ToolError, evaluate
from atp.tools.sandbox import run_python

#: Longest result that goes back to an agent, in characters.
LONGEST = 2000
#: Control characters but newline and tab, those that turn the direction of a text around, and halves of characters.
_UNFIT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a tool, with the one text that it takes."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a tool says back; that of a call that failed begins with "Error: "."""

    text: str
    failed: bool


@dataclass(frozen=True)
class Tool:
    """A tool and its one argument. run raises ToolError with a sentence for the agent."""

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
#: Tools whose calls are processes of their own, so that several can run side by side.
APART = ("python",)


def schema(name: str) -> dict[str, Any]:
    """A tool as chat templates take it."""
    tool = TOOLS[name]
    properties = {tool.argument: {"type": "string", "description": tool.argument_description}}
    parameters = {"type": "object", "properties": properties, "required": [tool.argument]}
    return {
        "type": "function",
        "function": {"name": name, "description": tool.description, "parameters": parameters},
    }


def run_calls(calls: Sequence[Call]) -> list[Outcome]:
    """Run calls, equal ones once; their outcomes in the same order. Whatever they ask, none raises.

    Raises:
        AtpError: a tool that cannot be had on this machine.
    """
    once = list(dict.fromkeys(calls))
    apart = [call for call in once if call.name in APART]
    outcomes = {call: _run(call) for call in once if call.name not in APART}
    if len(apart) == 1:
        outcomes[apart[0]] = _run(apart[0])
    elif apart:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(min(len(apart), len(os.sched_getaffinity(0)))) as pool:
            outcomes |= zip(apart, pool.map(_run, apart), strict=True)
    return [outcomes[call] for call in calls]


def _run(call: Call) -> Outcome:
    tool = TOOLS.get(call.name)
    if tool is None:
        return Outcome(_presentable(f"Error: no tool is called '{call.name[:40]}'; there is {', '.join(TOOLS)}"), True)
    try:
        return Outcome(_presentable(tool.run(call.text)), False)
    except ToolError as error:
        return Outcome(_presentable(f"Error: {error}"), True)


def _presentable(text: str) -> str:
    """A text of a bounded length, without what a terminal obeys or a file cannot hold."""
    cut = f" (and {len(text) - LONGEST} more characters)" if len(text) > LONGEST else ""
    return _UNFIT.sub("\ufffd", text[:LONGEST]) + cut
