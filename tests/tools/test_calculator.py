"""The calculator against Python's own exact arithmetic, and against what is no arithmetic."""

import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atp.tools import Call, ToolError, evaluate, run_calls

NUMBERS = st.integers(-(10**12), 10**12)
EXPRESSIONS = st.recursive(
    NUMBERS.map(lambda number: f"({number})"),
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda parts: f"({' '.join(parts)})"),
    max_leaves=8,
)


@given(EXPRESSIONS)
def test_it_is_exact(expression):
    text = "".join(f"Fraction({part})" if part.isdigit() else part for part in _parts(expression))
    try:
        wanted = eval(text, {"Fraction": Fraction})
    except ZeroDivisionError:
        with pytest.raises(ToolError, match="division by zero"):
            evaluate(expression)
        return
    assert Fraction(evaluate(expression)) == wanted


def _parts(expression):
    number = ""
    for char in f"{expression} ":
        if char.isdigit():
            number += char
            continue
        if number:
            yield number
        number = ""
        yield char


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2 + 3 * 4", "14"),
        ("7 / 2", "3.5"),
        ("1 / 3", "1/3"),
        ("-1 / 8", "-0.125"),
        ("0.1 + 0.2", "0.3"),
        ("2 ^ 10", "1024"),
        ("7 × 6 − 2", "40"),
        ("17 % 5", "2"),
        ("17 // 5", "3"),
        ("0 ** 0", "1"),
        ("9 ** -2", "1/81"),
        ("comb(50, 7)", "99884400"),
        ("pow(7, 1234, 1009)", str(pow(7, 1234, 1009))),
        ("gcd(12, 18) + lcm(4, 6)", "18"),
        ("sqrt(16)", "4"),
        ("max(1, 5, 3)", "5"),
        ("123456789 * 987654321", "121932631112635269"),
    ],
)
def test_values(expression, value):
    assert evaluate(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "1 / 0",
        "0 ** -1",
        "9 ** 9 ** 9",
        "factorial(10 ** 9)",
        "comb(10 ** 6, 5 * 10 ** 5)",
        "1e400",
        "nan",
        "sqrt(-1)",
        "2 ** 0.5",
        "'a' * 9",
        "[1] * 9",
        "().__class__",
        "__import__('os')",
        "lambda: 1",
        "x",
        "1 + ",
        "(" * 300,
        "1" * 600,
        "True",
        "pow(2, 3, 0)",
        "open('x')",
    ],
)
def test_what_is_no_arithmetic(expression):
    with pytest.raises(ToolError):
        evaluate(expression)


@given(st.text(max_size=600))
@settings(deadline=None)
def test_any_text_gets_a_text(text):
    (outcome,) = run_calls([Call("calculator", text)])
    assert outcome.text.encode() and outcome.failed == outcome.text.startswith("Error: ")


def test_the_worst_is_soon_over():
    worst = " + ".join(["factorial(2000)"] * 27)
    begun = time.perf_counter()
    assert len(evaluate(worst)) > 5000
    assert time.perf_counter() - begun < 5  # bounded by construction: some milliseconds
