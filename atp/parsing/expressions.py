"""Compare two mathematical expressions by value, using math-verify as the parser where it is installed."""

import re
from typing import Any

#: Maximum length of an expression in characters; longer ones are compared only as text.
MAX_CHARS = 100

#: Allowed LaTeX commands. Sums, factorials, binomials and exponentials are excluded because their values can be huge.
_ALLOWED_COMMANDS = set(
    "frac sqrt pi cdot times div infty cup cap le ge ne lt gt pm in sin cos tan log ln theta alpha beta lambda "
    "begin end emptyset { } \\".split()
)
_COMMAND = re.compile(r"\\([A-Za-z]+|.)")
_MATRIX = re.compile(r"\\(?:begin|end) ?\{[pbv]?matrix\}(?! ?\^)")
_ALLOWED_TEXT = re.compile(r"[0-9A-Za-z\s+\-*/^_(),;.\[\]{}|=<>&]*")
_EXPONENT = re.compile(
    r"(?P<group>[)}\]|] ?)?\^ ?(?:(?P<one>[0-9A-Za-z])(?! ?[0-9])|"
    r"\{ ?(?:(?P<many>-?[0-9]{1,3})|-?[0-9]{0,2}[A-Za-z](?:[+-][0-9]{1,2})?|-?[0-9]{1,2}/[0-9]{1,2}"
    r"|-?\\frac ?\{[0-9]{1,2}\} ?\{[0-9]{1,2}\}|\\pi ?i|i ?\\pi) ?\})(?! ?\^)"
)
_SYMBOL = re.compile(r"[0-9\\^*/+()\[\]{},=<>|-]")
#: Maximum number of digits of powers and nested powers: sympy factors exact numbers when it takes roots.
_MAX_DIGITS = 300
#: Rational test points; expressions count as equal if they agree at all of them.
_TEST_POINTS = (((37, 11), (23, 13), (41, 17)), ((-29, 11), (-43, 19), (-17, 7)), ((31, 13), (-19, 17), (5, 11)))
#: Digits computed, and digits that must agree. Two different fractions of numbers with `_MAX_DIGITS` digits differ by
#: more than this tolerance.
_PRECISION, _TOLERANCE = 2 * _MAX_DIGITS + 100, 2 * _MAX_DIGITS + 50


def same(left: str, right: str) -> bool:
    """Return whether two short expressions are equal: numbers, terms, tuples, sets, intervals, matrices, relations.

    math-verify parses them. Its own comparison simplifies and solves, which only a signal can interrupt; values at a
    few points are compared instead, so the cost is bounded for any input. False if math-verify is not installed.
    """
    left, right = _normalize(left), _normalize(right)
    if not (_SYMBOL.search(left) and _SYMBOL.search(right) and _is_cheap(left) and _is_cheap(right)):
        return False
    try:
        return _equal(_parse(left), _parse(right))
    except Exception:  # math-verify, its parser and sympy raise exceptions of any kind on invalid input
        return False


def _normalize(text: str) -> str:
    text = re.sub(r" (?:and|or) |, (?:and|or) ", ",", text)
    text = re.sub(r"(?<!\\)\b(sqrt|pi|sin|cos|tan|log|ln)(?![A-Za-z])|(?<=[0-9])(sqrt|pi)(?![A-Za-z])", r"\\\1\2", text)
    text = re.sub(r"\\sqrt ?\(([^()]*)\)", r"\\sqrt{\1}", text)
    text = re.sub(r"°|%|\{\}", "", text)
    return text.replace("**", "^").replace("*", r"\cdot ")


def _is_cheap(text: str) -> bool:
    """Return whether an expression, which may be adversarial, can be parsed and evaluated in bounded time."""
    if len(text) > MAX_CHARS or not _ALLOWED_TEXT.fullmatch(_COMMAND.sub(" ", text)):
        return False
    if text.count(r"\pm") > 2 or re.search(r"\\sqrt ?\[(?! ?[2-9] ?\])", text):
        return False
    rest = _MATRIX.sub(" ", text)
    commands = {match.group(1) for match in _COMMAND.finditer(text)}
    if not commands <= _ALLOWED_COMMANDS or re.search(r"\\(?:begin|end)", rest):
        return False
    if re.search(r"[A-Za-z]{3}|[0-9]{16}", _COMMAND.sub(" ", rest)):  # words would be parsed as products
        return False
    return _is_shallow(rest) and _has_small_powers(rest)


def _is_shallow(text: str) -> bool:
    """Return whether brackets are nested at most five deep: parsing time grows fast with their depth."""
    depth = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if depth > 5:
            return False
    return text.count("(") + text.count("[") <= 12 and text.count("|") <= 4


def _has_small_powers(text: str) -> bool:
    """Return whether powers and nested powers stay below `_MAX_DIGITS` digits. Towers of exponents are rejected."""
    highest, product = 1, 1
    for match in _EXPONENT.finditer(text):
        exponent = match.group("many") or match.group("one") or ""
        value = 4 if not exponent or exponent.isalpha() else abs(int(exponent))
        if match.group("group"):
            product *= max(value, 1)
        highest = max(highest, value)
    bases = _EXPONENT.sub(" ", text)
    digits = len(re.findall("[0-9A-Za-z]", _COMMAND.sub(" ", bases)))
    return "^" not in bases and digits * product * highest <= _MAX_DIGITS


def _parse(text: str) -> Any:
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, parser

    parser.TIMEOUT_WARNING_SHOWN = True  # suppress its warning about no timeout: `_is_cheap` bounds the cost
    normal = NormalizationConfig(basic_latex=True, malformed_operators=True, boxed="none")
    config = LatexExtractionConfig(boxed_match_priority=-1, normalization_config=normal)
    # These modes parse the whole text or nothing; the others search for a parsable part.
    (value,) = parse(f"${text}$", [config], "no_fallback", "first_match", parsing_timeout=None)
    return value


def _equal(left: Any, right: Any) -> bool:
    from sympy import Expr, FiniteSet, MatrixBase
    from sympy.core.relational import GreaterThan, StrictGreaterThan

    if isinstance(left, GreaterThan | StrictGreaterThan):
        left = left.reversed
    if isinstance(right, GreaterThan | StrictGreaterThan):
        right = right.reversed
    if isinstance(left, MatrixBase) and isinstance(right, MatrixBase):
        return left.shape == right.shape and all(map(_equal, left.flat(), right.flat()))
    if isinstance(left, Expr) and isinstance(right, Expr):
        return _values_agree(left, right)
    if type(left) is not type(right) or len(left.args) != len(right.args):
        return False
    if left.is_Relational and left.is_Equality and _equal(left.lhs - left.rhs, right.rhs - right.lhs):
        return True
    if left.is_Relational:
        return _equal(left.lhs - left.rhs, right.lhs - right.rhs)
    if isinstance(left, FiniteSet):
        return all(any(_equal(element, partner) for partner in right.args) for element in left.args)
    return left == right or (bool(left.args) and all(map(_equal, left.args, right.args)))


def _values_agree(left: Any, right: Any) -> bool:
    from sympy import Float, I, Rational, log, nan, zoo

    left, right = (
        value.xreplace({number: Rational(str(number)) for number in value.atoms(Float)}) for value in (left, right)
    )
    if any(call.args[1:] and call.args[1] in (0, 1) for call in left.atoms(log) | right.atoms(log)):
        return False
    if left == right:  # includes infinity as the end of an interval
        return not left.has(nan, zoo)
    symbols = left.free_symbols | right.free_symbols
    # By name: the same symbol may be assumed real in only one of the expressions.
    names = sorted({str(symbol) for symbol in symbols} - {"i"})
    if len(names) > len(_TEST_POINTS[0]):
        return False
    for point in _TEST_POINTS[: len(_TEST_POINTS) if names else 1]:
        values = dict(zip(names, (Rational(*fraction) for fraction in point), strict=False)) | {"i": I}
        substitutions = {symbol: values[str(symbol)] for symbol in symbols}
        # not `subs`, which would compute exactly and factor
        value, partner = (side.evalf(_PRECISION, subs=substitutions, maxn=2 * _PRECISION) for side in (left, right))
        tolerance = Rational(1, 10**_TOLERANCE) * (1 + abs(value))
        if not (value.is_finite and partner.is_finite and abs(value - partner) <= tolerance):
            return False
    return True
