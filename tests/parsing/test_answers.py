"""Which answer a reply states, and which answers are the same."""

import json
import sys
import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atp.parsing import expressions
from atp.parsing.answers import MAX_ANSWER_CHARS, read_answer, same_answer


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        (r"So \boxed{5}.", "5"),
        (r"\boxed{4}, no: \boxed{5}", "5"),  # the last one wins
        (r"\[ \boxed{ \frac{1}{2} } \]", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\fbox{7}", "7"),
        (r"\boxed {7}", "7"),
        (r"\\boxed{7}", "7"),
        (r"\boxed{x = \boxed{5}}", "5"),  # of nested boxes the inner
        (r"{ { \boxed{5} and \boxed{6", "5"),  # the last that closes
        (r"} \boxed{5} }", "5"),
        ('{"answer": 4} \\boxed{5} {"answer": 6}\nAnswer: 7', "5"),
        (r"<think>\boxed{4}</think>\boxed{5}", "5"),
        (r"<think>\boxed{4}</think>Answer: 5", "5"),
        (r"<think>\boxed{4}", None),
        (r"\boxed{} Answer: 5", None),
        (r"\boxed{ }", None),
        ('{"answer": 5}', "5"),
        ('{"answer": "5 cm"} then {"mood": 1}', "5 cm"),
        ('{"answer": 12345678901234567890123}', "12345678901234567890123"),
        ('{"answer": 0.5}', "0.5"),
        ('{"answer": "\\\\frac{1}{2}"}', r"\frac{1}{2}"),
        ('{"answer": "\\frac{1}{2}\\text{ cm}"}', r"\frac{1}{2}\text{ cm}"),  # backslashes not doubled
        ('{"answer": "2\\sqrt{2}"}', r"2\sqrt{2}"),
        ('{"answer": null}\nAnswer: 5', "5"),
        ('{"answer": [5]}', None),
        ("Answer: 5", "5"),
        ("Answer: 4\nAnswer: 5\nThat is all.", "5"),
        ("**Answer:** 5.", "5"),
        ("**Answer: 5**", "5"),
        ("**Final Answer**: $5$.", "$5$"),
        ("The answer is 5.", "5"),
        ("So the final answer is: **.5**", ".5"),
        ("Answer: 3\nThe final answer is not 4", "3"),
        ("the answer is\n5", "5"),
        ("## Answer\n\n5", None),
        ("Answer:", None),
        ("answering: 5", None),
        ("5", None),
        ("", None),
        (r"\boxed{" + "5" * MAX_ANSWER_CHARS + "}", "5" * MAX_ANSWER_CHARS),
        (r"\boxed{" + "5" * (MAX_ANSWER_CHARS + 1) + "}", None),
        ("Answer: " + "5" * (MAX_ANSWER_CHARS + 1), None),
    ],
)
def test_the_answer_that_a_reply_states(reply, answer):
    assert read_answer(reply) == answer


SAME = [
    ("1/2", "0.5"),
    ("1/2", ".5"),
    ("0.50", ".5"),
    (r"\frac{1}{2}", "0.5"),
    (r"\dfrac12", r"\tfrac{1}{2}"),
    (r"\frac1{2}", r"\frac{1}2"),
    (r"\frac{-1}{2}", "-0.5"),
    (r"-\frac{1}{2}", "−1/2"),
    ("2/4", "1/2"),
    ("1,000", "1000"),
    ("1 000", "1000"),
    ("1{,}000", "1000"),
    (r"1,\!000", "1000"),
    (r"1\,000", "1000"),
    ("12345678901234567890123", "12,345,678,901,234,567,890,123"),
    ("-3", "−3"),
    ("+3", "3"),
    ("-0", "0"),
    ("007", "7"),
    ("5.0", "5"),
    ("5.", "5"),
    ("1e3", "1000"),
    ("1.5E-2", "0.015"),
    (r"3 \times 10^{3}", "3000"),
    ("3*10^3", "3000"),
    ("3 1/2", "7/2"),
    (r"3\frac{1}{2}", "3.5"),
    (r"-3\frac12", "-3.5"),
    ("½", "0.5"),
    ("$5$", "5"),
    (r"\(5\)", "5"),
    (r"\[ 5 \]", "5"),
    (r"\left( 5 \right)", "5"),
    (r"\boxed{5}", "5"),
    ("**5**", "5"),
    ("`5`", "5"),
    ('"5"', "5"),
    ("x = 5", "5"),
    ("x=5", "$x = 5$"),
    (r"\text{even}", "Even"),
    ("Paris.", "paris"),
    ("(B)", "B"),
    ("No solution", r"\text{no solution}"),
    ("x^{2}+1", "x^2 + 1"),
    (r"\left(1, 2\right)", "(1,2)"),
    # A unit that only one states, or both.
    ("12 apples", "12"),
    ("5 cm", "5"),
    (r"5\text{ cm}", "5 cm"),
    (r"5\,\mathrm{cm}^2", "5 cm²"),
    ("5 miles per hour", "5"),
    ("1 apple", "1 apples"),
    (r"30^\circ", "30 degrees"),
    (r"30^{\circ}", "30°"),
    ("30°", "30"),
    ("$5", "5"),
    (r"\$5", "5"),
    (r"\$12.50", "12.5"),
    ("$12.50", "12.50 dollars"),
    ("-$5", "-5"),
    ("€5", "5"),
    ("50%", "50"),
    (r"50\%", "50 percent"),
    ("1e999999999", "1e999999999"),  # as text
    ("\ud800", "\ud800"),
]

OTHER = [
    ("1/2", "1/3"),
    ("1/2", "-1/2"),
    ("12", "120"),
    ("0.333", "1/3"),
    ("0.333333333", "1/3"),
    ("1,000", "1"),
    ("1000", "1.000"),
    ("1,2", "1.2"),
    ("1 2", "12"),
    ("5", "-5"),
    (r"3\frac{1}{2}", "3/2"),
    (r"\frac12", r"\frac{1}{22}"),
    ("10^3", "103"),
    ("1/0", "2/0"),
    ("12345678901234567890123", "12345678901234567890124"),
    ("5 cm", "6 cm"),
    ("5 cm", "5 m"),
    ("5 cm", "5 cm^2"),
    ("12 apples", "12 oranges"),
    ("$5", "5%"),
    ("50%", "0.5"),
    ("2 million", "2"),
    ("12 dozen", "12"),
    ("5 times", "5"),
    ("3 or 4", "3"),
    ("5x", "5"),
    ("5 pi", "5"),
    ("5pi", "5"),
    ("2xy", "2"),
    ("2 xy", "2"),
    ("5ab^2", "5"),
    ("x=5", "x=6"),
    ("x=5", "y=5"),
    ("(1,2)", "(2,1)"),
    ("(1,2,3)", "(1,2)"),
    ("1,2,3", "1,2"),
    ("[1,2]", "(1,2)"),
    ("[1,2)", "(1,2]"),
    (r"\{1,2\}", r"\{1,3\}"),
    ("x>3", "x<3"),
    ("x>3", r"x \ge 3"),
    ("x^2", "x"),
    ("x+1", "y+1"),
    ("x^2+1", "(x+1)^2"),
    (r"\sqrt{x^2}", "x"),
    (r"\sqrt{2}", "1.414"),
    (r"\frac{1}{\sqrt2-\sqrt2}", "5"),
    ("2^{10}", "2^{11}"),
    ("99999*99999", "9999800002"),
    ("2^{40}", "1099511627777"),
    ("9^{99}+1", "9^{99}"),
    ("2^{-40}", "0"),
    (r"\frac{1}{9^{12}}", "0"),
    ("3.1415926535", r"\pi"),
    ("3.14159265358979323846", r"\pi"),
    ("0.3333333333*1", "1/3"),
    ("0.3333333333333333x", "x/3"),
    (r"\log_{0}{5}", "0"),
    (r"\log_{1}{5}", r"\infty"),
    (r"\sin^{99}x", "0"),
    *((f"5 {word}", "5") for word in ("millions", "tenths", "hundredths", "lakh", "is wrong", "divided by", "halves")),
    ("yes", "no"),
    ("eat", "tea"),  # words are no products of letters
    ("A", "B"),
    ("5!", "120"),
    ("inf", "nan"),
    ("nan", "5"),
    ("1e999999999", "1e999999998"),
    ("٣", "3"),
    ("5" * (MAX_ANSWER_CHARS + 1), "5" * (MAX_ANSWER_CHARS + 1)),
    ("", ""),
    ("$$", ""),
    ("", "5"),
]

#: Only math-verify knows these.
EXPRESSIONS = [
    (r"\sqrt{8}", r"2\sqrt2"),
    ("2*sqrt(2)", r"\sqrt8"),
    ("√8", "2√2"),
    (r"\sqrt{4}", "2"),
    (r"\sqrt[3]{8}", "2"),
    (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt2}"),
    (r"5\sqrt2\text{ cm}", r"\sqrt{50}"),
    (r"\frac{\pi}{2}", "pi/2"),
    ("(3, \\frac{\\pi}{2})", "(3, π/2)"),
    ("(1/2, 3)", "(0.5,3)"),
    (r"\{1,2\}", r"\{2,1\}"),
    ("1,2", "2, 1"),
    ("1 and 2", "2,1"),
    (r"1\pm\sqrt2", r"1+\sqrt{2},1-\sqrt{2}"),
    (r"\left[\frac12, 2\right)", "[0.5,2)"),
    (r"(-\infty,2)\cup(3,\infty)", r"(-\infty, \sqrt{4}) \cup (3, \infty)"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix} \frac{2}{2} \\ 2 \end{pmatrix}"),
    ("x^2+2x+1", "(x+1)^2"),
    ("2x+3", "3+2x"),
    ("y = 2x+3", "3+2x"),
    ("x**2+1", "1+x^2"),
    (r"-\frac{1}{2x}", "-1/(2x)"),
    ("3+4i", "4i + 3"),
    (r"x \ge 3", r"3 \le x"),
    ("x+y=3", "3=y+x"),
    ("2^{100}", "2*2^{99}"),
    (r"\log_2 8", "3"),
    ("99999*99999", "9999800001"),
    ("9^{99}-9^{99}+1", "1"),
    ("0.1x", "x/10"),
    ("e^{i\\pi}+1", "0"),
    (r"\sqrt{3+2\sqrt2}", r"1+\sqrt2"),
    (r"\sin^2 x+\cos^2 x", "1"),
    ("2*3", "6"),
]


@pytest.fixture
def alone(monkeypatch):
    """As where math-verify is not installed."""
    monkeypatch.setitem(sys.modules, "math_verify", None)
    forget()
    yield
    forget()


def forget():
    from atp.parsing import answers

    answers._same_answer.cache_clear()


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_answer_in_two_forms(one, other):
    assert same_answer(one, other) and same_answer(other, one)


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_answer_without_math_verify(one, other, alone):
    assert same_answer(one, other) and same_answer(other, one)


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_another_answer(one, other):
    assert not same_answer(one, other) and not same_answer(other, one)


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_another_answer_without_math_verify(one, other, alone):
    assert not same_answer(one, other) and not same_answer(other, one)


@pytest.mark.parametrize(("one", "other"), EXPRESSIONS)
def test_the_same_expression(one, other):
    pytest.importorskip("math_verify")
    assert same_answer(one, other) and same_answer(other, one)


def test_without_math_verify_expressions_are_text(alone):
    assert not any(same_answer(one, other) for one, other in EXPRESSIONS)
    assert all(same_answer(one, f" ${one}$. ") for one, _ in EXPRESSIONS if not one.startswith("y ="))


HOSTILE = ["9^{9^{9}}", "10**10**10", "9^9^9", "10^10^10", "9^1 0^1 0", "9^%9^%9", "2^{9999}^{9999}", "9^{9} ^{9}"]
HOSTILE += ["((9^{99})^{99})^{99}", "9^{9}{}^{9}", "2^{99999}", "(x+y+z)^{999}", "e^{e^{e^{9}}}", r"\exp(\exp(9))"]
HOSTILE += ["factorial(99999)", "99999999!", r"\binom{99999}{44444}", r"\sum_{i=1}^{999999999} i", r"\int x"]
HOSTILE += [r"\sqrt{z+999999999999999^{99}}", r"\sqrt[0.001]{9}", r"\pm" * 9 + "1", "1+" * 60 + "1", "9" * 20]
HOSTILE += ["(" * 20 + "1" + ")" * 20, "{" * 20 + "1" + "}" * 20, r"\frac{" * 9 + "1" + "}{2}" * 9, "|" * 20 + "x"]
HOSTILE += [
    r"\begin{pmatrix}x&y\\z&x\end{pmatrix}^{20}",
    r"\begin{cases}1\end{cases}",
    r"\input{x}",
    "__import__('os')",
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_what_could_hold_a_run_up_is_not_read_at_all(hostile, monkeypatch):
    monkeypatch.setattr(expressions, "_parse", lambda text: pytest.fail(f"{text} was read"))
    assert not expressions.same(hostile, r"\sqrt{8}")
    assert not expressions.same(r"\sqrt{8}", hostile)


def test_whatever_the_reader_raises_is_no_equality(monkeypatch):
    for error in (ValueError, RecursionError, AttributeError, TypeError):
        monkeypatch.setattr(expressions, "_parse", lambda text, error=error: (_ for _ in ()).throw(error))
        assert not expressions.same(r"\sqrt{8}", r"2\sqrt2")


def test_the_reader_sets_no_alarm_and_says_nothing(caplog, monkeypatch):
    pytest.importorskip("math_verify")
    import signal

    monkeypatch.setattr(signal, "alarm", lambda seconds: pytest.fail("an alarm"))
    assert expressions.same(r"\sqrt{72}", r"6\sqrt2")
    assert not expressions.same(r"\sqrt{", r"6\sqrt2")
    assert caplog.records == []


def forms(value: Fraction) -> list[str]:
    """Ways to write a rational."""
    above, below, minus = abs(value.numerator), value.denominator, "-" if value < 0 else ""
    written = [
        f"{minus}{above}/{below}",
        rf"{minus}\frac{{{above}}}{{{below}}}",
        rf"\dfrac{{{minus}{above}}}{{{below}}}",
    ]
    if above > below > 1:
        written.append(rf"{minus}{above // below}\frac{{{above % below}}}{{{below}}}")
        written.append(f"{minus}{above // below} {above % below}/{below}")
    if below == 1:
        written += [f"{minus}{above:,}", f"{minus}{above:,}".replace(",", " "), f"{minus}{above:,}".replace(",", "{,}")]
        written += [
            f"{minus}{above}.0",
            f"{minus}00{above}",
            f"{minus}{above}e0",
            f"{minus}${above}",
            f"{minus}{above}%",
        ]
    written += [f"${each}$" for each in written if "$" not in each] + [f"x = {each}." for each in written]
    return written + [rf"\boxed{{{each}}}" for each in written] + [each.replace("-", "−") for each in written]


@given(st.fractions(), st.fractions())
@settings(deadline=None)
def test_a_rational_is_itself_in_every_form_and_no_other(one, other):
    for each in forms(one):
        assert same_answer(each, forms(one)[0]), each
        assert same_answer(each, forms(other)[0]) == (one == other)


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**9), max_value=10**9, places=6))
def test_a_decimal_is_exact(value):
    assert same_answer(f"{value:f}", f"{value:,f}")
    assert same_answer(f"{value:f}", str(Fraction(value)))
    assert not same_answer(f"{value:f}", str(Fraction(value) + Fraction(1, 10**9)))


PIECES = ["1", "2", "9" * 9, ".", ",", " ", "-", "+", "/", "*", "^", "^{", "{", "}", "(", ")", "[", "]", "|", "=", "$"]
PIECES += [
    "\\frac",
    "\\sqrt",
    "\\boxed{",
    "\\text{",
    "\\pi",
    "\\",
    "x",
    "y",
    "e",
    "i",
    "cm",
    "%",
    "°",
    "\ud800",
    "٣",
    "²",
]
PIECES += ["answer", "Answer: ", ": ", '{"answer": ', '"', "\n", "<think>", "</think>", "nan", "1e999999999", "\x00"]
soup = st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join))


@given(soup, soup)
@settings(deadline=None)
def test_any_two_texts_are_the_same_or_not(one, other):
    assert same_answer(one, other) in (True, False)


@given(soup)
@settings(deadline=None)
def test_any_text_states_an_answer_or_none(text):
    answer = read_answer(text)
    assert answer is None or (0 < len(answer) <= MAX_ANSWER_CHARS and answer == answer.strip())


@given(st.text(min_size=1, max_size=99).map(str.strip).filter(bool))
@settings(deadline=None)
def test_an_answer_comes_back_from_each_of_its_places(text):
    if "{" not in text and "}" not in text and "\\" not in text and "think>" not in text.casefold():
        assert read_answer(rf"It is \boxed{{{text}}}.") == text
        if not any(character < " " for character in text):
            assert read_answer(json.dumps({"answer": text})) == text


@pytest.mark.parametrize(
    "unit",
    ["{", "}", r"\boxed{", r"\boxed{}", "\\", "answer", "answer: ", "answer:\n", '{"answer": ', '"answer":"', " "],
)
def test_long_nonsense_takes_time_that_grows_with_its_length(unit):
    """A megabyte takes less than half a second; at quadratic cost, minutes."""
    started = time.perf_counter()
    read_answer(unit * (1_000_000 // len(unit)))
    same_answer(unit * (MAX_ANSWER_CHARS // len(unit)), "5")
    assert time.perf_counter() - started < 3
