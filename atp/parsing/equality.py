"""Compare a given answer with the expected one, for mathematics problems.

`atp.parsing.expressions` compares mathematics with math-verify. This module does what math-verify lacks: it keeps
units apart, which math-verify removes or reads as products of letters, compares decimals exactly, which math-verify
rounds, and reads typographic characters, digits in groups, mixed numbers and repeating decimals. Most answers are
numbers or words, for which no process has to be asked.
"""

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, lru_cache
from typing import Any

from atp.parsing import expressions

#: Maximum length of an answer in characters; longer text counts as no answer.
MAX_ANSWER_CHARS = 1_000

#: Typographic characters that Unicode's compatibility form leaves as they are.
_CHARACTERS = str.maketrans(
    dict.fromkeys("‐‒–−", "-")
    | {"×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "÷": "/", "⁄": "/", "∕": "/", "π": r"\pi "}
    | {"∞": r"\infty ", "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ", "∪": r"\cup "}
    | {"∩": r"\cap ", "±": r"\pm ", "∅": r"\emptyset ", "∈": r"\in ", "~": " ", "’": "'", "\u200b": "", "\ufeff": ""}
)
#: (pattern, replacement) that give equivalent LaTeX one spelling. "¤" is a literal dollar sign, not a delimiter.
_SPELLINGS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\\$", "¤"),
        (r"\\%", "%"),
        (r"(?<!\\)\\!|\\(?:left|right|displaystyle|limits)(?![A-Za-z])", ""),
        (r"(?<!\\)\\[,;: ]|\\(?:q?quad|thinspace)(?![A-Za-z])", " "),
        (r"\{([,'])\}", r"\1"),
        (r"\\(?:[dtc]|nice|s)frac(?![A-Za-z])", r"\\frac"),
        (r"\{([^{}]*)\\over(?![A-Za-z])([^{}]*)\}|^([^{}\\]*)\\over(?![A-Za-z])([^{}\\]*)$", r"\\frac{\1\3}{\2\4}"),
        (r"\\frac ?([0-9])(?=[ {0-9A-Za-z\\])", r"\\frac{\1}"),
        (r"(\\frac ?\{[^{}]*\}) ?([0-9A-Za-z])", r"\1{\2}"),
        (r"\\p?mod ?\{ ?([0-9A-Za-z]+) ?\}|\\pmod ?([0-9A-Za-z])", r" (mod \1\2)"),
        (r"\\leq?(?:slant|q)?(?![A-Za-z])", r"\\le"),
        (r"\\geq?(?:slant|q)?(?![A-Za-z])", r"\\ge"),
        (r"\\neq?(?![A-Za-z])", r"\\ne"),
        (r"\\varnothing(?![A-Za-z])|\\\{ ?\\\}", r"\\emptyset"),
        (r" ?\^ ?\{ ?\\circ ?\}| ?\^ ?\\circ(?![A-Za-z])|\\degree(?![A-Za-z])", "°"),
        (r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname) ?\{([^{}]*)\}", r" \1"),
        (r"\*\*", "^"),
        (r"√ ?([0-9A-Za-z])(?![0-9])", r"\\sqrt{\1}"),
        (r"√ ?([0-9]+)", r"\\sqrt{\1}"),
        (r"√ ?\(", r"\\sqrt("),
        (r"\^ ?\(([^()]{1,12})\)", r"^{\1}"),
        (r"\^ ?([+-] ?[0-9]+|[0-9]{2,})", r"^{\1}"),
        (r"([_^]) ?\{ ?([0-9A-Za-z]) ?\}(?![0-9])", r"\1\2"),
    )
]
_WRAPPERS = [
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r"\$\$(.*)\$\$()",
        r"\$([^$\s](?:[^$]*[^$\s])?)\$([^$]*)",
        r"\\\((.*)\\\)()",
        r"\\\[(.*)\\\]()",
        r"\\(?:boxed|fbox) ?\{(.*)\}()",
        r"`(.*)`()",
        r'"(.*)"()',
        r"“(.*)”()",
        r"'(.*)'()",
        r"\(([^(),;]*)\)()",
        r"\{([^{}]*)\}()",
    )
]
#: A name or a calculation before the value: x = 5, x \in [0, 1], 2 + 3 = 5.
_ASSIGNMENT = re.compile(
    r"(?:([A-Za-z\\][A-Za-z_0-9{}()\\ ]{0,19}?) ?(?:=|\\in(?![a-z]))|[0-9.,+*/() -]{1,40} ?=(?=[^A-Za-z]*$)) ?([^=<>]+)"
)

# Numbers: math-verify reads 1 234 as 1 + 234 and 3 1/2 as (3 + 1)/2, 0.\overline{3} not at all, and 0.3333333 as 1/3.
#: Digits in groups: 1,234 1 234 1'234 1_234, and 12,34,567 (India).
_GROUPED = re.compile(
    r"(?<![0-9.,'_])(?:[0-9]{1,3}([,'_ ])[0-9]{3}(?:\1[0-9]{3})*|[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3})(?!['_,]|[ ]?[0-9])"
)
#: Digits grouped by points: 1.234.567 and 1.234,5. (1.234 is a decimal.)
_GROUPED_BY_POINTS = re.compile(r"[0-9]{1,3}(?:\.[0-9]{3})+,[0-9]+|[0-9]{1,3}(?:\.[0-9]{3}){2,}")
_DECIMAL = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_DECIMAL_NUMBER = re.compile(
    rf"({_DECIMAL})(?:[eE]([+-]?[0-9]{{1,3}})| ?(?:\\times|\\cdot|\*|x) ?10 ?\^ ?\{{?([+-]?[0-9]{{1,3}})\}}?)?"
)
_REPEATING_DECIMAL = re.compile(r"([0-9]*)\.([0-9]*)(?:\\(?:overline|bar) ?\{?([0-9]+)\}?|\(([0-9]+)\))")
_MIXED_NUMBER = re.compile(r"([0-9]+) (?:and )?([1-9][0-9]*) ?/ ?([1-9][0-9]*)")
_SLASH_FRACTION = re.compile(rf"({_DECIMAL}) ?/ ?({_DECIMAL})")
_FRACTION_PART = rf"\{{ ?([+-]?) ?({_DECIMAL}) ?\}}"
_LATEX_FRACTION = re.compile(rf"([0-9]*) ?\\frac ?{_FRACTION_PART} ?{_FRACTION_PART}")

_CURRENCY_PREFIX = re.compile(
    r"([+-]?) ?([$¤€£¥₹₩₽]|US[$¤]|USD|EUR|GBP|JPY|CNY|INR|CHF|CAD|AUD|Rs\.?) ?([+-]?[0-9.].*)", re.DOTALL
)
# Units: pint knows their names, prefixes and sizes, but takes any letter for a unit, as the x of 5 x or the a of 5 a.
#: Symbols of units that may follow a number without a space.
_SYMBOLS = (
    r"°[CF]|[°%$€£¥₹₩₽¢¤]|[nµμumcdhkMGT](?:m|g|[lL]|s|W|J|Hz|V|A|N|Pa|B|b|eV|Ω|mol|cal|Wh|bit)|min|hrs?|in|ft|yd|mi"
    r"|lbs?|oz|am|pm|cc|mph|kph|Hz|eV|Pa|sq\.?"
)
_UNIT_WORD = r"[A-Za-zµμΩ.]{1,20}(?:\^\{?-?[1-9]\}?)?"
_UNIT_SUFFIX = re.compile(
    rf"(.*(?:[0-9]\.?|[)}}]|\\pi)) ?((?:{_SYMBOLS}| [mgshlLJNVWΩ]| [A-Za-z]{{2,20}}\.?|[A-Za-z]{{4,20}})"
    rf"(?:\^\{{?-?[1-9]\}}?)?(?![A-Za-z])(?:(?:[ /-]| ?/ ?){_UNIT_WORD}){{0,4}})",
    re.DOTALL,
)
#: What follows a unit without changing it: 5 m tall.
_REMARK = re.compile(r" (?:tall|long|wide|high|deep|old|away|each|(?:in )?total|left|remaining|altogether)$")
#: Words (singular) after a number that are not units: they change its value, negate it, or are mathematics.
_NON_UNITS = set(
    "and or not no none nor but except unless if is isn are was were be wrong incorrect false by to than "
    "plus minus times more less over divided multiplied raised choose base binary octal hexadecimal double twice "
    "triple pair couple hundred thousand million billion trillion quadrillion lakh crore dozen gross mil mln bln "
    "half halve third quarter fourth fifth sixth seventh eighth ninth tenth twelfth twentieth hundredth thousandth "
    "millionth billionth squared cubed factorial root sqrt mod log sin cos tan inf infinity nan pi "
    "alpha beta gamma delta theta lambda sigma omega abc xyz".split()
)
#: Units that pint does not know, by their names in lower case without spaces and plural.
_UNIT_SYMBOLS = {
    **dict.fromkeys(("dollar", "usd", "us$", "us¤", "¤"), "$"),
    **dict.fromkeys(("euro", "eur"), "€"),
    **dict.fromkeys(("yen", "jpy"), "¥"),
    **dict.fromkeys(("rupee", "inr", "rs"), "₹"),
    **dict.fromkeys(("percent", "percentage", "pct"), "%"),
    **dict.fromkeys(("unit", "squareunit", "squnit", "cubicunit", "unit^2", "unit^3"), ""),
    "gbp": "£",
    "cent": "¢",
}
#: 1.5 million.
_MULTIPLE = re.compile(r"(.*[0-9]) (hundred|thousand|million|billion|trillion|dozen)(?![a-z])(.*)", re.DOTALL)
_MULTIPLES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}


@dataclass(frozen=True)
class _ParsedAnswer:
    """A normalised answer: `full` is the text without wrappers, split into name, text and unit; number if it is one."""

    full: str
    name: str
    text: str
    unit: str
    number: Fraction | None


def same_answer(given: str, expected: str) -> bool:
    """Return whether two answers are equal, compared as exact numbers, else as text, else as expressions.

    Numbers are exact: 0.333 is not 1/3. Units are compared only if both answers have one: "5 cm" equals 5, not "5 m". A
    percent sign counts as a unit, as in MATH's own grader: 50% equals 50, not 0.5. `x = 5` equals 5.
    """
    if max(len(given), len(expected)) > MAX_ANSWER_CHARS:
        return False
    return _same_answer(given, expected)


@lru_cache(maxsize=4096)  # samples of one problem often give the same answer
def _same_answer(given: str, expected: str) -> bool:
    left, right = _parse(given), _parse(expected)
    if not left.full or not right.full:
        return False
    if _same_text(left.full, right.full):
        return True
    if left.name and right.name and left.name != right.name:
        return expressions.same(left.full, right.full)
    factor = _conversion(left.unit, right.unit) if left.unit and right.unit else 1.0
    if left.number is not None and right.number is not None and factor is not None:
        if factor == 1:
            return left.number == right.number
        return abs(left.number * Fraction(factor) - right.number) <= abs(right.number) / 10**12
    return factor == 1 and (_same_text(left.text, right.text) or expressions.same(_latex(left), _latex(right)))


def _parse(text: str) -> _ParsedAnswer:
    full = _unwrap(text)
    if repeated := re.match(r"([A-Za-z]) ?= ?[^=]*(?:,|\bor|\band) ?\1 ?=", full):  # x = 2 or x = 3
        values = re.sub(rf"(^|,|\b(?:or|and)\b) ?{repeated.group(1)} ?= ?", r"\1 ", full)
        full = full if "=" in values else f"{repeated.group(1)} = {values.strip()}"
    assignment = _ASSIGNMENT.fullmatch(full)
    name, right = (assignment.group(1) or "", _unwrap(assignment.group(2))) if assignment else ("", full)
    multiple = _MULTIPLE.fullmatch(right)
    body, unit = _split_unit("".join(multiple.group(1, 3)) if multiple else right)
    number = _parse_number(body)
    if multiple and number is not None:
        number *= _MULTIPLES[multiple.group(2)]
    elif multiple:
        body, unit = right, ""
    return _ParsedAnswer(full, _squeeze(name), body, unit, number)


def _unwrap(text: str) -> str:
    """Remove delimiters around a text and give equivalent Unicode and LaTeX one spelling."""
    text = re.sub("[¼-¾⅐-⅞]", lambda match: rf"\frac{{{_compatible(match.group()).replace('⁄', '}{')}}}", text)
    text = re.sub("[⁰¹²³⁴-⁹⁺⁻]+", lambda match: f"^{{{_compatible(match.group())}}}", text)
    text = re.sub("[₀-₉]+", lambda match: f"_{{{_compatible(match.group())}}}", text.replace("º", "°"))
    text = _compatible(text).translate(_CHARACTERS)
    for _ in range(8):  # wrappers can be nested; stops as soon as nothing changes
        before = text
        text = text.strip("*")  # bold
        for pattern, replacement in _SPELLINGS:
            text = pattern.sub(replacement, text)
        text = " ".join(text.split())
        text = text[:-1].rstrip() if text.endswith((".", ",", ";")) else text
        for wrapper in _WRAPPERS:
            if match := wrapper.fullmatch(text):
                text = match.group(1) + match.group(2)
                break
        if text == before:
            break
    return text.strip()


def _compatible(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


def _split_unit(text: str) -> tuple[str, str]:
    """Return (answer without its unit, unit in a canonical spelling); the unit is empty if there is none."""
    if match := _CURRENCY_PREFIX.fullmatch(text):
        return _split_unit(match.group(1) + match.group(3))[0], _unit(match.group(2))
    match = _UNIT_SUFFIX.fullmatch(text)
    if not match:
        return text, ""
    unit = match.group(2).strip()
    words = re.findall("[a-z]+", re.sub("(?<=[a-z]) (?:squared|cubed)", "", unit.casefold()))
    singular = {word[:-1] if len(word) > 3 and word.endswith("s") else word for word in words}
    known = re.match(rf"(?:{_SYMBOLS})(?![A-Za-z])", unit)
    if _NON_UNITS & {*words, *singular} or (not known and words and len(words[0]) == 2):
        return text, ""
    return match.group(1), _unit(_REMARK.sub("", unit))


def _unit(text: str) -> str:
    text = re.sub(r"(?:degrees?|deg\b|°) ?(?:([CF])(?:elsius|ahrenheit)?\b)?", r"°\1", text, flags=re.IGNORECASE)
    text = re.sub(r"[{}.]", "", text)
    key = re.sub(r"(?<=..)s$", "", text.casefold().replace(" ", ""))
    return _UNIT_SYMBOLS.get(key, text)


@lru_cache(maxsize=4096)
def _conversion(unit: str, other: str) -> float | None:
    """Return how many of another unit a unit is, 1 for another spelling of the same; None if they do not compare."""
    from pint import UndefinedUnitError

    if unit == other or {unit.rstrip("s"), other.rstrip("s")} == {"£", "pound"}:
        return 1.0
    try:
        source, target = (
            _registry().parse_units(
                re.sub("[A-Za-z]{4,}", lambda word: word.group().casefold(), re.sub(r"(?<=[A-Za-z])-", " ", name))
            )
            for name in (unit, other)
        )
        zero, one = (_registry().Quantity(number, source).m_as(target) for number in (0, 1))
    except UndefinedUnitError:  # as for 5 apples
        return 1.0 if _plurals(unit) & _plurals(other) else None
    except Exception:  # pint raises exceptions of many kinds, most for units of different dimensions
        return None
    return (1.0 if abs(one - 1) < 1e-12 else one) if zero == 0 else None  # not so between Celsius and Fahrenheit


@cache
def _registry() -> Any:
    from pint import UnitRegistry

    return UnitRegistry()


def _plurals(word: str) -> set[str]:
    word = re.sub(r"[\s^-]", "", word.casefold())
    return {word, f"{word}s", f"{word}es", re.sub("y$", "ies", word)}


def _parse_number(text: str) -> Fraction | None:
    """Return the number that a text writes in ASCII digits, else None. Exponents have at most three digits."""
    sign, text = (-1 if text.startswith("-") else 1), re.sub(r"^[+-] ?", "", text)
    try:
        if match := _MIXED_NUMBER.fullmatch(text):
            whole, numerator, denominator = map(int, match.groups())
            return sign * (whole + Fraction(numerator, denominator)) if numerator < denominator else None
        if _GROUPED_BY_POINTS.fullmatch(text):
            text = text.replace(".", "").replace(",", ".")
        text = _GROUPED.sub(lambda match: re.sub("[,'_ ]", "", match.group()), text)
        if match := _DECIMAL_NUMBER.fullmatch(text):
            return sign * Fraction(match.group(1)) * Fraction(10) ** int(match.group(2) or match.group(3) or 0)
        if match := _REPEATING_DECIMAL.fullmatch(text):
            digits, period = match.group(2), match.group(3) or match.group(4)
            repeated = Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(digits))
            return sign * (Fraction(f"{match.group(1)}.{digits}0") + repeated)
        if match := _SLASH_FRACTION.fullmatch(text):
            return sign * Fraction(match.group(1)) / Fraction(match.group(2))
        if match := _LATEX_FRACTION.fullmatch(text):
            top, bottom = Fraction(match.group(3)), Fraction(match.group(5))
            negative = (match.group(2) == "-") != (match.group(4) == "-")
            if match.group(1) and (negative or top >= bottom):
                return None  # 2\frac{3}{2} is ambiguous: a product or a mistake
            return sign * (int(match.group(1) or 0) + (-top if negative else top) / bottom)
    except ZeroDivisionError:
        pass
    return None


def _latex(answer: _ParsedAnswer) -> str:
    return str(answer.number) if answer.number is not None else answer.text


def _same_text(one: str, other: str) -> bool:
    return _squeeze(one) == _squeeze(other)


def _squeeze(text: str) -> str:
    """Drop LaTeX backslashes and spaces not between two digits ("1 2" is not 12), and the case of words."""
    text = text if re.search("[0-9+*/^=<>]", text) else text.casefold()
    text = re.sub(r"(?<![0-9]) | (?![0-9])", "", text)
    return re.sub(r"\\(?=[A-Za-z])", "", text)
