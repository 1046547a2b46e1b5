"""An exact calculator: whole numbers and fractions of any size up to a bound, by simpleeval.

Every result is bounded before it is computed, so that the time of an expression is bounded by its length.
"""

import ast
import math
import operator
from collections.abc import Callable
from fractions import Fraction
from typing import Any

Number = int | Fraction

#: Longest expression in characters, deepest nesting, most digits (in bits) of any number on the way.
LONGEST, DEEPEST, BITS = 500, 40, 20_000
#: Largest argument of factorial, comb and perm.
MOST = 2000


class ToolError(Exception):
    """A call that a tool cannot answer, as a sentence for the agent."""


def evaluate(expression: str) -> str:
    """The exact value of an expression: a whole number, a short decimal, or a fraction n/d.

    Raises:
        ToolError: anything else than arithmetic, or a bound that it exceeds.
    """
    from simpleeval import InvalidExpression, SimpleEval

    text = expression.strip().replace("^", "**").replace("×", "*").replace("÷", "/").replace("−", "-")
    if not text or len(text) > LONGEST:
        raise ToolError(f"an expression must have 1 to {LONGEST} characters, this one has {len(text)}")
    try:
        if _depth(ast.parse(text, mode="eval")) > DEEPEST:
            raise ToolError(f"an expression may be nested {DEEPEST} deep")
        value = SimpleEval(operators=OPERATORS, functions=FUNCTIONS, names={}).eval(text)
        return _written(_exact(value))
    except ZeroDivisionError:
        raise ToolError("division by zero") from None
    except (
        InvalidExpression,
        SyntaxError,
        ValueError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        raise ToolError(f"no expression that can be evaluated: {reason}") from None


def _depth(node: ast.AST) -> int:
    deepest, open_ = 0, [(node, 1)]
    while open_:
        node, depth = open_.pop()
        deepest = max(deepest, depth)
        open_ += [(child, depth + 1) for child in ast.iter_child_nodes(node)]
    return deepest


def _exact(value: object) -> Number:
    """A value that an expression may have; decimals are taken as they are written."""
    if isinstance(value, float) and math.isfinite(value):
        value = Fraction(repr(value))
    if isinstance(value, bool) or not isinstance(value, int | Fraction):
        raise ToolError(f"only numbers can be worked with, found {str(value)[:40]}")
    if max(_bits(value.numerator), _bits(value.denominator)) > BITS:
        raise ToolError("the numbers become too large")
    return value


def _bits(value: int) -> int:
    return abs(value).bit_length()


def _written(value: Number) -> str:
    if value.denominator == 1:
        return _digits(value.numerator)
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    if rest == 1 and value.denominator < 10**12:
        places = next(n for n in range(1, 50) if 10**n % value.denominator == 0)
        digits = _digits(abs(value.numerator) * 10**places // value.denominator).zfill(places + 1)
        return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"
    return f"{_digits(value.numerator)}/{_digits(value.denominator)}"


def _digits(value: int) -> str:
    """In pieces: Python refuses to write more than 4,300 digits at once."""
    if abs(value) < 10**4000:
        return str(value)
    high, low = divmod(abs(value), 10**4000)
    return f"{'-' if value < 0 else ''}{_digits(high)}{_digits(low).zfill(4000)}"


def _bounded(compute: Callable[..., Any]) -> Callable[..., Number]:
    """An operation on exact numbers, whose result is held to the bounds."""
    return lambda *values: _exact(compute(*map(_exact, values)))


def _whole(compute: Callable[..., int], most: int | None = None) -> Callable[..., Number]:
    def checked(*values: Number) -> int:
        for value in values:
            if value.denominator != 1 or (most and abs(value.numerator) > most):
                raise ToolError("needs whole numbers" + (f" of at most {most}" if most else ""))
        return compute(*[value.numerator for value in values])

    return _bounded(checked)


def _power(base: Number, exponent: Number, modulus: Number | None = None) -> Number:
    if exponent.denominator != 1:
        raise ToolError("an exponent must be a whole number")
    if modulus is not None:
        return pow(int(base), int(exponent), int(modulus))
    size = max(_bits(base.numerator), _bits(base.denominator))
    if abs(base) not in (0, 1) and size * abs(int(exponent)) > BITS:
        raise ToolError("the power becomes too large")
    found: Any = Fraction(base) ** int(exponent)
    return _exact(found)


def _root(value: Number) -> Number:
    if value < 0:
        raise ToolError("no root of a negative number")
    roots = Fraction(math.isqrt(value.numerator), math.isqrt(value.denominator))
    return roots if roots * roots == value else Fraction(repr(math.sqrt(value)))


OPERATORS = {
    ast.Add: _bounded(operator.add),
    ast.Sub: _bounded(operator.sub),
    ast.Mult: _bounded(operator.mul),
    ast.Div: _bounded(lambda a, b: Fraction(a) / b),
    ast.FloorDiv: _bounded(operator.floordiv),
    ast.Mod: _bounded(operator.mod),
    ast.Pow: _bounded(_power),
    ast.USub: _bounded(operator.neg),
    ast.UAdd: _bounded(operator.pos),
}
FUNCTIONS = {
    "abs": _bounded(abs),
    "min": _bounded(lambda *values: min(values)),
    "max": _bounded(lambda *values: max(values)),
    "round": _bounded(round),
    "floor": _bounded(math.floor),
    "ceil": _bounded(math.ceil),
    "sqrt": _bounded(_root),
    "pow": _bounded(_power),
    "factorial": _whole(math.factorial, MOST),
    "comb": _whole(math.comb, MOST),
    "perm": _whole(math.perm, MOST),
    "gcd": _whole(math.gcd),
    "lcm": _whole(math.lcm),
}
