"""Numbers are read whole or not at all. tests/corpus has the replies that state them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atp.parsing.numbers import parse_number, read_number


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("55", 55.0),
        (" -1e3\n", -1000.0),
        (2.5, 2.5),
        (".5", 0.5),
        ("40.", 40.0),
        ("+5", 5.0),
        ("−5", -5.0),
        ("- 5", -5.0),
    ]
    + [("1,250", 1250.0), ("1 250", 1250.0), ("1'250", 1250.0), ("1_250", 1250.0), ("1,250,000.75", 1250000.75)]
    + [("1/2", 0.5), ("-1/2", -0.5), ("2 1/2", 2.5), ("2½", 2.5), ("⅓", 1 / 3), ("1⁄2", 0.5)]
    + [
        ("$40", 40.0),
        ("-$40", -40.0),
        ("€ 40", 40.0),
        ("40 cents", 40.0),
        ("40 €", 40.0),
        ("４０", 40.0),
    ]
    + [(text, None) for text in ("1,5", "1,25", "1.250,00", "1,2500", "12,34,567", "0,250", "40-50", "40–50", "12:30")]
    + [
        (text, None)
        for text in ("1/0", "1/2/3", "5 more", "5k", "5 thousand", "~5", "+-5", "10²", "4*5", "1.2.3", "40 %", "5 t")
    ]
    + [(value, None) for value in (None, True, [1], {}, "", "nan", "inf", "9" * 5000, float("nan"), "five")],
)
def test_a_number_is_read_whole_or_not_at_all(value, number):
    assert read_number(value) == number


def test_a_unit_of_the_scenario_may_stand_behind_a_number():
    assert read_number("5 tonnes a month", "tonnes a month") == 5.0
    assert parse_number("value: 5 tonnes a month, no more", "value", "tonnes a month").value == 5.0
    assert parse_number("value: 5 tonnes a month", "value").value is None


@given(
    st.integers(-(10**9), 10**9),
    st.sampled_from([",", " ", "'", "_", ""]),
    st.sampled_from(["", "-50", "/3/4", ":30", ",5", "e", " 7"]),
)
@settings(deadline=None)
def test_an_integer_has_all_its_digits_and_nothing_may_follow(number, separator, rest):
    written = f"{number:,}".replace(",", separator)
    for text in (f"value: {written}", f'{{"value": {written}}}', f'{{"value": "{written}"}}'):
        assert parse_number(text, "value").value == number
    assert parse_number(f"value: {written}{rest}", "value").value in ((number,) if not rest else (None,))
