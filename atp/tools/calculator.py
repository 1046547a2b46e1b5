"""An exact calculator for integers and fractions of bounded size, built on simpleeval.

Evaluation time is bounded: the expression's length, depth and number of nodes are limited, and so is every number;
powers and factorials are checked before they are computed. Irrational values (roots, logarithms) are floats from then
on, with their limits: at most 1.8e308, and 0 below 5e-324.
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

#: Limits of an expression: characters, nodes of its syntax tree, and the tree's depth.
MAX_CHARS, MAX_NODES, MAX_DEPTH = 500, 200, 50
#: Maximum size of the numerator and denominator of any intermediate result, in bits (9,864 digits).
MAX_BITS = 32_768
#: Maximum size of exponent and modulus in modular powers, in bits; time grows with its cube.
MAX_MODULAR_BITS = 1024
#: Maximum exponent of ten in a literal, and maximum number of places to round to.
MAX_PLACES = 5000
#: A fraction is printed as a decimal if this many decimal places suffice.
MAX_DECIMAL_PLACES = 12
#: The Miller-Rabin test with the first 13 primes is exact below this bound (Sorenson and Webster 2015).
PRIMES, PRIME_BOUND = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41), 3_317_044_064_679_887_385_961_981

_SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "π": "pi", "^": "**"})
_UNKNOWN_CHARACTER = re.compile(r"[^0-9A-Za-z_+\-*/%(),. ]")
#: A number followed by a name, which Python reads as two tokens, with a warning: 2pi, 0x10, 1if.
_RUN_ON = re.compile(r"(?<![A-Za-z_0-9.])(?:\d[\d_]*+\.?+[\d_]*+|\.\d[\d_]*+)(?:[eE][-+]?\d++)?+[A-Za-z]")
_THOUSANDS = re.compile(r"(?<![\w.,])[1-9]\d{0,2}(?:,\d{3})+(?![\d_]|,\d)")

_TOO_LARGE = "the numbers become too large"
_TOO_LARGE_DECIMAL = f"{_TOO_LARGE} for rounded decimals, which end at 1.8e308"
_NOT_ARITHMETIC = "only numbers, + - * / // % ** ( ) and functions such as sqrt(2) can be evaluated"


class ToolError(Exception):
    """An error of a tool call; the agent reads the message."""


def evaluate(expression: str) -> str:
    """Return the exact value of an expression: an integer, a short decimal or a fraction n/d; else a rounded decimal.

    `^` means power. 1,000 is read as 1000. In a call, where commas also separate arguments, a comma is what the
    number of arguments allows: sqrt(1,234) is sqrt(1234), comb(120,100) has two arguments.

    Raises:
        ToolError: the expression is not arithmetic or exceeds a limit.
    """
    from simpleeval import FunctionNotDefined, InvalidExpression, NameNotDefined

    text = _to_python(expression)
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ToolError(f"this is no complete expression; {_NOT_ARITHMETIC}") from None
    _check_tree(tree, text)
    try:
        return _format(_check_number(_evaluator().eval(text, tree)))
    except ZeroDivisionError:
        raise ToolError("division by zero") from None
    except OverflowError:
        raise ToolError(_TOO_LARGE_DECIMAL) from None
    except (FunctionNotDefined, NameNotDefined) as error:
        name = error.func_name if isinstance(error, FunctionNotDefined) else error.name
        raise ToolError(f"'{name[:40]}' is not known; there are {', '.join([*FUNCTIONS, *NAMES])}") from None
    except (InvalidExpression, RecursionError):
        raise ToolError(_NOT_ARITHMETIC) from None


def _to_python(expression: str) -> str:
    """Return an expression in Python's operators, on one line of ASCII; raise ToolError if that is not possible."""
    if len(expression) > MAX_CHARS:
        raise ToolError(f"an expression may have {MAX_CHARS} characters, this one has {len(expression)}")
    text = " ".join(expression.translate(_SIGNS).split())
    if not text:
        raise ToolError("the expression is empty")
    if unknown := _UNKNOWN_CHARACTER.search(text):
        raise ToolError(f"the character {unknown.group()!a} cannot be evaluated; {_NOT_ARITHMETIC}")
    if _RUN_ON.search(text):
        raise ToolError("a number is followed by a name; write * between them")
    return _join_thousands(text)


def _join_thousands(text: str) -> str:
    """Return an expression without thousands separators; raise ToolError if a comma could also separate arguments."""
    # No argument begins with 0, as the second part of 1,000 does.
    text = _THOUSANDS.sub(lambda number: _without_commas(number) if ",0" in number.group() else number.group(), text)
    if leading_zero := re.search(r"\d*, ?0\d+(?![\d.])", text):
        raise ToolError(f"{leading_zero.group()} is unclear; write numbers without commas, and none that begins with 0")
    joined = _THOUSANDS.sub(_without_commas, text)
    if joined == text or not _has_right_arguments(joined):
        return text
    if _has_right_arguments(text):
        number = _THOUSANDS.search(text)
        assert number
        one, separate = _without_commas(number), number.group().replace(",", ", ")
        raise ToolError(f"{number.group()} can be one number or several arguments; write {one}, or {separate}")
    return joined


def _without_commas(number: re.Match[str]) -> str:
    return number.group().replace(",", "")


def _has_right_arguments(text: str) -> bool:
    """Return whether all commas of an expression are in calls, with a number of arguments that the functions take."""
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    functions = [FUNCTIONS.get(getattr(call.func, "id", "")) for call in calls]
    return not any(isinstance(node, ast.Tuple) for node in nodes) and all(
        function and len(call.args) in function.arguments for call, function in zip(calls, functions, strict=True)
    )


def _check_tree(tree: ast.expr, text: str) -> None:
    """Check a tree against the limits, and replace float literals by the exact value of their text."""
    nodes, visited = [(tree, 1)], 0
    while nodes:
        node, depth = nodes.pop()
        visited += 1
        if visited > MAX_NODES or depth > MAX_DEPTH:
            raise ToolError(f"an expression may have {MAX_NODES} parts, nested {MAX_DEPTH} deep")
        if isinstance(node, ast.Tuple):
            raise ToolError("a comma stands only between a function's arguments")
        if isinstance(node, ast.Constant):
            node.value = _literal(node, text)
        nodes += [(child, depth + 1) for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]


def _literal(node: ast.Constant, text: str) -> Any:
    if not isinstance(node.value, float):
        return node.value
    literal = text[node.col_offset : node.end_col_offset].replace("_", "")
    if abs(int(literal.lower().partition("e")[2] or 0)) > MAX_PLACES:
        raise ToolError(_TOO_LARGE)
    return Fraction(literal)


def _check_number(value: object) -> Number:
    """Return an allowed number, with integral fractions as int; raise ToolError for anything else."""
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, float):
        raise ToolError("the result is no finite number")
    if isinstance(value, complex):
        raise ToolError("the result is no real number")
    if isinstance(value, bool) or not isinstance(value, int | Fraction):
        raise ToolError(_NOT_ARITHMETIC)
    if _bits(value) > MAX_BITS:
        raise ToolError(_TOO_LARGE)
    return value.numerator if value.denominator == 1 else value


def _bits(value: int | Fraction) -> int:
    return max(abs(value.numerator), value.denominator).bit_length()


def _format(value: Number) -> str:
    if isinstance(value, float):
        return f"{value or 0:.15g}"  # without a double's last digits, which are noise, and without the sign of -0.0
    if value.denominator == 1:
        return _digits(value.numerator)
    if 10**MAX_DECIMAL_PLACES % value.denominator == 0:
        places = next(n for n in range(1, MAX_DECIMAL_PLACES + 1) if 10**n % value.denominator == 0)
        digits = _digits(abs(value.numerator) * 10**places // value.denominator).zfill(places + 1)
        return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"
    return f"{_digits(value.numerator)}/{_digits(value.denominator)}"


def _digits(value: int) -> str:
    """Convert an integer to text in pieces, because Python limits the digits of one conversion (default 4,300)."""
    if abs(value) < 10**600:
        return str(value)
    high, low = divmod(abs(value), 10**600)
    return f"{'-' if value < 0 else ''}{_digits(high)}{_digits(low).zfill(600)}"


def _power(base: Number, exponent: Number, *modulus: Number) -> Any:
    if modulus:
        return _modular_power(*_integers("pow", base, exponent, *modulus))
    if isinstance(base, float):
        return base**exponent
    if isinstance(exponent, float):
        return _decimal_power(base, Fraction(exponent))
    if isinstance(exponent, Fraction):
        return _root_power(base, exponent)
    if base in (0, 1, -1):
        return Fraction(base) ** (exponent if base == 0 else exponent % 2)
    if (_bits(base) - 1) * abs(exponent) > MAX_BITS:
        raise ToolError(_TOO_LARGE)
    return Fraction(base) ** exponent


def _modular_power(base: int, exponent: int, modulus: int) -> int:
    if max(exponent.bit_length(), modulus.bit_length()) > MAX_MODULAR_BITS:
        raise ToolError(f"a modular power takes numbers of {MAX_MODULAR_BITS} bits")
    if modulus == 0:
        raise ZeroDivisionError
    return pow(base % modulus, exponent, modulus)


def _root_power(base: int | Fraction, exponent: Fraction) -> Any:
    """Return an exact result if the root is exact: 27 ** (1/3) is 3."""
    if exponent.denominator <= 64 and base > 0:
        roots = [_root(part, exponent.denominator) for part in (base.numerator, base.denominator)]
        if all(roots):
            return _power(Fraction(*roots), exponent.numerator)
    return _decimal_power(base, exponent)


def _decimal_power(base: int | Fraction, exponent: Fraction) -> Any:
    """Return a float power, also if the base itself is outside a float's range."""
    mantissa, twos = _binary(base)
    whole, rest = divmod(twos * exponent, 1)
    if abs(whole) > 2000:  # out of a float's range: ldexp overflows or returns 0
        return math.ldexp(1.0, whole)
    power = mantissa ** float(exponent)
    return power if isinstance(power, complex) else math.ldexp(power * 2 ** float(rest), whole)


def _binary(value: int | Fraction) -> tuple[float, int]:
    """Return (mantissa, twos) with value = mantissa * 2 ** twos; twos is 0 if a float can represent the value."""
    twos = value.numerator.bit_length() - value.denominator.bit_length()
    if abs(twos) < 1000:
        return float(value), 0
    return float(value / Fraction(2) ** twos), twos


def _root(value: int, degree: int) -> int:
    """Return the integer root of a positive number, 0 if there is none."""
    root = math.isqrt(value) if degree == 2 else round(2 ** (math.log2(value) / degree)) if value < 2**1000 else 0
    return root if root**degree == value else 0


def _sqrt(value: Number) -> Any:
    if isinstance(value, float) or value == 0:
        return math.sqrt(value)
    if value < 0:
        raise ValueError
    return _root_power(value, Fraction(1, 2))


def _log(value: Number, *base: Number) -> Any:
    """Return an exact result if it is an integer: log(1000, 10) is 3."""
    result = _natural_log(value) / _natural_log(base[0]) if base else _natural_log(value)
    whole = round(result)
    exact = base and isinstance(value, int) and isinstance(base[0], int) and whole > 0 and base[0] ** whole == value
    return whole if exact else result


def _natural_log(value: Number) -> float:
    if isinstance(value, float):
        return math.log(value)
    if Fraction(1, 2) < value < 2:
        return math.log1p(value - 1)  # float(value) would be rounded to 1
    mantissa, twos = _binary(value)
    return math.log(mantissa) + twos * math.log(2)


def _round(value: Number, *places: Number) -> Any:
    (digits,) = _integers("round", *places) if places else (0,)
    if abs(digits) > MAX_PLACES:
        raise ToolError(f"round takes {MAX_PLACES} places")
    return round(value, digits) if places else round(value)


def _factorial(value: int) -> int:
    _check_bits(value * math.log2(value / math.e) if 0 < value <= MAX_BITS else value)
    return math.factorial(value)


def _comb(n: int, k: int) -> int:
    m = min(k, n - k)  # comb(n, k) is comb(n, m)
    # comb(n, m) < (e n / m) ** m, and takes ten times as long as a factorial of that size.
    _check_bits(2 * m * (math.log2(n) - math.log2(m) + math.log2(math.e)) if 0 < m <= MAX_BITS else m)
    return math.comb(n, k)


def _perm(n: int, k: int) -> int:
    half = k // 2  # this many factors are larger than n - half
    _check_bits(half * math.log2(n - half) if 0 < k <= min(MAX_BITS, n) else min(k, n))
    return math.perm(n, k)


def _check_bits(bits: float) -> None:
    if bits > MAX_BITS:
        raise ToolError(_TOO_LARGE)


def _isprime(value: int) -> int:
    """Return 1 for a prime, else 0, by the Miller-Rabin test."""
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


def _integers(name: str, *values: Number) -> list[int]:
    invalid = [value for value in values if not isinstance(value, int)]
    if invalid:
        raise ToolError(f"{name} takes whole numbers, not {_format(invalid[0])[:40]}")
    return [int(value) for value in values]


def _bounded(name: str, compute: Callable[..., Any], least: int = 1, most: int | None = 1, whole: bool = False) -> Any:
    """Wrap a function that takes `least` to `most` numbers (None: unlimited) and check its arguments and result."""

    def bounded(*values: object) -> Number:
        numbers = [_check_number(value) for value in values]
        if not least <= len(numbers) <= (most or MAX_NODES):
            wanted = f"{least} or more" if most is None else f"{least}" if least == most else f"{least} to {most}"
            raise ToolError(f"{name} takes {wanted} number{'' if wanted == '1' else 's'}, here are {len(numbers)}")
        try:
            return _check_number(compute(*(_integers(name, *numbers) if whole else numbers)))
        except ValueError:
            raise ToolError(f"{name} has no value there") from None

    # The maximum of one number is allowed, but does not make sense of a comma.
    bounded.arguments = range(least if most else 2, (most or MAX_NODES) + 1)  # type: ignore[attr-defined]
    return bounded


def _divide(one: Number, other: Number) -> Number:
    if isinstance(one, float) or isinstance(other, float):
        return one / other
    return Fraction(one) / other


OPERATORS = {
    sign: _bounded(name, compute, count, count)
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
    name: _bounded(name, compute, *how)
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
    allowed_nodes = (ast.BinOp, ast.UnaryOp, ast.Call, ast.Name, ast.Constant)
    evaluator.nodes = {node: evaluator.nodes[node] for node in allowed_nodes}
    return evaluator
