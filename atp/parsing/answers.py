"""Parse the final answer of a reply and compare it with the expected answer, for mathematics problems."""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from atp.parsing import expressions
from atp.parsing.choices import MAX_SEARCHED_CHARS, last_object
from atp.parsing.replies import split_reasoning

#: Maximum length of an answer in characters; longer text counts as no answer.
MAX_ANSWER_CHARS = 1_000

_BOXES_AND_BRACES = re.compile(r"\\\\?(?:boxed|fbox)\s{0,9}\{|\\.|[{}]", re.DOTALL)
_LOOSE_JSON = re.compile(r'["\']answer["\']\s{0,9}:\s{0,9}"([^"\n]{1,1000})"', re.IGNORECASE)
_ANSWER_LINE = re.compile(
    r"^.*\banswer\b[*_\s]{0,9}(?::|\bis\b:?)[*_\s]{0,9}(?![*_\s]{0,9}not\b)(.+)$", re.IGNORECASE | re.MULTILINE
)
#: (pattern, repair) for LaTeX whose single backslashes JSON decoded as control characters.
_UNESCAPED_LATEX = [("\f", r"\\f"), ("\b", r"\\b"), (r"\t(?=ext|imes|frac|heta|an\b)", r"\\t"), (r"\r(?=ight)", r"\\r")]

_CHARACTERS = str.maketrans(
    {"−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "÷": "/", "π": r"\pi ", "∞": r"\infty ", "≤": r"\le "}
    | {"≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ", "±": r"\pm ", "²": "^2", "³": "^3", "~": " "}
    | {"½": r"\frac12", "¼": r"\frac14", "¾": r"\frac34"}
)
#: (pattern, replacement) that give equivalent LaTeX one spelling. "¤" is a literal dollar sign, not a delimiter.
_SPELLINGS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\\$", "¤"),
        (r"\\%", "%"),
        (r"(?<!\\)\\!|\\(?:left|right|displaystyle|limits)(?![A-Za-z])", ""),
        (r"(?<!\\)\\[,;: ]|\\q?quad(?![A-Za-z])", " "),
        (r"\{,\}", ","),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\(?:leq|le)(?![A-Za-z])", r"\\le"),
        (r"\\(?:geq|ge)(?![A-Za-z])", r"\\ge"),
        (r"\\(?:neq|ne)(?![A-Za-z])", r"\\ne"),
        (r" ?\^ ?\{ ?\\circ ?\}| ?\^ ?\\circ(?![A-Za-z])|\\degree(?![A-Za-z])", "°"),
        (r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname) ?\{([^{}]*)\}", r" \1"),
        (r"\*\*", "^"),
        (r"√ ?([0-9A-Za-z])(?![0-9])", r"\\sqrt{\1}"),
        (r"√ ?([0-9]+)", r"\\sqrt{\1}"),
        (r"\^ ?\(([^()]{1,12})\)", r"^{\1}"),
        (r"\^ ?(-?[0-9]{2,})", r"^{\1}"),
        (r"\^ ?\{ ?([0-9A-Za-z]) ?\}(?![0-9])", r"^\1"),
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
_ASSIGNMENT = re.compile(r"([A-Za-z\\][A-Za-z_0-9{}()\\ ]{0,19}?) ?= ?([^=<>]+)")

_WHOLE = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,3}(?: [0-9]{3})+|[0-9]+)"
_DECIMAL = rf"(?:{_WHOLE}(?:\.[0-9]*)?|\.[0-9]+)"
_DECIMAL_NUMBER = re.compile(
    rf"({_DECIMAL})(?:[eE]([+-]?[0-9]{{1,3}})| ?(?:\\times|\\cdot|\*|x) ?10 ?\^ ?\{{?([+-]?[0-9]{{1,3}})\}}?)?"
)
_MIXED_NUMBER = re.compile(r"([0-9]+) (?:and )?([1-9][0-9]*) ?/ ?([1-9][0-9]*)")
_SLASH_FRACTION = re.compile(rf"({_DECIMAL}) ?/ ?({_DECIMAL})")
_FRACTION_PART = rf"(?:\{{ ?([+-]?) ?({_DECIMAL}) ?\}}|([0-9]))"
_LATEX_FRACTION = re.compile(rf"([0-9]*) ?\\frac ?{_FRACTION_PART} ?{_FRACTION_PART}")

_SHORT_UNITS = "cm mm km dm nm kg mg ml cl ft in yd mi lb oz hr am pm cc".split()
_CURRENCY_PREFIX = re.compile(r"([+-]?) ?([$¤€£]|USD|US[$¤]) ?([+-]?[0-9.].*)", re.DOTALL)
_UNIT_SUFFIX = re.compile(
    rf"(.*[0-9.}})]) ?("
    rf"[°%$€£¤]|°[CF]|(?:{'|'.join(_SHORT_UNITS)}| [mgshL]| [A-Za-z]{{2,20}}|[A-Za-z]{{4,20}})"
    r"(?:[ /-][A-Za-z.]{1,20}){0,4}(?:\^[23])?)",
    re.DOTALL,
)
#: Words (singular) after a number that are not units: they change its value, negate it, or are mathematics.
_NON_UNITS = set(
    "and or not no none nor but except unless if is isn are was were be wrong incorrect false by to than "
    "plus minus times more less over divided multiplied raised choose base binary octal hexadecimal double twice "
    "triple hundred thousand million billion trillion quadrillion lakh crore dozen gross mil mln bln "
    "half halve third quarter fourth fifth sixth seventh eighth ninth tenth twelfth twentieth hundredth thousandth "
    "millionth billionth squared cubed factorial root sqrt mod log sin cos tan inf infinity nan pi "
    "alpha beta gamma delta theta lambda sigma omega abc xyz".split()
)
_UNIT_SYMBOLS = {
    "degree": "°",
    "dollar": "$",
    "usd": "$",
    "us$": "$",
    "us¤": "$",
    "¤": "$",
    "percent": "%",
    "euro": "€",
    "unit": "",
    "squareunit": "",
}


@dataclass(frozen=True)
class _ParsedAnswer:
    """A normalised answer: `full` is the text without wrappers, split into name, text and unit; number if it is one."""

    full: str
    name: str
    text: str
    unit: str
    number: Fraction | None


@lru_cache(maxsize=1024)
def read_answer(text: str) -> str | None:
    r"""Return the final answer of a reply, ignoring its reasoning; None if there is none.

    Precedence: the last `\boxed{…}`, then the "answer" of the last JSON object, then the last line `Answer: X` or
    `The answer is X.`
    """
    answer, _ = split_reasoning(text)
    tail = answer[-MAX_SEARCHED_CHARS:]
    boxed = _boxed_answer(tail)
    final = boxed if boxed is not None else _json_answer(tail) or _line_answer(tail)
    final = (final or "").strip()
    return final if 0 < len(final) <= MAX_ANSWER_CHARS else None


def same_answer(given: str, expected: str) -> bool:
    """Return whether two answers are equal, compared as exact numbers, else as text, else as expressions.

    Numbers are exact: 0.333 is not 1/3. Units are compared only if both answers have one: "5 cm" equals 5, not "5 m". A
    percent sign counts as a unit, as in MATH's own grader: 50% equals 50, not 0.5. `x = 5` equals 5. Comparing
    expressions requires math-verify; without it they are compared only as text.
    """
    if max(len(given), len(expected)) > MAX_ANSWER_CHARS:
        return False
    return _same_answer(given, expected)


@lru_cache(maxsize=4096)  # samples of one problem often give the same answer
def _same_answer(given: str, expected: str) -> bool:
    left, right = _parse(given), _parse(expected)
    if not left.full or not right.full:
        return False
    if left.name and right.name and left.name != right.name:
        return _squeeze(left.full) == _squeeze(right.full) or expressions.same(left.full, right.full)
    if left.unit and right.unit and left.unit != right.unit:
        return False
    if left.number is not None and right.number is not None:
        return left.number == right.number
    return _squeeze(left.text) == _squeeze(right.text) or expressions.same(left.text, right.text)


def _boxed_answer(text: str) -> str | None:
    """Return the content of the last closed box, of nested boxes the innermost; None if there is none."""
    open_braces: list[tuple[bool, int]] = []
    span = (-1, 0)
    for match in _BOXES_AND_BRACES.finditer(text):
        token = match.group()
        if token.endswith("{") and token != r"\{":
            open_braces.append((len(token) > 1, match.end()))
        elif token == "}" and open_braces:
            is_box, start = open_braces.pop()
            if is_box and start > span[0]:
                span = (start, match.start())
    return text[span[0] : span[1]] if span[0] >= 0 else None


def _json_answer(text: str) -> str | None:
    value = last_object(text, "answer")[0].get("answer")
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str):
        for pattern, repair in _UNESCAPED_LATEX:
            value = re.sub(pattern, repair, value)
        return value
    matches = _LOOSE_JSON.findall(text)  # single backslashes of LaTeX make JSON invalid
    return matches[-1] if matches else None


def _line_answer(text: str) -> str | None:
    answer = None
    for match in _ANSWER_LINE.finditer(text):
        answer = match.group(1).lstrip(" *_`\t").rstrip(" *_`.\t\r")
    return answer


def _parse(text: str) -> _ParsedAnswer:
    full = _unwrap(text)
    assignment = _ASSIGNMENT.fullmatch(full)
    name, right = (_squeeze(assignment.group(1)), _unwrap(assignment.group(2))) if assignment else ("", full)
    body, unit = _split_unit(right)
    return _ParsedAnswer(full, name, body, unit, _parse_number(body))


def _unwrap(text: str) -> str:
    """Remove delimiters around a text and give equivalent LaTeX one spelling."""
    text = text.translate(_CHARACTERS)
    for _ in range(8):  # wrappers can be nested; stops as soon as nothing changes
        before = text
        text = text.strip("*")  # bold
        for pattern, replacement in _SPELLINGS:
            text = pattern.sub(replacement, text)
        text = " ".join(text.split())
        text = text[:-1].rstrip() if text.endswith(".") else text
        for wrapper in _WRAPPERS:
            if match := wrapper.fullmatch(text):
                text = match.group(1) + match.group(2)
                break
        if text == before:
            break
    return text.strip()


def _split_unit(text: str) -> tuple[str, str]:
    """Return (answer without its unit, unit in a canonical spelling); the unit is empty if there is none."""
    if match := _CURRENCY_PREFIX.fullmatch(text):
        currency = match.group(2).casefold()
        return _split_unit(match.group(1) + match.group(3))[0], _UNIT_SYMBOLS.get(currency, currency)
    match = _UNIT_SUFFIX.fullmatch(text)
    if not match:
        return text, ""
    unit = match.group(2).strip()
    words = re.findall("[a-z]+", unit.casefold())
    singular = {word[:-1] if len(word) > 3 and word.endswith("s") else word for word in words}
    if _NON_UNITS & {*words, *singular} or (len(words) == 1 and len(words[0]) == 2 and words[0] not in _SHORT_UNITS):
        return text, ""
    unit = re.sub(r"[\s.^-]", "", unit.casefold())
    unit = unit[:-1] if len(unit) > 2 and unit.endswith("s") else unit
    return match.group(1), _UNIT_SYMBOLS.get(unit, unit)


def _parse_number(text: str) -> Fraction | None:
    """Return the number that a text writes in ASCII digits, else None. Exponents have at most three digits."""
    sign, text = (-1 if text.startswith("-") else 1), re.sub(r"^[+-] ?", "", text)
    try:
        if match := _DECIMAL_NUMBER.fullmatch(text):
            return sign * _parse_decimal(match.group(1)) * Fraction(10) ** int(match.group(2) or match.group(3) or 0)
        if match := _MIXED_NUMBER.fullmatch(text):
            whole, numerator, denominator = map(int, match.groups())
            return sign * (whole + Fraction(numerator, denominator)) if numerator < denominator else None
        if match := _SLASH_FRACTION.fullmatch(text):
            return sign * _parse_decimal(match.group(1)) / _parse_decimal(match.group(2))
        if match := _LATEX_FRACTION.fullmatch(text):
            top, bottom = (_parse_decimal(match.group(at + 1) or match.group(at + 2)) for at in (2, 5))
            negative = (match.group(2) == "-") != (match.group(5) == "-")
            if match.group(1) and (negative or top >= bottom):
                return None  # 2\frac{3}{2} is ambiguous: a product or a mistake
            return sign * (int(match.group(1) or 0) + (-top if negative else top) / bottom)
    except ZeroDivisionError:
        pass
    return None


def _parse_decimal(decimal: str) -> Fraction:
    return Fraction(re.sub("[, ]", "", decimal))


def _squeeze(text: str) -> str:
    """Lower-case a text, drop LaTeX backslashes and drop spaces not between two digits: "1 2" is not 12."""
    text = re.sub(r"(?<![0-9]) | (?![0-9])", "", text.casefold())
    return re.sub(r"\\(?=[a-z])", "", text)
