"""Split a reply into its reasoning and its answer, with tool calls in one form, whatever marks a model family writes.

A local model's reply is split by its tokenizer's response template where it has one (`atp.models.chat`). This module
reads text alone: replies of servers, of other models, and of agents that users bring.
"""

import re
from functools import lru_cache
from typing import NamedTuple

from atp.parsing.families import unify_calls, unify_channels
from atp.testbed import Reply

#: Opening and closing marks of a thought, in lower case.
THOUGHT_MARKS = {
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",
    "<reasoning>": "</reasoning>",
    "<seed:think>": "</seed:think>",
    "[think]": "[/think]",  # Mistral
    "<|start_thinking|>": "<|end_thinking|>",  # Cohere
    "<|inner_prefix|>": "<|inner_suffix|>",  # Apertus
    "<|begin_of_thought|>": "<|end_of_thought|>",
    "◁think▷": "◁/think▷",  # Kimi
    "<|channel>thought": "<channel|>",  # Gemma 4
    "<unused94>thought": "<unused95>",  # MedGemma
    "here is my thought process:": "here is my response:",  # Granite 3
}
_OPENING = re.compile("|".join(map(re.escape, THOUGHT_MARKS)), re.IGNORECASE)
_CLOSING = re.compile("|".join(map(re.escape, THOUGHT_MARKS.values())), re.IGNORECASE)
_CLOSING_OF = {mark: re.compile(re.escape(end), re.IGNORECASE) for mark, end in THOUGHT_MARKS.items()}
_OPEN_AT_END = re.compile(rf"(?:{_OPENING.pattern})\s*\Z", re.IGNORECASE)
#: A tag of any other name around the beginning of a reply, unless it marks an answer, a call or layout.
_OTHER_THOUGHT = re.compile(
    r"\A\s*<(?!\w*(?:answer|choice|decision|final|response|reply|output|result|value|verdict|proposal|json|call|tool"
    r"|function|invoke|action|python)|(?:p|b|i|u|s|q|h\d|em|strong|div|span|code|pre|html|body|center|font|mark|small|big"
    r"|ul|ol|li|table|tr|td|details|section|article|main|blockquote)\b)"
    r"(?P<tag>[a-z]\w{1,40})>(?P<thought>.*?)</(?P=tag)>",
    re.DOTALL | re.IGNORECASE,
)


class Parts(NamedTuple):
    """A reply's parts. `cut_off` means that the text ended because of a length limit."""

    answer: str
    reasoning: str
    cut_off: bool


def split_reply(reply: Reply | str) -> Parts:
    """Return the parts of a reply. A bare text counts as complete."""
    if isinstance(reply, str):
        return Parts(*split_reasoning(reply), cut_off=False)
    return Parts(*split_reasoning(reply.text), cut_off=reply.finish_reason == "length")


@lru_cache(maxsize=4096)  # scripted agents, and many models, repeat the same replies
def split_reasoning(text: str) -> tuple[str, str]:
    """Return a reply's answer and its reasoning.

    An unclosed thought takes all that follows. A thought that only closes was opened by the prompt. Tool calls of all
    known families are written in the answer as `<tool_call>` around JSON.
    """
    text = _OTHER_THOUGHT.sub(r"<think>\g<thought></think>", unify_channels(text))
    opening, closing = _OPENING.search(text), _CLOSING.search(text)
    if closing and not (opening and opening.start() < closing.start()):
        text = next(mark for mark, end in THOUGHT_MARKS.items() if end == closing.group().lower()) + text
    answer, thoughts, offset = [], [], 0
    while opening := _OPENING.search(text, offset):
        end = _CLOSING_OF[opening.group().lower()].search(text, opening.end())
        answer.append(text[offset : opening.start()])
        thoughts.append(text[opening.end() : end.start() if end else len(text)].strip())
        offset = end.end() if end else len(text)
    answer.append(text[offset:])
    return unify_calls("".join(answer)).strip(), "\n".join(thoughts)


def opened_thought(prompt: str) -> str:
    """Return the mark with which a prompt's end opens the reply's thought, or an empty string."""
    opened = _OPEN_AT_END.search(prompt)
    return opened.group().strip() if opened else ""


def opening_mark(text: str) -> str:
    """Return the mark with which a text begins a thought, or an empty string."""
    opening = _OPENING.match(text.lstrip())
    return opening.group() if opening else ""


def find_answer(text: str) -> int:
    """Return the index at which a reply's answer begins: behind its last thought, or its end inside an open one."""
    closing = max((match.end() for match in _CLOSING.finditer(text)), default=0)
    opening = _OPENING.search(text, closing)
    return len(text) if opening and not closing and opening_mark(text) else closing


def closes_thought(text: str) -> bool:
    """Return whether a text has a closing mark of a thought."""
    return bool(_CLOSING.search(text))


def thought_block(reasoning: str) -> str:
    """Return reasoning as the beginning of a reply, or an empty string if there is none."""
    return f"<think>\n{reasoning.strip()}\n</think>\n\n" if reasoning.strip() else ""
