"""From a reply's text to a decision. Used by every testbed; knows options, not games."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

#: JSON is looked for in this many last characters of an answer: what precedes them costs the decoder's complaints.
MAX_SEARCHED_CHARS = 50_000

_THINK = re.compile(r"<think>(.*?)(?:</think>|\Z)", re.DOTALL | re.IGNORECASE)
_OPEN = re.compile(r"\{(?=\s*\")")
_FLAT = re.compile(r"\{[^{}]*\}")
#: What stands between alternatives that are listed, not chosen.
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
    """A parsed reply: the option as the testbed spells it, or None and the reason why there is none."""

    option: str | None
    reasoning: str
    invalid_reason: str | None = None


@dataclass(frozen=True)
class _Named:
    """An option named at text[start:end], by its plain form."""

    start: int
    end: int
    option: str


def split_reasoning(text: str) -> tuple[str, str]:
    """(answer, reasoning) of a reply. An unclosed <think> takes all that follows; a template may have opened it."""
    closing = re.search("</think>", text, re.IGNORECASE)
    if closing and "<think>" not in text[: closing.start()].lower():
        text = f"<think>{text}"
    reasoning = "\n".join(part.strip() for part in _THINK.findall(text))
    return _THINK.sub("", text).strip(), reasoning


def parse_choice(text: str, options: Sequence[str], key: str = "choice") -> Choice:
    """Read which option a reply chooses.

    The last JSON object whose `key` names an option wins. Without one, the same is looked for in a form that forgives
    quotes, case and punctuation (`choice: keep money`), and then the bare names of options in the text: exactly one
    must be named. Different options joined by "or" or "and" are a list of what there is, as in the question's own
    `{"choice": "A"} or {"choice": "B"}`, and choose nothing.
    """
    return _parse_choice(text, tuple(options), key)


@lru_cache(maxsize=4096)  # scripted agents, and many models, say the same again and again
def _parse_choice(text: str, options: tuple[str, ...], key: str) -> Choice:
    answer, reasoning = split_reasoning(text)
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


def last_object(text: str, key: str) -> tuple[dict[str, object], str]:
    """(the last JSON object of a reply's answer that holds `key`, reasoning); an empty object where none does.

    Whole numbers are left as text: `read_number` reads them.
    """
    answer, reasoning = split_reasoning(text)
    holding = [value for _, _, value in _objects(answer[-MAX_SEARCHED_CHARS:]) if key in value]
    return (holding[-1] if holding else {}), reasoning


def loose_number(text: str, key: str) -> float | None:
    """The number that a reply's answer gives to `key` in a form that forgives quotes and case; None if it gives several
    different ones, or none.
    """
    answer, _ = split_reasoning(text)
    pattern = rf"\b{re.escape(key)}[\s\"'`*_]*[:=][\s\"'`*_]*(-?\d{{1,15}}(?:\.\d{{1,15}})?)(?![\w.])"
    found = {float(number) for number in re.findall(pattern, answer[-MAX_SEARCHED_CHARS:], re.IGNORECASE)}
    return found.pop() if len(found) == 1 else None


def read_number(value: object) -> float | None:
    """The finite number that a value of a parsed object, or a key, states; None if it states none."""
    if not isinstance(value, str | float):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if abs(number) < float("inf") else None


def _unlisted(found: Iterator[_Named], text: str) -> list[_Named]:
    """What was named without those that stand in a list of different options."""
    kept: list[_Named] = []
    run: list[_Named] = []
    for named in found:
        if run and not _OR.fullmatch(text, run[-1].end, named.start):
            kept += run if len({each.option for each in run}) == 1 else []
            run = []
        run.append(named)
    return kept + (run if len({each.option for each in run}) == 1 else [])


def _json_choices(text: str, key: str, known: dict[str, str]) -> Iterator[_Named]:
    """Known options as the value of `key` in JSON objects, in order."""
    for start, end, value in _objects(text):
        named = value.get(key)
        if isinstance(named, str) and normalise(named) in known:
            yield _Named(start, end, normalise(named))


def _objects(text: str) -> Iterator[tuple[int, int, dict[str, object]]]:
    """(start, end, value) of the JSON objects of a text, in order, in time that grows with its length alone.

    Of nested objects the outermost counts. Where one breaks off, those complete inside it count, and the search goes on
    at the break: whatever was open there would break at the same place.
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
    """Known options that follow `key` and a colon or equals sign, in order."""
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
    """Options named anywhere in a text; a name inside a longer option's name does not count."""
    for name in sorted(known, key=len, reverse=True):
        pattern = rf"(?<!\w){_pattern(name)}(?!\w)"
        if re.search(pattern, text):
            yield name
            text = re.sub(pattern, " ", text)
