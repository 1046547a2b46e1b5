"""Read a decision from a reply: which of several options it chooses, or the JSON object that it contains."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from atp.parsing.replies import Parts, split_reply
from atp.testbed import Reply

#: JSON is searched in this many last characters of an answer, so that the time of a search is bounded.
MAX_SEARCHED_CHARS = 50_000

_OPEN = re.compile(r"\{(?=\s*\")")
_FLAT = re.compile(r"\{[^{}]*\}")
#: Text between alternatives that are listed, not chosen.
_OR = re.compile(r"[\s\"'`*_.,;:{}()\[\]]*(?:\b(?:or|and|vs)\b|/|\|)[\s\"'`*_.,;:{}()\[\]]*", re.IGNORECASE)


_EDGES = " \t\r\n\"'`*_.,;:!?()[]“”‘’"


def normalise(text: str) -> str:
    """Return a label or answer without case, outer quotes and punctuation, and repeated spaces, for comparison."""
    return " ".join(text.casefold().split()).strip(_EDGES)


def same_label(one: str, other: str) -> bool:
    """Return whether a reply that names one of two labels could also mean the other."""
    return normalise(one) == normalise(other)


def answer_format(*options: str) -> str:
    """Return the sentence that ends a question of several options: the answers that count."""
    *before, last = (f'{{"choice": "{option}"}}' for option in options)
    return f"End with your decision as JSON: {', '.join(before)} or {last}."


@dataclass(frozen=True)
class Choice:
    """A parsed reply: the option as the testbed spells it, or None and the reason for its absence."""

    option: str | None
    reasoning: str
    invalid_reason: str | None = None


@dataclass(frozen=True)
class _Named:
    """An option named at text[start:end], normalised."""

    start: int
    end: int
    option: str


def parse_choice(reply: Reply | str, options: Sequence[str], key: str = "choice") -> Choice:
    """Return the option that a reply chooses.

    The last JSON object whose `key` names an option wins. Without one, the last `choice: keep money` does, in any
    quotes, case and punctuation. Without that, the text must name exactly one option. Different options joined by "or"
    or "and" are a list of alternatives, as in the question's own `{"choice": "A"} or {"choice": "B"}`, and no choice.
    """
    return _parse_choice(split_reply(reply), tuple(options), key)


@lru_cache(maxsize=4096)  # scripted agents, and many models, repeat the same replies
def _parse_choice(parts: Parts, options: tuple[str, ...], key: str) -> Choice:
    answer, reasoning, _ = parts
    known = {normalise(option): option for option in options}
    folded = answer.casefold()
    tail = answer[-MAX_SEARCHED_CHARS:]
    chosen = _unlisted(_json_choices(tail, key, known), tail) or _unlisted(_loose_choices(folded, key, known), folded)
    if chosen:
        return Choice(known[chosen[-1].option], reasoning)
    named = set(_mentioned(folded, known))
    if len(named) == 1:
        return Choice(known[named.pop()], reasoning)
    if named:
        return Choice(None, reasoning, "several options named, none chosen")
    if not answer:
        return Choice(None, reasoning, "empty answer")
    return Choice(None, reasoning, "no known option named")


def last_object(reply: Reply | str, key: str) -> tuple[dict[str, object], str]:
    """Return the last JSON object with a key in a reply's answer, or an empty one, and the reasoning.

    Whole numbers are left as text: `read_number` reads them.
    """
    answer, reasoning, _ = split_reply(reply)
    objects = [value for _, _, value in _objects(answer[-MAX_SEARCHED_CHARS:]) if key in value]
    return (objects[-1] if objects else {}), reasoning


def loose_number(reply: Reply | str, key: str) -> float | None:
    """Return the number after `key:` or `key =` in a reply's answer; None if there are several different ones, or none.

    Quotes and case are ignored.
    """
    answer, _, _ = split_reply(reply)
    pattern = rf"\b{re.escape(key)}[\s\"'`*_]*[:=][\s\"'`*_]*(-?\d{{1,15}}(?:\.\d{{1,15}})?)(?![\w.])"
    numbers = {float(number) for number in re.findall(pattern, answer[-MAX_SEARCHED_CHARS:], re.IGNORECASE)}
    return numbers.pop() if len(numbers) == 1 else None


def read_number(value: object) -> float | None:
    """Return the finite number of a parsed object's value or key; None if it is none."""
    if not isinstance(value, str | float):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if abs(number) < float("inf") else None


def _unlisted(mentions: Iterator[_Named], text: str) -> list[_Named]:
    """Return the mentions that are not part of a list of different options."""
    single: list[_Named] = []
    run: list[_Named] = []
    for named in mentions:
        if run and not _OR.fullmatch(text, run[-1].end, named.start):
            single += run if len({each.option for each in run}) == 1 else []
            run = []
        run.append(named)
    return single + (run if len({each.option for each in run}) == 1 else [])


def _json_choices(text: str, key: str, known: dict[str, str]) -> Iterator[_Named]:
    """Yield the known options that are the value of `key` in JSON objects, in order."""
    for start, end, value in _objects(text):
        named = value.get(key)
        if isinstance(named, str) and normalise(named) in known:
            yield _Named(start, end, normalise(named))


def _objects(text: str) -> Iterator[tuple[int, int, dict[str, object]]]:
    """Yield (start, end, value) of the JSON objects of a text, in order, in time linear in its length.

    Of nested objects the outermost counts. Where one is malformed, the complete ones inside it count, and the search
    continues at the error, where every object that is open there would fail too.
    """
    inner: list[dict[str, object]] = []

    def keep(value: dict[str, object]) -> dict[str, object]:
        inner.append(value)
        return value

    decoder = json.JSONDecoder(object_hook=keep, parse_int=str, strict=False)
    opened = _OPEN.search(text)
    while opened:
        start = opened.start()
        inner.clear()
        try:
            value, end = decoder.raw_decode(text, start)
        except json.JSONDecodeError as error:
            end = max(error.pos, start + 1)
            yield from ((start, end, each) for each in inner)
            # The last string may have begun at a quote that closed another: {"a": "not closed. {"choice": "A"}
            quote = text.rfind('"', start, end)
            brace = text.rfind("{", start + 1, max(quote, start + 1))
            if brace >= 0 and not text[brace + 1 : quote].strip():
                end = brace
        except RecursionError:
            yield from ((match.start(), match.end(), each) for match, each in _flat_objects(text, start + 1))
            return
        else:
            yield start, end, value
        opened = _OPEN.search(text, end)


def _flat_objects(text: str, start: int) -> Iterator[tuple[re.Match[str], dict[str, object]]]:
    for match in _FLAT.finditer(text, start):
        try:
            yield match, json.loads(match.group(), parse_int=str, strict=False)
        except (ValueError, RecursionError):
            continue


def _loose_choices(text: str, key: str, known: dict[str, str]) -> Iterator[_Named]:
    """Yield the known options after `key` and a colon or equals sign, in order."""
    names = "|".join(_pattern(name) for name in sorted(known, key=len, reverse=True))
    value = re.compile(rf"[\s\"'`*_(\[]*({names})(?!\w)")
    for match in re.finditer(rf"\b{re.escape(key)}[\s\"'`*_]*[:=]", text):
        first = value.match(text, match.end())
        if not first:
            continue
        yield _Named(match.start(), first.end(), normalise(first.group(1)))
        joined = _OR.match(text, first.end())
        second = joined and value.match(text, joined.end())
        if second:
            yield _Named(second.start(), second.end(), normalise(second.group(1)))


def _pattern(name: str) -> str:
    return r"\s+".join(map(re.escape, name.split()))


def _mentioned(text: str, known: dict[str, str]) -> Iterator[str]:
    """Yield the options named anywhere in a text; a name inside a longer option's name does not count."""
    for name in sorted(known, key=len, reverse=True):
        pattern = rf"(?<!\w){_pattern(name)}(?!\w)"
        if re.search(pattern, text):
            yield name
            text = re.sub(pattern, " ", text)
