"""What a tool is, how it is offered, and how calls are run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from atp.tools.calculator import ToolError, evaluate

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
    for tool in (Tool("calculator", "Evaluates an expression exactly.", "expression", "such as 12 * 34", evaluate),)
}


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
    outcomes = {call: _run(call) for call in dict.fromkeys(calls)}
    return [outcomes[call] for call in calls]


def _run(call: Call) -> Outcome:
    try:
        text = TOOLS[call.name].run(call.text)
    except ToolError as error:
        return Outcome(f"Error: {error}", True)
    text = text.encode("utf-8", "replace").decode()
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]} (and {len(text) - LONGEST} more characters)"
    return Outcome(text, False)
