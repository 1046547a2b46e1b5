"""Read a decision from a reply: which of several options it states."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from atp.parsing.labels import normalise
from atp.parsing.objects import MAX_SEARCHED_CHARS, find_objects, value_of
from atp.parsing.replies import Parts, split_reply
from atp.parsing.statements import Grammar, find_statement
from atp.testbed import Reply

CUT_OFF, FILTERED, EMPTY = "cut off", "stopped by a content filter", "empty answer"

_NOUNS = "choice|decision|answer|selection|pick|result"
# A label may be a verb itself: "I will keep money".
_VERBS = (
    r"(?:(?:(?:choose|decide|decided|commit|opt|chosen) to )?"
    r"(?:choose|choosing|chosen|pick|picking|select|selecting|take|taking|(?:go|going|gone) (?:with|for)|"
    r"(?:opt|opting) for"
    r"|(?:decide|deciding|decided) (?:on|for)|(?:settle|settling) (?:on|for)|(?:stick|sticking|keep|"
    r"keeping) (?:with|to)"
    r"|stay(?:ing)? with|use|using|follow|following|vote for|commit to|answer|(?:buy|order) from|work with|"
    r"hire|cross(?:ing)?|adopt"
    r"|do|drive(?: (?:on|along|via|over))?|stay on|(?:choose|decide|decided|chosen|choosing) to)\s*:?\s+)?"
)


def answer_format(*options: str) -> str:
    """Return the sentence that ends a question of several options: the answers that count."""
    *before, last = (f'{{"choice": "{option}"}}' for option in options)
    return f"End with your decision as JSON: {', '.join(before)} or {last}."


@dataclass(frozen=True)
class Choice:
    """A parsed reply: the option as the testbed spells it, or None and the reason for its absence.

    `explicit` is whether the reply states it as JSON with the key, or as `key: option`, instead of in a plain sentence.
    """

    option: str | None
    reasoning: str
    invalid_reason: str | None = None
    explicit: bool = False


def invalid_reply(reply: Reply | str) -> str | None:
    """Return why a reply's answer can state nothing, or None."""
    if not isinstance(reply, str) and reply.finish_reason == "content_filter":
        return FILTERED
    return None if split_reply(reply).answer else EMPTY


def parse_choice(reply: Reply | str, options: Sequence[str], key: str = "choice") -> Choice:
    """Return the option that a reply states.

    The last JSON object with `key`, or `choice: keep money`, decides, also if it names no option. Without one, a plain
    sentence such as "I choose Lift A" counts, and an option that stands alone. Different options joined by "or" or
    "and" are a list of alternatives, as in the question's own `{"choice": "A"} or {"choice": "B"}`, and no choice. A
    reply that was cut off counts only if such an object, or a line with the key, is complete.
    """
    parts = split_reply(reply)
    reason = invalid_reply(reply)
    return Choice(None, parts.reasoning, reason) if reason else _parse_choice(parts, tuple(options), key)


@lru_cache(maxsize=4096)  # scripted agents, and many models, repeat the same replies
def _parse_choice(parts: Parts, options: tuple[str, ...], key: str) -> Choice:
    known = {label: number for number, option in enumerate(options) if (label := normalise(option))}

    def read(value: Any) -> int | None:
        return known.get(normalise(value)) if isinstance(value, str) else None

    def find(text: str) -> Iterator[tuple[int, int, int | None]]:
        for match in pattern.finditer(text):
            yield match.start(), match.end(), known[normalise(match[0])]

    names = "|".join(
        r"\s+(?:the\s+)?".join(map(re.escape, label.split())) for label in sorted(known, key=len, reverse=True)
    )
    pattern = re.compile(rf"(?<![\w-])(?<!\w')(?:the\s+)?(?:{names or '(?!)'})(?![\w-])(?!'\w)")
    grammar = Grammar(
        (key, "choice", "decision", "answer", "selection"), f"{re.escape(key)}|{_NOUNS}", _VERBS, alone=True
    )
    stated = find_statement(parts.answer, grammar, find, read, parts.cut_off)
    if stated.value is not None:
        return Choice(options[stated.value], parts.reasoning, explicit=stated.explicit)
    reason = "several options named, none chosen" if stated.mentioned > 1 else "no known option named"
    if stated.mentioned == 1 and not stated.explicit:
        reason = "an option named, none chosen"
    return Choice(None, parts.reasoning, CUT_OFF if parts.cut_off else reason)


def last_object(reply: Reply | str, key: str) -> tuple[dict[str, Any], str]:
    """Return the last JSON object with a key in a reply's answer, or an empty one, and the reasoning.

    Numbers are left as text: `atp.parsing.numbers.read_number` reads them.
    """
    parts = split_reply(reply)
    answer = "" if invalid_reply(reply) else parts.answer[-MAX_SEARCHED_CHARS:]
    containers = [value_of(found, (key,))[2] for _, _, found in find_objects(answer)]
    return next((container for container in reversed(containers) if container), {}), parts.reasoning
