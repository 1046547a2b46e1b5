"""What a tool is, how it is offered, and how calls are run."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from atp.tools.calculator import ToolError, evaluate
from atp.tools.sandbox import run_python

#: Longest result that goes back to an agent, in characters.
LONGEST = 2000


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
    """Run calls, equal ones once; their outcomes in the same order."""
    once = list(dict.fromkeys(calls))
    if any(call.name in APART for call in once):
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            outcomes = dict(zip(once, pool.map(_run, once), strict=True))
    else:
        outcomes = {call: _run(call) for call in once}
    return [outcomes[call] for call in calls]


def _run(call: Call) -> Outcome:
    try:
        text = TOOLS[call.name].run(call.text)
    except ToolError as error:
        return Outcome(f"Error: {error}", True)
    text = "".join(char if char.isprintable() or char in "\n\t" else "\ufffd" for char in text)
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]} (and {len(text) - LONGEST} more characters)"
    return Outcome(text, False)
