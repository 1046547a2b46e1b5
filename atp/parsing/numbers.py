"""Read numbers whole or not at all, and the number that a reply states for a key."""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from atp.parsing.choices import CUT_OFF, invalid_reply
from atp.parsing.labels import fold
from atp.parsing.replies import Parts, split_reply
from atp.parsing.statements import Grammar, find_statement
from atp.testbed import Reply

_CURRENCY = r"(?:[$€£¥₹₽₩]|(?:usd|eur|gbp)\s)"
_UNITS = r"cents?|dollars?|euros?|pounds?|coins?|points?|usd|eur|gbp|[$€£¥₹₽₩]"
_DIGITS = r"\d{1,300}(?:\.\d{0,300})?|\.\d{1,300}"
# Thousands are groups of three digits after a first digit that is not 0; 1,25 and 1.250,00 are ambiguous.
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)\s?{_CURRENCY}?\s?(?P<late_sign>[+-]?)(?:"
    r"(?P<grouped>[1-9]\d{0,2}(?:(?:,\d{3})+|(?: \d{3})+|(?:'\d{3})+|(?:_\d{3})+)(?:\.\d+)?)"
    rf"|(?:(?P<whole>\d{{1,15}})\s+)?(?P<top>\d{{1,15}})\s?/\s?(?P<bottom>\d{{1,15}})"
    rf"|(?P<plain>(?:{_DIGITS})(?:e[+-]?\d{{1,3}})?)"
    r")\s*(?P<unit>.*)"
)
#: Most numbers; reading them is fast.
_PLAIN = re.compile(r"-?[0-9]{1,15}(?:\.[0-9]{1,15})?")
_RAISED = re.compile("[²³¹⁰⁴-⁹]+")
_VULGAR = re.compile("[¼-¾⅐-⅞]")
#: What looks like a number in a sentence, including what makes it another one: ranges, clock times, dates, powers.
_RUN = (
    rf"(?<![\w.])(?:[+-]\s?)?{_CURRENCY}?[+-]?\.?\d"
    r"(?:[\d./:^%*×x+–_'e-]|,(?=\d)| (?=\d{3}(?!\d))| (?=\d+/\d)| ?[-/] ?(?=\d))*+"
)
#: What makes a number in a sentence a difference: "5 cents over the fare".
_CHANGE = r"(?P<change>(?: (?:over|above|below|beyond|more|less|higher|lower|extra)|,? on top)\b)?"
_NOUNS = r"(?<=my )value|value(?!\W+(?:is|remains|stays)\b)|proposed value|proposal|offer|bid"
_FILLERS = r"(?: (?:a|an|the|of|at|new|value|cap|fare|rent|price|fee|limit|amount|figure|level))*"
_VERBS = (
    rf"(?:(?:propose|proposing|suggest|offer|bid|choose|go with|put forward|settle on){_FILLERS}"
    r"|(?:(?:propose|suggest) (?:that we |we |to )?)?(?:raise|raising|lower|lowering|move|moving|set|setting|"
    r"keep|keeping|increase"
    r"|increasing|reduce|reducing)(?: (?:it|the \w+(?: \w+)?))?(?: from [\ue000-\uf8ff])?(?: (?:up|"
    r"down))? (?:to|at))\s*:?\s+"
)


def read_number(value: Any, unit: str = "") -> float | None:
    """Return the finite number that a text or number states, or None.

    Thousands in groups (1,250; 3 000), fractions (1/2, 2 1/2, ½), signs of any typography, a currency before and a unit
    behind are read; percentages, ranges, clock times, decimal commas and numbers with other words are not.

    Args:
        unit: a unit that may stand behind the number, in addition to common currencies.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return float(value)
    text = _VULGAR.sub(
        lambda match: " " + unicodedata.normalize("NFKC", match[0]), _RAISED.sub("^", str(value)[:1_000])
    )
    match = _NUMBER.fullmatch(fold(text).replace("⁄", "/").strip(" \t\r\n\"'"))
    if not match or (match["sign"] and match["late_sign"]) or not _is_unit(match["unit"], unit):
        return None
    if match["top"]:
        bottom = int(match["bottom"])
        number = int(match["whole"] or 0) + int(match["top"]) / bottom if bottom else float("inf")
    else:
        number = float(re.sub(r"[,'_ ]", "", match["grouped"] or match["plain"]))
    number = -number if "-" in match["sign"] + match["late_sign"] else number
    return number if abs(number) < float("inf") else None


def _is_unit(text: str, unit: str) -> bool:
    text = text.strip()
    return not text or bool(re.fullmatch(_UNITS, text)) or text == fold(unit)


@dataclass(frozen=True)
class Number:
    """A parsed reply: the number that it states, or None and the reason for its absence.

    `fields` are those of the JSON object that states the number.
    """

    value: float | None
    reasoning: str
    invalid_reason: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)


def parse_number(reply: Reply | str, key: str, unit: str = "") -> Number:
    """Return the number that a reply states for a key, by the rules of `parse_choice`."""
    parts = split_reply(reply)
    reason = invalid_reply(reply)
    return Number(None, parts.reasoning, reason) if reason else _parse_number(parts, key, unit)


@lru_cache(maxsize=4096)
def _parse_number(parts: Parts, key: str, unit: str) -> Number:
    numbers: dict[float, int] = {}

    def read(value: Any) -> int | None:
        number = read_number(value, unit)
        return None if number is None else numbers.setdefault(number, len(numbers))

    def find(text: str) -> Iterator[tuple[int, int, int | None]]:
        for match in run.finditer(text):
            written = match["number"].rstrip(" .,:'-")
            number = None if match["change"] else read(written + (match["unit"] or ""))
            yield match.start(), match.end() if match["unit"] else match.start() + len(written), number

    names = "|".join([*filter(None, [re.escape(fold(unit))]), _UNITS, "percent|per cent"])
    run = re.compile(rf"(?P<number>{_RUN})(?P<unit>\s?(?:{names})(?!\w))?(?={_CHANGE})")
    grammar = Grammar((key, "proposal", "offer"), _NOUNS, _VERBS, alone=False)
    stated = find_statement(parts.answer, grammar, find, read, parts.cut_off)
    if stated.value is not None:
        return Number(list(numbers)[stated.value], parts.reasoning, None, stated.container)
    reason = f"{key} is no number" if stated.explicit else f"no {key} given"
    return Number(None, parts.reasoning, CUT_OFF if parts.cut_off else reason, stated.container)
