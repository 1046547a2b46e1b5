"""From a reply's text to a decision. Used by every testbed; knows options, not games."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_THINK = re.compile(r"<think>(.*?)(?:</think>|\Z)", re.DOTALL | re.IGNORECASE)
_EDGES = " \t\r\n\"'`*_.,;:!?()[]“”‘’"


@dataclass(frozen=True)
class Choice:
    """A parsed reply: the option as the testbed spells it, or None and the reason why there is none."""

    option: str | None
    reasoning: str
    invalid_reason: str | None = None


def split_reasoning(text: str) -> tuple[str, str]:
    """(answer, reasoning) of a reply. An unclosed <think> takes all that follows; a template may have opened it."""
    head, closed, tail = text.partition("</think>")
    if closed and "<think>" not in head.lower():
        text = f"<think>{head}</think>{tail}"
    reasoning = "\n".join(part.strip() for part in _THINK.findall(text))
    return _THINK.sub("", text).strip(), reasoning


def parse_choice(text: str, options: Sequence[str], key: str = "choice") -> Choice:
    """Read which option a reply chooses.

    The last JSON object whose `key` names an option wins. Without one, the same is looked for in a form that forgives
    quotes, case and punctuation (`choice: keep money`), and then the bare names of options in the text: exactly one must
    be named.
    """
    answer, reasoning = split_reasoning(text)
    known = {_plain(option): option for option in options}
    for value in reversed(list(_json_values(answer, key))):
        if isinstance(value, str) and _plain(value) in known:
            return Choice(known[_plain(value)], reasoning)
    loose = list(_loose_values(answer, key, known))
    if loose:
        return Choice(known[loose[-1]], reasoning)
    named = set(_named(answer, known))
    if len(named) == 1:
        return Choice(known[named.pop()], reasoning)
    if named:
        return Choice(None, reasoning, "several options named, none chosen")
    if not answer:
        return Choice(None, reasoning, "empty answer")
    return Choice(None, reasoning, "no known option named")


def _plain(text: str) -> str:
    return " ".join(text.casefold().strip(_EDGES).split())


def _json_values(text: str, key: str) -> Iterator[object]:
    """Values of `key` in the JSON objects of a text, in order."""
    decoder, start = json.JSONDecoder(), text.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = start + 1
        else:
            if isinstance(value, dict) and key in value:
                yield value[key]
        start = text.find("{", end)


def _loose_values(text: str, key: str, known: dict[str, str]) -> Iterator[str]:
    """Known options that follow `key` and a colon or equals sign, in order."""
    for match in re.finditer(rf"\b{re.escape(key)}\b[\s\"'`*_]*[:=]([^\n{{}}]*)", text, re.IGNORECASE):
        value = _plain(match.group(1))
        starts = [name for name in known if value == name or re.match(rf"{re.escape(name)}(?!\w)", value)]
        if starts:
            yield max(starts, key=len)


def _named(text: str, known: dict[str, str]) -> Iterator[str]:
    """Options named anywhere in a text; a name inside a longer option's name does not count."""
    plain = " ".join(text.casefold().split())
    for name in sorted(known, key=len, reverse=True):
        pattern = rf"(?<!\w){re.escape(name)}(?!\w)"
        if re.search(pattern, plain):
            yield name
            plain = re.sub(pattern, " ", plain)
