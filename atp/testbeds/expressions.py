"""Whether two mathematical expressions are the same, where math-verify is installed to read them."""

import re
from typing import Any

#: A longer expression is compared as text only.
LONGEST = 100

#: No sum, factorial, binomial, exponential or word: nothing whose value can outgrow what is written.
_COMMANDS = set(
    "frac sqrt pi cdot times div infty cup cap le ge ne lt gt pm in sin cos tan log ln theta alpha beta lambda "
    "begin end emptyset { } \\".split()
)
_COMMAND = re.compile(r"\\([A-Za-z]+|.)")
_ENVIRONMENT = re.compile(r"\\(?:begin|end) ?\{[pbv]?matrix\}(?! ?\^)")
_PLAIN = re.compile(r"[0-9A-Za-z\s+\-*/^_(),;.\[\]{}|=<>&]*")
_EXPONENT = re.compile(
    r"(?P<group>[)}\]|] ?)?\^ ?(?:(?P<one>[0-9A-Za-z])(?! ?[0-9])|"
    r"\{ ?(?:(?P<many>-?[0-9]{1,3})|-?[0-9]{0,2}[A-Za-z](?:[+-][0-9]{1,2})?|-?[0-9]{1,2}/[0-9]{1,2}"
    r"|-?\\frac ?\{[0-9]{1,2}\} ?\{[0-9]{1,2}\}|\\pi ?i|i ?\\pi) ?\})(?! ?\^)"
)
_SYMBOL = re.compile(r"[0-9\\^*/+()\[\]{},=<>|-]")
#: How many digits powers, and powers of powers, may come to: sympy factors exact numbers where it takes roots.
_DIGITS = 300
#: Two expressions that agree here are the same: in no step of them do rounded values meet by chance.
_POINTS = (((37, 11), (23, 13), (41, 17)), ((-29, 11), (-43, 19), (-17, 7)), ((31, 13), (-19, 17), (5, 11)))
#: Digits that values are computed to, and places that have to agree: different fractions n/d of numbers of `_DIGITS`
#: digits differ by more.
_COMPUTED, _AGREE = 2 * _DIGITS + 100, 2 * _DIGITS + 50


def same(one: str, other: str) -> bool:
    """Whether two short expressions are equal: numbers, terms, tuples, sets, intervals, matrices, (in)equalities.

    math-verify reads them. Its own comparison simplifies and solves, which nothing bounds but a signal; here their
    values at a few points decide, so that no answer can hold a run up. Where it is not installed nothing is the same.
    """
    one, other = _prepared(one), _prepared(other)
    if not (_SYMBOL.search(one) and _SYMBOL.search(other) and _tame(one) and _tame(other)):
        return False
    try:
        return _equal(_parsed(one), _parsed(other))
    except Exception:  # it, its parser and sympy raise of every kind on what they cannot read
        return False


def _prepared(text: str) -> str:
    text = re.sub(r" (?:and|or) |, (?:and|or) ", ",", text)
    text = re.sub(r"(?<!\\)\b(sqrt|pi|sin|cos|tan|log|ln)(?![A-Za-z])|(?<=[0-9])(sqrt|pi)(?![A-Za-z])", r"\\\1\2", text)
    text = re.sub(r"\\sqrt ?\(([^()]*)\)", r"\\sqrt{\1}", text)
    text = re.sub(r"°|%|\{\}", "", text)
    return text.replace("**", "^").replace("*", r"\cdot ")


def _tame(text: str) -> bool:
    """Whether an expression can be read and valued in little time, whatever its author wished."""
    if len(text) > LONGEST or not _PLAIN.fullmatch(_COMMAND.sub(" ", text)):
        return False
    if text.count(r"\pm") > 2 or re.search(r"\\sqrt ?\[(?! ?[2-9] ?\])", text):
        return False
    rest = _ENVIRONMENT.sub(" ", text)
    commands = {match.group(1) for match in _COMMAND.finditer(text)}
    if not commands <= _COMMANDS or re.search(r"\\(?:begin|end)", rest):
        return False
    if re.search(r"[A-Za-z]{3}|[0-9]{16}", _COMMAND.sub(" ", rest)):  # words would be products of their letters
        return False
    return _shallow(rest) and _low(rest)


def _shallow(text: str) -> bool:
    """Whether brackets stand at most five deep: the parser's time grows fast with their depth."""
    depth = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if depth > 5:
            return False
    return text.count("(") + text.count("[") <= 12 and text.count("|") <= 4


def _low(text: str) -> bool:
    """Whether no power, and no power of powers, grows beyond bounds. A tower of exponents is refused outright."""
    highest, product = 1, 1
    for match in _EXPONENT.finditer(text):
        written = match.group("many") or match.group("one") or ""
        value = 4 if not written or written.isalpha() else abs(int(written))
        if match.group("group"):
            product *= max(value, 1)
        highest = max(highest, value)
    bases = _EXPONENT.sub(" ", text)
    digits = len(re.findall("[0-9A-Za-z]", _COMMAND.sub(" ", bases)))
    return "^" not in bases and digits * product * highest <= _DIGITS


def _parsed(text: str) -> Any:
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, parser

    parser.TIMEOUT_WARNING_SHOWN = True  # it would warn that nothing bounds it: `_tame` does
    normal = NormalizationConfig(basic_latex=True, malformed_operators=True, boxed="none")
    config = LatexExtractionConfig(boxed_match_priority=-1, normalization_config=normal)
    # The whole text or nothing: its other modes go on to look for a part that they can read.
    (value,) = parse(f"${text}$", [config], "no_fallback", "first_match", parsing_timeout=None)
    return value


def _equal(one: Any, other: Any) -> bool:
    from sympy import Expr, FiniteSet, MatrixBase
    from sympy.core.relational import GreaterThan, StrictGreaterThan

    if isinstance(one, GreaterThan | StrictGreaterThan):
        one = one.reversed
    if isinstance(other, GreaterThan | StrictGreaterThan):
        other = other.reversed
    if isinstance(one, MatrixBase) and isinstance(other, MatrixBase):
        return one.shape == other.shape and all(map(_equal, one.flat(), other.flat()))
    if isinstance(one, Expr) and isinstance(other, Expr):
        return _same_values(one, other)
    if type(one) is not type(other) or len(one.args) != len(other.args):
        return False
    if one.is_Relational and one.is_Equality and _equal(one.lhs - one.rhs, other.rhs - other.lhs):
        return True
    if one.is_Relational:
        return _equal(one.lhs - one.rhs, other.lhs - other.rhs)
    if isinstance(one, FiniteSet):
        return all(any(_equal(each, partner) for partner in other.args) for each in one.args)
    return one == other or (bool(one.args) and all(map(_equal, one.args, other.args)))


def _same_values(one: Any, other: Any) -> bool:
    from sympy import Float, I, Rational, log, nan, zoo

    one, other = (
        value.xreplace({number: Rational(str(number)) for number in value.atoms(Float)}) for value in (one, other)
    )
    if any(of.args[1:] and of.args[1] in (0, 1) for of in one.atoms(log) | other.atoms(log)):
        return False
    if one == other:  # infinity too, as the end of an interval
        return not one.has(nan, zoo)
    symbols = one.free_symbols | other.free_symbols
    # By name: a symbol of one may be taken as real, and that of the other not.
    names = sorted({str(symbol) for symbol in symbols} - {"i"})
    if len(names) > len(_POINTS[0]):
        return False
    for point in _POINTS[: len(_POINTS) if names else 1]:
        values = dict(zip(names, (Rational(*each) for each in point), strict=False)) | {"i": I}
        at = {symbol: values[str(symbol)] for symbol in symbols}
        # `subs` would compute exactly, and factor
        value, partner = (each.evalf(_COMPUTED, subs=at, maxn=2 * _COMPUTED) for each in (one, other))
        close = Rational(1, 10**_AGREE) * (1 + abs(value))
        if not (value.is_finite and partner.is_finite and abs(value - partner) <= close):
            return False
    return True
