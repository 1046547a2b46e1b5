"""An exact calculator: whole numbers and fractions of any size up to a bound, by simpleeval.

Every number is bounded, that of a power or a factorial before it is computed, and so are the expression's length, depth
and parts: its time is bounded by construction. What is irrational (a root, a logarithm) goes on as a decimal, which
ends at 1.8e308; nearer to 0 than 5e-324 it is 0.
"""

import ast
import math
import operator
import re
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import Any

Number = int | Fraction | float

#: Of an expression: most characters, nodes of its tree, and levels of them.
LONGEST, NODES, DEEPEST = 500, 200, 50
#: Bits of any number on the way, of numerator and denominator each (9,864 digits).
BITS = 32_768
#: Bits of an exponent and a modulus in modular powers, whose time grows with the cube of them.
MODULAR_BITS = 1024
#: Largest exponent of ten in a number as it is written, and places to round to.
PLACES = 5000
#: Most places of a fraction that is written as a decimal.
SHORT = 12
#: Below this bound the first 13 primes decide surely (Sorenson and Webster 2015).
PRIMES, PRIME_BOUND = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41), 3_317_044_064_679_887_385_961_981

_SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "π": "pi", "^": "**"})
_UNKNOWN = re.compile(r"[^0-9A-Za-z_+\-*/%(),. ]")
#: Read by Python as two words, with a warning: 2pi, 0x10, 1if.
_RUN_ON = re.compile(r"(?<![A-Za-z_0-9.])(?:\d[\d_]*+\.?+[\d_]*+|\.\d[\d_]*+)(?:[eE][-+]?\d++)?+[A-Za-z]")
_THOUSANDS = re.compile(r"(?<![\d.,_])\d{1,3}(?:,\d{3})+(?![\d,_])")

_TOO_LARGE = "the numbers become too large"
_TOO_LARGE_DECIMAL = f"{_TOO_LARGE} for rounded decimals, which end at 1.8e308"
_OTHER = "only numbers, + - * / // % ** ( ) and functions such as sqrt(2) can be evaluated"


class ToolError(Exception):
    """A call that a tool cannot answer, as a sentence for the agent."""


def evaluate(expression: str) -> str:
    """The exact value of an expression: a whole number, a short decimal, or a fraction n/d; else a rounded decimal.

    `^` is a power. 1,000 is read as 1000 where no function is called, whose arguments commas part.

    Raises:
        ToolError: anything else than arithmetic, or a bound that it exceeds.
    """
    from simpleeval import FunctionNotDefined, InvalidExpression, NameNotDefined

    text = _plain(expression)
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ToolError(f"this is no complete expression; {_OTHER}") from None
    _measure(tree, text)
    try:
        return _written(_number(_evaluator().eval(text, tree)))
    except ZeroDivisionError:
        raise ToolError("division by zero") from None
    except OverflowError:
        raise ToolError(_TOO_LARGE_DECIMAL) from None
    except (FunctionNotDefined, NameNotDefined) as error:
        name = error.func_name if isinstance(error, FunctionNotDefined) else error.name
        raise ToolError(f"'{name[:40]}' is not known; there are {', '.join([*FUNCTIONS, *NAMES])}") from None
    except (InvalidExpression, RecursionError):
        raise ToolError(_OTHER) from None


def _plain(expression: str) -> str:
    """An expression in Python's signs, on one line of ASCII."""
    if len(expression) > LONGEST:
        raise ToolError(f"an expression may have {LONGEST} characters, this one has {len(expression)}")
    text = " ".join(expression.translate(_SIGNS).split())
    if not text:
        raise ToolError("the expression is empty")
    if unknown := _UNKNOWN.search(text):
        raise ToolError(f"the character {unknown.group()!a} cannot be evaluated; {_OTHER}")
    if _RUN_ON.search(text):
        raise ToolError("a number is followed by a name; write * between them")
    if not re.search(r"[A-Za-z]", text):
        text = _THOUSANDS.sub(lambda number: number.group().replace(",", ""), text)
    return text


def _measure(tree: ast.expr, text: str) -> None:
    """Hold a tree to its bounds, and give its numbers the exact value that the text writes."""
    parts, seen = [(tree, 1)], 0
    while parts:
        node, depth = parts.pop()
        seen += 1
        if seen > NODES or depth > DEEPEST:
            raise ToolError(f"an expression may have {NODES} parts, nested {DEEPEST} deep")
        if isinstance(node, ast.Tuple):
            raise ToolError("a comma stands only between a function's arguments")
        if isinstance(node, ast.Constant):
            node.value = _literal(node, text)
        parts += [(child, depth + 1) for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]


def _literal(node: ast.Constant, text: str) -> Any:
    if not isinstance(node.value, float):
        return node.value
    written = text[node.col_offset : node.end_col_offset].replace("_", "")
    if abs(int(written.lower().partition("e")[2] or 0)) > PLACES:
        raise ToolError(_TOO_LARGE)
    return Fraction(written)


def _number(value: object) -> Number:
    """A number that an expression may have; whole ones as int."""
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, float):
        raise ToolError("the result is no finite number")
    if isinstance(value, complex):
        raise ToolError("the result is no real number")
    if isinstance(value, bool) or not isinstance(value, int | Fraction):
        raise ToolError(_OTHER)
    if _bits(value) > BITS:
        raise ToolError(_TOO_LARGE)
    return value.numerator if value.denominator == 1 else value


def _bits(value: int | Fraction) -> int:
    return max(abs(value.numerator), value.denominator).bit_length()


def _written(value: Number) -> str:
    if isinstance(value, float):
        return f"{value or 0:.15g}"  # the last digit or two of a double are noise, and so is the sign of its 0
    if value.denominator == 1:
        return _digits(value.numerator)
    if 10**SHORT % value.denominator == 0:
        places = next(n for n in range(1, SHORT + 1) if 10**n % value.denominator == 0)
        digits = _digits(abs(value.numerator) * 10**places // value.denominator).zfill(places + 1)
        return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"
    return f"{_digits(value.numerator)}/{_digits(value.denominator)}"


def _digits(value: int) -> str:
    """In pieces: Python refuses to write more than 4,300 digits at once (or fewer, where it is told so)."""
    if abs(value) < 10**600:
        return str(value)
    high, low = divmod(abs(value), 10**600)
    return f"{'-' if value < 0 else ''}{_digits(high)}{_digits(low).zfill(600)}"


def _power(base: Number, exponent: Number, *modulus: Number) -> Any:
    if modulus:
        return _modular_power(*_whole("pow", base, exponent, *modulus))
    if isinstance(base, float):
        return base**exponent
    if isinstance(exponent, float):
        return _decimal_power(base, Fraction(exponent))
    if isinstance(exponent, Fraction):
        return _root_power(base, exponent)
    if base in (0, 1, -1):
        return Fraction(base) ** (exponent if base == 0 else exponent % 2)
    if (_bits(base) - 1) * abs(exponent) > BITS:
        raise ToolError(_TOO_LARGE)
    return Fraction(base) ** exponent


def _modular_power(base: int, exponent: int, modulus: int) -> int:
    if max(exponent.bit_length(), modulus.bit_length()) > MODULAR_BITS:
        raise ToolError(f"a modular power takes numbers of {MODULAR_BITS} bits")
    if modulus == 0:
        raise ZeroDivisionError
    return pow(base % modulus, exponent, modulus)


def _root_power(base: int | Fraction, exponent: Fraction) -> Any:
    """Exact where the root is: 27 ** (1/3) is 3."""
    if exponent.denominator <= 64 and base > 0:
        roots = [_root(part, exponent.denominator) for part in (base.numerator, base.denominator)]
        if all(roots):
            return _power(Fraction(*roots), exponent.numerator)
    return _decimal_power(base, exponent)


def _decimal_power(base: int | Fraction, exponent: Fraction) -> Any:
    """A decimal, also where the base itself is none."""
    mantissa, twos = _binary(base)
    whole, rest = divmod(twos * exponent, 1)
    if abs(whole) > 2000:  # then the power is none either, or 0
        return math.ldexp(1.0, whole)
    found = mantissa ** float(exponent)
    return found if isinstance(found, complex) else math.ldexp(found * 2 ** float(rest), whole)


def _binary(value: int | Fraction) -> tuple[float, int]:
    """A number as mantissa * 2 ** twos, without twos where a decimal holds it."""
    twos = value.numerator.bit_length() - value.denominator.bit_length()
    if abs(twos) < 1000:
        return float(value), 0
    return float(value / Fraction(2) ** twos), twos


def _root(value: int, degree: int) -> int:
    """The whole root of a positive number, 0 where there is none."""
    root = math.isqrt(value) if degree == 2 else round(2 ** (math.log2(value) / degree)) if value < 2**1000 else 0
    return root if root**degree == value else 0


def _sqrt(value: Number) -> Any:
    if isinstance(value, float) or value == 0:
        return math.sqrt(value)
    if value < 0:
        raise ValueError
    return _root_power(value, Fraction(1, 2))


def _log(value: Number, *base: Number) -> Any:
    """Exact where it is a whole number: log(1000, 10) is 3."""
    found = _natural_log(value) / _natural_log(base[0]) if base else _natural_log(value)
    whole = round(found)
    exact = base and isinstance(value, int) and isinstance(base[0], int) and whole > 0 and base[0] ** whole == value
    return whole if exact else found


def _natural_log(value: Number) -> float:
    if isinstance(value, float):
        return math.log(value)
    if Fraction(1, 2) < value < 2:
        return math.log1p(value - 1)  # which as a decimal would be rounded to 1
    mantissa, twos = _binary(value)
    return math.log(mantissa) + twos * math.log(2)


def _round(value: Number, *places: Number) -> Any:
    (digits,) = _whole("round", *places) if places else (0,)
    if abs(digits) > PLACES:
        raise ToolError(f"round takes {PLACES} places")
    return round(value, digits) if places else round(value)


def _factorial(value: int) -> int:
    _hold(value * math.log2(value / math.e) if 0 < value <= BITS else value)
    return math.factorial(value)


def _comb(whole: int, part: int) -> int:
    least = min(part, whole - part)
    # comb(n, k) < (e n / k) ** k, and takes ten times as long as a factorial of its size.
    _hold(2 * least * (math.log2(whole) - math.log2(least) + math.log2(math.e)) if 0 < least <= BITS else least)
    return math.comb(whole, part)


def _perm(whole: int, part: int) -> int:
    half = part // 2  # of the factors are larger than whole - half
    _hold(half * math.log2(whole - half) if 0 < part <= min(BITS, whole) else min(part, whole))
    return math.perm(whole, part)


def _hold(bits: float) -> None:
    if bits > BITS:
        raise ToolError(_TOO_LARGE)


def _isprime(value: int) -> int:
    """1 or 0, by Miller and Rabin's test."""
    if value >= PRIME_BOUND:
        raise ToolError(f"isprime takes numbers below {PRIME_BOUND}")
    if value < 2 or any(value % prime == 0 for prime in PRIMES):
        return int(value in PRIMES)
    twos = ((value - 1) & -(value - 1)).bit_length() - 1
    for prime in PRIMES:
        power = pow(prime, (value - 1) >> twos, value)
        if power != 1 and all(pow(power, 1 << n, value) != value - 1 for n in range(twos)):
            return 0
    return 1


def _whole(name: str, *values: Number) -> list[int]:
    wrong = [value for value in values if not isinstance(value, int)]
    if wrong:
        raise ToolError(f"{name} takes whole numbers, not {_written(wrong[0])[:40]}")
    return [int(value) for value in values]


def _function(name: str, compute: Callable[..., Any], least: int = 1, most: int | None = 1, whole: bool = False) -> Any:
    """A function of least to most numbers (None: any number of them), held to the bounds."""

    def bounded(*values: object) -> Number:
        numbers = [_number(value) for value in values]
        if not least <= len(numbers) <= (most or NODES):
            wanted = f"{least} or more" if most is None else f"{least}" if least == most else f"{least} to {most}"
            raise ToolError(f"{name} takes {wanted} number{'' if wanted == '1' else 's'}, here are {len(numbers)}")
        try:
            return _number(compute(*(_whole(name, *numbers) if whole else numbers)))
        except ValueError:
            raise ToolError(f"{name} has no value there") from None

    return bounded


def _divide(one: Number, other: Number) -> Number:
    if isinstance(one, float) or isinstance(other, float):
        return one / other
    return Fraction(one) / other


OPERATORS = {
    sign: _function(name, compute, count, count)
    for sign, name, compute, count in (
        (ast.Add, "+", operator.add, 2),
        (ast.Sub, "-", operator.sub, 2),
        (ast.Mult, "*", operator.mul, 2),
        (ast.Div, "/", _divide, 2),
        (ast.FloorDiv, "//", operator.floordiv, 2),
        (ast.Mod, "%", operator.mod, 2),
        (ast.Pow, "**", _power, 2),
        (ast.USub, "-", operator.neg, 1),
        (ast.UAdd, "+", operator.pos, 1),
    )
}
FUNCTIONS = {
    name: _function(name, compute, *how)
    for name, compute, *how in (
        ("sqrt", _sqrt),
        ("abs", abs),
        ("round", _round, 1, 2),
        ("floor", math.floor),
        ("ceil", math.ceil),
        ("min", lambda *values: min(values), 1, None),
        ("max", lambda *values: max(values), 1, None),
        ("factorial", _factorial, 1, 1, True),
        ("comb", _comb, 2, 2, True),
        ("perm", _perm, 2, 2, True),
        ("gcd", math.gcd, 1, None, True),
        ("lcm", math.lcm, 1, None, True),
        ("pow", _power, 2, 3),
        ("mod", operator.mod, 2, 2),
        ("isprime", _isprime, 1, 1, True),
        ("log", _log, 1, 2),
        ("exp", math.exp),
        ("sin", math.sin),
        ("cos", math.cos),
        ("tan", math.tan),
    )
}
NAMES = {"pi": math.pi, "e": math.e}


@cache
def _evaluator() -> Any:
    from simpleeval import SimpleEval

    evaluator = SimpleEval(operators=OPERATORS, functions=FUNCTIONS, names=NAMES)
    arithmetic = (ast.BinOp, ast.UnaryOp, ast.Call, ast.Name, ast.Constant)
    evaluator.nodes = {node: evaluator.nodes[node] for node in arithmetic}
    return evaluator
