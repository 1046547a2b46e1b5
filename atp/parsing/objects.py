"""Find JSON objects in a text, also those that only resemble JSON: other quotes, bare words, trailing commas.

No library is used for the second kind. Those that repair JSON guess (json-repair reads 3 000 as 3, 12:30 as 12 and
-5 with a typographic minus as 5); JSON5 allows neither. Here a bare value is text, which a caller reads whole or not.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

#: JSON is searched in this many last characters of an answer, so that the time of a search is bounded.
MAX_SEARCHED_CHARS = 50_000
MAX_DEPTH = 5
#: Keys under which a model wraps the object that was asked for.
WRAPPERS = {"action", "answer", "decision", "final", "final_answer", "output", "proposal", "response", "result"}

_STRAIGHT = str.maketrans({**dict.fromkeys("“”„‟", '"'), **dict.fromkeys("‘’‚", "'")})
_SPACE = r"(?:\s|//[^\n]*|/\*[^*]*\*/)*+"
# A quote ends a string only where a key or value can end, so that strings may contain quotes and apostrophes.
_END = r"\s*(?:[,:}\]]|//|/\*)"
_STRING = "|".join(rf"{quote}((?:[^{quote}\\]|\\.|{quote}(?!{_END})){{0,2000}}+){quote}(?={_END})" for quote in "\"'")
_OPEN = re.compile(r"\{(?=\s*[\"'“‘\w$+.−-])")
_START = re.compile(rf"\{{{_SPACE}")
_KEY = re.compile(rf"(?:{_STRING}|([^\s\"'{{}}\[\],:]{{1,100}}))\s*:{_SPACE}", re.DOTALL)
# A comma belongs to a bare value where it separates thousands.
_VALUE = re.compile(
    rf"{_STRING}|((?:[^,{{}}\[\]\"\n]|(?<=\d),(?=\d{{3}}(?!\d))){{1,200}}+|\[[^\[\]{{}}]{{0,500}}\])", re.DOTALL
)
_NEXT = re.compile(rf"{_SPACE}(?:,{_SPACE}|(?=\}})|(?=[\"']))")


def find_objects(text: str) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Yield (start, end, object) of the outermost objects of a text, in order. Numbers are text as written.

    The time of all failed attempts together is bounded.
    """
    straight = text.translate(_STRAIGHT)
    budget = 4 * len(text) + 20_000
    opened = _OPEN.search(text)
    while opened and budget > 0:
        start = opened.start()
        try:
            value, end = _DECODER.raw_decode(text, start)
        except (json.JSONDecodeError, RecursionError) as error:
            budget -= error.pos - start + 100 if isinstance(error, json.JSONDecodeError) else len(text)
            lenient = _read_lenient(straight, start)
            if lenient is None:
                opened = _OPEN.search(text, start + 1)
                continue
            value, end = lenient
        yield start, end, value
        opened = _OPEN.search(text, end)


def value_of(found: dict[str, Any], keys: Sequence[str]) -> tuple[bool, Any, dict[str, Any]]:
    """Return whether an object has one of some keys in any case, the first one's value, and the object that has it.

    An object inside counts only under a key that wraps the whole answer.
    """
    folded = {key.casefold().strip(): value for key, value in found.items()}
    for key in map(str.casefold, keys):
        if key in folded and not (key in WRAPPERS and isinstance(folded[key], dict)):
            return True, folded[key], found
    inner = [folded[name] for name in folded if name in WRAPPERS and isinstance(folded[name], dict)]
    return value_of(inner[0], keys) if len(inner) == 1 else (False, None, {})


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; the value of a key that is repeated with another value is None."""
    values: dict[str, Any] = {}
    for key, value in pairs:
        values[key] = value if values.get(key, value) == value else None
    return values


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_int=str, parse_float=str, parse_constant=str, strict=False)


def _read_lenient(text: str, start: int, depth: int = 0) -> tuple[dict[str, Any], int] | None:
    """Return an object that resembles JSON and where it ends, or None."""
    pairs: list[tuple[str, Any]] = []
    opening = _START.match(text, start)
    offset = opening.end() if opening else start
    while not text.startswith("}", offset):
        key = _KEY.match(text, offset)
        if not key:
            return None
        value: Any
        if text.startswith("{", key.end()):
            inner = _read_lenient(text, key.end(), depth + 1) if depth < MAX_DEPTH else None
            if inner is None:
                return None
            value, offset = inner
        else:
            match = _VALUE.match(text, key.end())
            if not match:
                return None
            value, offset = _unescape(match), match.end()
        pairs.append((_unescape(key), value))
        following = _NEXT.match(text, offset)
        if not following:
            return None
        offset = following.end()
    return (_unique(pairs), offset + 1) if pairs else None


def _unescape(match: re.Match[str]) -> str:
    quoted = match[1] if match[1] is not None else match[2]
    return re.sub(r"\\([\"'\\/])", r"\1", quoted) if quoted is not None else match[3].strip()
