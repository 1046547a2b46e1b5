"""The final answer that a reply states, and whether it is the expected one. Knows mathematics as written, not games."""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from atp.testbeds import expressions
from atp.testbeds.parsing import LONGEST, last_object, split_reasoning

#: An answer of more characters is an essay, not an answer.
LONGEST_ANSWER = 1_000

_BRACES = re.compile(r"\\\\?(?:boxed|fbox)\s{0,9}\{|\\.|[{}]", re.DOTALL)
_LOOSE = re.compile(r'["\']answer["\']\s{0,9}:\s{0,9}"([^"\n]{1,1000})"', re.IGNORECASE)
_LINE = re.compile(
    r"^.*\banswer\b[*_\s]{0,9}(?::|\bis\b:?)[*_\s]{0,9}(?![*_\s]{0,9}not\b)(.+)$", re.IGNORECASE | re.MULTILINE
)
#: What JSON makes of LaTeX whose backslashes a model forgot to double.
_UNESCAPED = [("\f", r"\\f"), ("\b", r"\\b"), (r"\t(?=ext|imes|frac|heta|an\b)", r"\\t"), (r"\r(?=ight)", r"\\r")]

_CHARACTERS = str.maketrans(
    {"−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "÷": "/", "π": r"\pi ", "∞": r"\infty ", "≤": r"\le "}
    | {"≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ", "±": r"\pm ", "²": "^2", "³": "^3", "~": " "}
    | {"½": r"\frac12", "¼": r"\frac14", "¾": r"\frac34"}
)
#: LaTeX that says the same in several ways, and the way that is kept. "¤" is a dollar sign that is no wrapper.
_SAME = [
    (re.compile(pattern), kept)
    for pattern, kept in (
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
_WRAPPED = [
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
_NAMED = re.compile(r"([A-Za-z\\][A-Za-z_0-9{}()\\ ]{0,19}?) ?= ?([^=<>]+)")

_WHOLE = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,3}(?: [0-9]{3})+|[0-9]+)"
_DECIMAL = rf"(?:{_WHOLE}(?:\.[0-9]*)?|\.[0-9]+)"
_SIMPLE = re.compile(
    rf"({_DECIMAL})(?:[eE]([+-]?[0-9]{{1,3}})| ?(?:\\times|\\cdot|\*|x) ?10 ?\^ ?\{{?([+-]?[0-9]{{1,3}})\}}?)?"
)
_MIXED = re.compile(r"([0-9]+) (?:and )?([1-9][0-9]*) ?/ ?([1-9][0-9]*)")
_SLASHED = re.compile(rf"({_DECIMAL}) ?/ ?({_DECIMAL})")
_PART = rf"(?:\{{ ?([+-]?) ?({_DECIMAL}) ?\}}|([0-9]))"
_STACKED = re.compile(rf"([0-9]*) ?\\frac ?{_PART} ?{_PART}")

_SHORT = "cm mm km dm nm kg mg ml cl ft in yd mi lb oz hr am pm cc".split()
_PREFIX = re.compile(r"([+-]?) ?([$¤€£]|USD|US[$¤]) ?([+-]?[0-9.].*)", re.DOTALL)
_SUFFIX = re.compile(
    rf"(.*[0-9.}})]) ?("
    rf"[°%$€£¤]|°[CF]|(?:{'|'.join(_SHORT)}| [mgshL]| [A-Za-z]{{2,20}}|[A-Za-z]{{4,20}})"
    r"(?:[ /-][A-Za-z.]{1,20}){0,4}(?:\^[23])?)",
    re.DOTALL,
)
#: Words behind a number that change it, deny it, or are mathematics, in the singular: no unit.
_NO_UNIT = set(
    "and or not no none nor but except unless if is isn are was were be wrong incorrect false by to than "
    "plus minus times more less over divided multiplied raised choose base binary octal hexadecimal double twice "
    "triple hundred thousand million billion trillion quadrillion lakh crore dozen gross mil mln bln "
    "half halve third quarter fourth fifth sixth seventh eighth ninth tenth twelfth twentieth hundredth thousandth "
    "millionth billionth squared cubed factorial root sqrt mod log sin cos tan inf infinity nan pi "
    "alpha beta gamma delta theta lambda sigma omega abc xyz".split()
)
_UNITS = {
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
class _Form:
    """An answer as compared: its text without wrappers, name and unit, and the number that it is, if it is one."""

    whole: str
    name: str
    text: str
    unit: str
    number: Fraction | None


@lru_cache(maxsize=1024)
def read_answer(text: str) -> str | None:
    r"""The final answer that a reply states, its reasoning left out; None where it states none.

    The last `\boxed{…}` wins, then the last JSON object's "answer", then the last line `Answer: X`, `The answer is X.`
    """
    answer, _ = split_reasoning(text)
    tail = answer[-LONGEST:]
    boxed = _boxed(tail)
    stated = boxed if boxed is not None else _in_json(tail) or _on_line(tail)
    stated = (stated or "").strip()
    return stated if 0 < len(stated) <= LONGEST_ANSWER else None


def same_answer(given: str, expected: str) -> bool:
    """Whether two answers are the same: as exact numbers, else as text, else as expressions.

    Numbers are exact: 0.333 is not 1/3. A unit counts only where both answers state one, so "5 cm" is 5, and is not
    "5 m". A percent sign is such a unit, as in MATH's own grader: 50% is 50, and is not 0.5. `x = 5` is 5. Expressions
    need math-verify; without it they are equal only as text.
    """
    if max(len(given), len(expected)) > LONGEST_ANSWER:
        return False
    return _same_answer(given, expected)


@lru_cache(maxsize=4096)  # the K samples of one problem often say the same
def _same_answer(given: str, expected: str) -> bool:
    one, other = _form(given), _form(expected)
    if not one.whole or not other.whole:
        return False
    if one.name and other.name and one.name != other.name:
        return _squeezed(one.whole) == _squeezed(other.whole) or expressions.same(one.whole, other.whole)
    if one.unit and other.unit and one.unit != other.unit:
        return False
    if one.number is not None and other.number is not None:
        return one.number == other.number
    return _squeezed(one.text) == _squeezed(other.text) or expressions.same(one.text, other.text)


def _boxed(text: str) -> str | None:
    """What stands in the last box that closes; of nested boxes the innermost."""
    opened: list[tuple[bool, int]] = []
    found = (-1, 0)
    for match in _BRACES.finditer(text):
        token = match.group()
        if token.endswith("{") and token != r"\{":
            opened.append((len(token) > 1, match.end()))
        elif token == "}" and opened:
            box, start = opened.pop()
            if box and start > found[0]:
                found = (start, match.start())
    return text[found[0] : found[1]] if found[0] >= 0 else None


def _in_json(text: str) -> str | None:
    value = last_object(text, "answer")[0].get("answer")
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str):
        for wrong, meant in _UNESCAPED:
            value = re.sub(wrong, meant, value)
        return value
    loose = _LOOSE.findall(text)  # LaTeX's single backslashes break JSON
    return loose[-1] if loose else None


def _on_line(text: str) -> str | None:
    stated = None
    for match in _LINE.finditer(text):
        stated = match.group(1).lstrip(" *_`\t").rstrip(" *_`.\t\r")
    return stated


def _form(text: str) -> _Form:
    whole = _unwrapped(text)
    named = _NAMED.fullmatch(whole)
    name, right = (_squeezed(named.group(1)), _unwrapped(named.group(2))) if named else ("", whole)
    body, unit = _without_unit(right)
    return _Form(whole, name, body, unit, _number(body))


def _unwrapped(text: str) -> str:
    """A text without what stands around it, in one of LaTeX's several spellings."""
    text = text.translate(_CHARACTERS)
    for _ in range(8):  # each time it is shorter, or it is done
        before = text
        text = text.strip("*")  # bold
        for pattern, kept in _SAME:
            text = pattern.sub(kept, text)
        text = " ".join(text.split())
        text = text[:-1].rstrip() if text.endswith(".") else text
        for wrapper in _WRAPPED:
            if match := wrapper.fullmatch(text):
                text = match.group(1) + match.group(2)
                break
        if text == before:
            break
    return text.strip()


def _without_unit(text: str) -> tuple[str, str]:
    """(an answer without its unit, the unit in one spelling); no unit is an empty one."""
    if match := _PREFIX.fullmatch(text):
        currency = match.group(2).casefold()
        return _without_unit(match.group(1) + match.group(3))[0], _UNITS.get(currency, currency)
    match = _SUFFIX.fullmatch(text)
    if not match:
        return text, ""
    unit = match.group(2).strip()
    words = re.findall("[a-z]+", unit.casefold())
    singular = {word[:-1] if len(word) > 3 and word.endswith("s") else word for word in words}
    if _NO_UNIT & {*words, *singular} or (len(words) == 1 and len(words[0]) == 2 and words[0] not in _SHORT):
        return text, ""
    unit = re.sub(r"[\s.^-]", "", unit.casefold())
    unit = unit[:-1] if len(unit) > 2 and unit.endswith("s") else unit
    return match.group(1), _UNITS.get(unit, unit)


def _number(text: str) -> Fraction | None:
    """The number that a text writes in ASCII digits; None if it is none. Exponents of over three digits are none."""
    sign, text = (-1 if text.startswith("-") else 1), re.sub(r"^[+-] ?", "", text)
    try:
        if match := _SIMPLE.fullmatch(text):
            return sign * _exact(match.group(1)) * Fraction(10) ** int(match.group(2) or match.group(3) or 0)
        if match := _MIXED.fullmatch(text):
            whole, part, of = map(int, match.groups())
            return sign * (whole + Fraction(part, of)) if part < of else None
        if match := _SLASHED.fullmatch(text):
            return sign * _exact(match.group(1)) / _exact(match.group(2))
        if match := _STACKED.fullmatch(text):
            above, below = (_exact(match.group(at + 1) or match.group(at + 2)) for at in (2, 5))
            minus = (match.group(2) == "-") != (match.group(5) == "-")
            if match.group(1) and (minus or above >= below):
                return None  # 2\frac{3}{2} is a product, or a slip
            return sign * (int(match.group(1) or 0) + (-above if minus else above) / below)
    except ZeroDivisionError:
        pass
    return None


def _exact(decimal: str) -> Fraction:
    return Fraction(re.sub("[, ]", "", decimal))


def _squeezed(text: str) -> str:
    """A text without case and without spaces, but for those between digits: "1 2" is not 12."""
    text = re.sub(r"(?<![0-9]) | (?![0-9])", "", text.casefold())
    return re.sub(r"\\(?=[a-z])", "", text)
