"""Compare two mathematical expressions by value: math-verify reads them and compares their terms."""

import re
from typing import Any

from atp.time_limit import time_limited

#: Maximum length of an expression in characters; longer ones are compared only as text.
MAX_CHARS = 200

_COMMAND = re.compile(r"\\([A-Za-z]+|.)")
_ENVIRONMENT = re.compile(r"\\(?:begin|end) ?\{[A-Za-z]*\}")
_READABLE = re.compile(r"[0-9A-Za-z\s+\-*/^_(),;.\[\]{}|=<>&]*")
#: Text that math-verify would misread: words as products of letters, 101_2 as 101, 1 2 as 1 + 2, a range 3-4 as -1.
_MISREAD = re.compile(r"[A-Za-z]{3}|[0-9] ?_|(?<!_)[0-9.] [0-9.]|^[0-9.,]*[0-9] ?- ?[0-9][0-9.,]*$")
#: Braces that belong to no command, power or index: 1{2}, which math-verify would read as 1 + 2.
_BARE_GROUP = re.compile(r"(?<![A-Za-z^_}\]\\ ]) ?\{")
_SYMBOL = re.compile(r"[0-9\\^*/+()\[\]{},=<>|-]")
#: Digits that must agree where math-verify compares numerically; its default of 15 takes 3.14159265358979324 for pi.
_DIGITS = 200


def same(left: str, right: str) -> bool:
    """Return whether two short expressions are equal: numbers, terms, tuples, sets, intervals, matrices, relations.

    False if it cannot be decided within the time limit.
    """
    left, right = _normalize(left), _normalize(right)
    letters = set(_COMMAND.sub(" ", left + right))
    if any("A" <= letter <= "Z" and letter.lower() in letters for letter in letters):
        return False  # math-verify takes R for r
    return _is_readable(left) and _is_readable(right) and bool(_equal_in_time(left, right))


def equal(left: str, right: str) -> bool:
    """Return whether two expressions are equal, whatever time it takes."""
    try:
        return _equal(_parse(left), _parse(right))
    except Exception:  # math-verify, its parser and sympy raise exceptions of any kind on invalid input
        return False


_equal_in_time = time_limited(equal, "x+1", "1+x")


def _normalize(text: str) -> str:
    text = re.sub(r" (?:and|or) |, (?:and|or) ", ",", text)
    text = re.sub(r"(?<![\\A-Za-z])(sqrt|pi|sin|cos|tan|log|ln|exp)(?![A-Za-z])", r"\\\1", text)
    text = re.sub(r"\\sqrt ?\(([^()]*)\)", r"\\sqrt{\1}", text)
    if re.search("sin|cos|tan|cot", text):
        text = re.sub(r"([0-9.]+) ?°", r"(\1\\cdot\\pi/180)", text)
    text = re.sub(r"(?:^|(?<=[,({\[])) ?\\pm", r"0\\pm", re.sub(r"°|%|\{\}", "", text))
    return text.replace("**", "^").replace("*", r"\cdot ")


def _is_readable(text: str) -> bool:
    rest = _COMMAND.sub(" & ", _ENVIRONMENT.sub(" & ", text))
    return bool(
        not _BARE_GROUP.search(text)
        and len(text) <= MAX_CHARS
        and _SYMBOL.search(text)
        and _READABLE.fullmatch(rest)
        and not _MISREAD.search(rest)
    )


def _parse(text: str) -> Any:
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, parser
    from sympy import EmptySet

    parser.TIMEOUT_WARNING_SHOWN = True  # suppress its warning about no timeout: the helper process has one
    normal = NormalizationConfig(basic_latex=True, malformed_operators=True, boxed="none")
    config = LatexExtractionConfig(boxed_match_priority=-1, normalization_config=normal)
    # These modes parse the whole text or nothing; the others search for a parsable part.
    (value,) = parse(f"${text}$", [config], "no_fallback", "first_match", parsing_timeout=None)
    if value is EmptySet and re.search("[0-9]", text):
        raise ValueError("an interval whose ends are in the wrong order is a mistake, not the empty set")
    return value


def _equal(left: Any, right: Any) -> bool:
    """Compare values part by part: math-verify's own comparison ignores repeated elements, and takes two equations
    without real solutions for equal."""
    from sympy import And, Expr, FiniteSet, MatrixBase, Union
    from sympy.core.relational import GreaterThan, StrictGreaterThan

    left, right = (
        value.reversed if isinstance(value, GreaterThan | StrictGreaterThan) else value for value in (left, right)
    )
    if isinstance(left, Expr) and isinstance(right, Expr):
        return _equal_terms(left, right)
    if isinstance(left, MatrixBase) and isinstance(right, MatrixBase):
        return left.shape == right.shape and all(map(_equal, left.flat(), right.flat()))
    parts, others = (list(getattr(value, "_unsorted_args", value.args)) for value in (left, right))
    if type(left) is not type(right) or len(parts) != len(others):
        return False
    if left.is_Relational:
        difference, other = left.lhs - left.rhs, right.lhs - right.rhs
        return _equal(difference, other) or (left.is_Equality and _equal(difference, -other))
    if isinstance(left, FiniteSet | Union | And):  # in any order
        for part in parts:
            others.remove(next(other for other in others if _equal(part, other)))  # raises if there is none
        return True
    return left == right or (bool(parts) and all(map(_equal, parts, others)))


def _equal_terms(left: Any, right: Any) -> bool:
    from math_verify import grader, verify
    from sympy import Float, I, Rational, Symbol, log, nan, zoo

    def exact(term: Any) -> Any:
        """math-verify rounds decimals, reads i as a variable in some terms, and assumes variables real in some."""
        if any(call.args[1:] and call.args[1] in (0, 1) for call in term.atoms(log)):
            raise ValueError("no logarithm has base 0 or 1, but sympy gives it a value")
        if term.doit().has(nan, zoo):
            raise ValueError("division by zero has no value")
        decimals = {number: Rational(str(number)) for number in term.atoms(Float)}
        names = {symbol: I if symbol.name == "i" else Symbol(symbol.name, real=True) for symbol in term.atoms(Symbol)}
        return term.xreplace(decimals | names)

    grader.TIMEOUT_WARNING_SHOWN = True
    return verify(exact(left), exact(right), numeric_precision=_DIGITS, timeout_seconds=None)
