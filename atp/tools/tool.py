"""Tools: their definition, their schemas, and running calls."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from atp.errors import AtpError
from atp.tools.calculator import ToolError, evaluate
from atp.tools.files import Files, read_file, write_file
from atp.tools.sandbox import run_python

#: Maximum length of a result that an agent sees, in characters.
MAX_RESULT_CHARS = 2000
#: Control characters except newline and tab, characters that change the direction of text, and lone surrogates.
_UNSAFE_CHARS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a tool, with its one argument, and the episode's files if it has any."""

    name: str
    text: str
    files: Files | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a call; if it failed, the text begins with "Error: "."""

    text: str
    failed: bool


@dataclass(frozen=True)
class Tool:
    """A tool with one argument.

    Args:
        run: argument -> result, or with `uses_files` (argument, files) -> result. Raises ToolError with a sentence for
            the agent.
        uses_files: `run` gets the files of the call, which are empty if it has none.
        parallel: calls are separate processes, so that several can run in parallel.
    """

    name: str
    description: str
    argument: str
    argument_description: str
    run: Callable[..., str]
    uses_files: bool = False
    parallel: bool = False


def _run_program(code: str, files: Files) -> str:
    return run_python(code, files=files.texts)


BUILT_IN = (
    Tool("calculator", "Evaluates an expression exactly.", "expression", "such as 12 * 34", evaluate),
    Tool(
        "python",
        "Runs a Python program and returns what it prints.",
        "code",
        "the program",
        _run_program,
        uses_files=True,
        parallel=True,
    ),
    Tool("read_file", "Returns a file's text.", "name", "the file's name", read_file, uses_files=True),
    Tool(
        "write_file",
        "Creates or replaces a file.",
        "file",
        "the file's name on the first line, then the whole new content",
        write_file,
        uses_files=True,
    ),
)
#: All tools that can be offered: the registry adds those of testbeds and of plug-ins that are loaded.
TOOLS = {tool.name: tool for tool in BUILT_IN}


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
    """Run calls and return their outcomes in order. A failed call is an outcome, not an exception.

    Equal calls without files are run once. Calls on the same files are all run, one after another.

    Raises:
        AtpError: a tool that is not available on this machine.
    """
    groups: dict[object, list[int]] = {}
    for number, call in enumerate(calls):
        groups.setdefault(call if call.files is None else call.files, []).append(number)
    parallel = [group for group in groups.values() if any(_is_parallel(calls[number]) for number in group)]
    outcomes: dict[int, Outcome] = {}
    for group in groups.values():
        if len(parallel) < 2 or group not in parallel:
            outcomes |= _run_group(calls, group)
    if len(parallel) > 1:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(min(len(parallel), len(os.sched_getaffinity(0)))) as pool:
            for of_group in pool.map(partial(_run_group, calls), parallel):
                outcomes |= of_group
    return [outcomes[number] for number in range(len(calls))]


def _is_parallel(call: Call) -> bool:
    tool = TOOLS.get(call.name)
    return tool is not None and tool.parallel


def _run_group(calls: Sequence[Call], group: Sequence[int]) -> dict[int, Outcome]:
    """Return the outcomes of equal calls, or of calls on the same files, by their numbers."""
    if calls[group[0]].files is None:
        return dict.fromkeys(group, _run(calls[group[0]]))
    return {number: _run(calls[number]) for number in group}


def _run(call: Call) -> Outcome:
    tool = TOOLS.get(call.name)
    if tool is None:
        return Outcome(_clean(f"Error: no tool is called '{call.name[:40]}'; there is {', '.join(TOOLS)}"), True)
    try:
        result = tool.run(call.text, call.files or Files()) if tool.uses_files else tool.run(call.text)
    except ToolError as error:
        return Outcome(_clean(f"Error: {error}"), True)
    if not isinstance(result, str):
        raise AtpError(f"tool '{call.name}': run returned {result!r:.80} ({type(result).__name__}), must be a text")
    return Outcome(_clean(result), False)


def _clean(text: str) -> str:
    """Return a text cut to the maximum length, without control characters and characters that cannot be encoded."""
    cut = f" (and {len(text) - MAX_RESULT_CHARS} more characters)" if len(text) > MAX_RESULT_CHARS else ""
    return _UNSAFE_CHARS.sub("\ufffd", text[:MAX_RESULT_CHARS]) + cut
