"""Short conversations that show what a chat template does, and what is read off them. `atp.models.chat` uses them."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from atp.parsing.families import CALL_CLOSE, CALL_OPEN, call_block
from atp.parsing.replies import opened_thought, thought_block
from atp.parsing.tool_calls import ParsedCall
from atp.testbed import Message
from atp.tools import TOOLS

MARK = re.compile(r"<[^<>\s][^<>\n]{0,60}>|\[/?[A-Z_]{2,30}\]|\[\|[^\[\]\n]{1,40}\|\]")
#: The words before a content in templates without marks, such as "### User:".
HEADER = re.compile(r"(?:^|[\n>\]])([#\w][#\w ]{1,30}:)\s*\Z")
JSON_CALL = re.compile(r"<tool_call>\s*\{")
#: What templates of hybrid models write before a reply without a thought.
EMPTY_THOUGHT = re.compile(r"\A<think>\s*</think>\s*")

# The conversation that is rendered to find out what a template does. The argument has what formats get wrong.
PROBE_SYSTEM, PROBE_USER, PROBE_ASSISTANT, PROBE_NEXT = "Probesystem", "Probeuser", "Probeassistant", "Probenext"
PROBE_THOUGHT, PROBE_BEFORE, REPLY_END = "Probethought", "Probebefore", "(end of reply)"
PROBE = [
    {"role": "system", "content": PROBE_SYSTEM},
    {"role": "user", "content": PROBE_USER},
    {"role": "assistant", "content": PROBE_ASSISTANT},
    {"role": "user", "content": PROBE_NEXT},
]
PROBE_TOOL, PROBE_ARGUMENTS, PROBE_RESULTS = (
    "calculator",
    ('probe("a,b")\n17 * {3}', "probe + 4"),
    ("Proberesult", "Probevalue"),
)


@dataclass(frozen=True)
class ToolForm:
    """How a chat template takes tool calls.

    Args:
        native: it takes tools, calls and results. Without it, messages describe them.
        verbatim: a reply's text is what it writes for the reply, so that replies of the model stay as they are.
        one_by_one: a message may have only one call.
        as_text: a call's arguments are JSON text, not an object.
        words_as_thought: the words before a call are given as a thought, otherwise it would move them.
    """

    native: bool = True
    verbatim: bool = False
    one_by_one: bool = False
    as_text: bool = False
    words_as_thought: bool = False


def common_end(last: str, middle: str) -> str:
    """Return the text that ends a reply: the marks behind the last one that are also behind one in the middle.

    Phi-3's template writes another mark at the end of all, gpt-oss another one in place of the usual.
    """
    ends = [last[: mark.end()] for mark in MARK.finditer(last) if middle.startswith(last[: mark.end()])]
    return ends[-1].strip() if ends else last.strip()


def stored_part(field: str, value: Any, closed: bool) -> str:
    """Return a part of a reply that the response template has read as it is stored."""
    if field != "tool_calls":
        return str(value)
    arguments = json.dumps(value["function"]["arguments"], ensure_ascii=False)
    return call_block(str(value["function"]["name"]), arguments, closed)


def outside_calls(answer: str, calls: Sequence[ParsedCall]) -> str:
    """Return an answer's text before, between and after its calls."""
    if CALL_OPEN in answer:
        return re.sub(rf"{CALL_OPEN}.*?(?:{CALL_CLOSE}|\Z)", "", answer, flags=re.DOTALL).strip()
    return answer[: calls[0].start].strip() if calls else answer


def closing_thought(prompt: str, answer: str) -> str:
    """Return a reply that closes the thought that its prompt opens."""
    return thought_block(PROBE_THOUGHT) + answer if opened_thought(prompt) else answer


def calling_reply(arguments: Sequence[str], tool: str = PROBE_TOOL) -> Message:
    """Return a reply that calls a tool with each argument."""
    key = TOOLS[tool].argument
    blocks = [call_block(tool, json.dumps({key: argument}, ensure_ascii=False)) for argument in arguments]
    return {"role": "assistant", "content": "\n".join(blocks)}


def probe_results() -> list[Message]:
    return [{"role": "tool", "content": result} for result in PROBE_RESULTS]


def argument_names(tools: Iterable[str]) -> dict[str, str]:
    """Return the name of each tool's argument."""
    return {name: TOOLS[name].argument for name in tools}


def in_order(text: str, words: Sequence[str]) -> bool:
    places = [text.find(word) for word in words]
    return -1 not in places and places == sorted(places)


def special_tokens(tokenizer: Any) -> list[str]:
    """Return the special tokens' texts, those without a name of their own included."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return [text for text in [*tokenizer.all_special_tokens, *added] if text.strip()]


def template_marks(text: str) -> set[str]:
    """Return the marks that a template writes around the contents of a rendered probe."""
    words = (PROBE_SYSTEM, PROBE_USER, PROBE_ASSISTANT, PROBE_NEXT, *PROBE_RESULTS)
    pieces = re.split("|".join(words), text)
    headers = {header.group(1) for piece in pieces if (header := HEADER.search(piece))}
    return headers.union(*(MARK.findall(piece) for piece in pieces))


def any_of(marks: set[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(marks, key=lambda mark: (-len(mark), mark)))) or r"(?!)")


def spaced(mark: re.Match[str]) -> str:
    return f"{mark.group()[:1]} {mark.group()[1:]}"


def add_response_template(tokenizer: Any) -> None:
    """Give a tokenizer the response template that TRL knows for its chat template, unless it has one."""
    package = find_spec("trl")
    if getattr(tokenizer, "response_template", None) is not None or package is None or package.origin is None:
        return
    # TRL compares with these files; importing it takes seconds.
    files = (Path(package.origin).parent / "chat_templates").glob("*.jinja")
    if any(tokenizer.chat_template == file.read_text(encoding="utf-8") for file in files):
        from trl.chat_template_utils import add_response_schema

        try:
            add_response_schema(tokenizer)
        except ValueError:
            return  # a template of TRL's without one
