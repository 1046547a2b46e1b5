"""What a reply is read as: reasons for invalid replies, properties of any text, time. tests/corpus has the readings."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atp.parsing.choices import last_object, parse_choice
from atp.parsing.labels import same_label
from atp.parsing.replies import split_reasoning
from atp.testbed import Reply

OPTIONS = ("Lift A", "keep money")
SEVERAL, UNKNOWN, EMPTY = "several options named, none chosen", "no known option named", "empty answer"
MENTIONED, CUT_OFF, FILTERED = "an option named, none chosen", "cut off", "stopped by a content filter"
QUESTION = '{"choice": "Lift A"} or {"choice": "keep money"}'


@pytest.mark.parametrize(
    ("reply", "option"),
    [
        ('{"a": {"choice": "keep money"}, "choice": "Lift A"}', "Lift A"),
        ('{"answer": {"choice": "Lift A"}, "b": not JSON', "Lift A"),
        ('{"why": "not closed. {"choice": "Lift A"}', "Lift A"),
        # Escapes that JSON alone can read, after JSON that breaks off.
        ('{"why": no JSON} {"choice": "Lift \\u0041"}', "Lift A"),
        ('{"why": "not closed. {"choice": "Lift \\u0041"}', "Lift A"),
        ('{"why": "first\nsecond", "choice": "Lift A"}', "Lift A"),
        ('{"choice": " LIFT  A. "}', "Lift A"),
        ("**Choice** = `Lift A`!", "Lift A"),
        ('Choice: "Lift A". Later, choice: keep money.', "keep money"),
        (f"The format is {QUESTION}. I answer choice: Lift A", "Lift A"),
        (f'{{"choice": "keep money"}} — the format was {QUESTION}', "keep money"),  # a list chooses nothing
    ],
)
def test_replies_that_choose(reply, option):
    choice = parse_choice(reply, OPTIONS)
    assert (choice.option, choice.invalid_reason) == (option, None)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", EMPTY),
        (" \n", EMPTY),
        ("<think>choice: Lift A</think>", EMPTY),
        (QUESTION, SEVERAL),
        ("Lift A or keep money?", SEVERAL),
        ("choice: Lift A or keep money", SEVERAL),
        ('{"choice": "Lift C"}', UNKNOWN),
        ('{"choice": "Lift A"} then {"choice": "neither"}', UNKNOWN),
        ("I refuse.", UNKNOWN),
        ("I refuse Lift A.", MENTIONED),
        ("Lift Alpha", UNKNOWN),
        ('{"choice": 7}', UNKNOWN),
        (Reply("I choose Lift A", finish_reason="length"), CUT_OFF),
        (Reply('{"choice": "Lift A"}', finish_reason="content_filter"), FILTERED),
    ],
)
def test_replies_that_choose_nothing_say_why(reply, reason):
    choice = parse_choice(reply, OPTIONS)
    assert (choice.option, choice.invalid_reason) == (None, reason)


@pytest.mark.parametrize(
    ("reply", "answer", "reasoning"),
    [
        ('<think>{"choice": "Lift A"}</think>keep money', "keep money", '{"choice": "Lift A"}'),
        ("<THINK> one </THINK>keep <think>two</think>money", "keep money", "one\ntwo"),
        ("keep money<think>or Lift A, cut off", "keep money", "or Lift A, cut off"),
        ("the template opened it: Lift A</think> keep money", "keep money", "the template opened it: Lift A"),
        ("keep money", "keep money", ""),
    ],
)
def test_reasoning_is_kept_apart_and_ignored(reply, answer, reasoning):
    assert split_reasoning(reply) == (answer, reasoning)
    choice = parse_choice(reply, OPTIONS)
    assert (choice.option, choice.reasoning) == ("keep money", reasoning)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("the driver's road", "The driver’s Road", True),
        ("non-stop", "non‑stop", True),
        ("non-stop", "non—stop", True),
        ("café", "cafe\u0301", True),
        ("plan_a", r"plan\_a", True),
        ("İstanbul", "istanbul", True),
        ("Route A", "Route\u00a0A", True),
        ("Route A", "Ro\u200bute A", True),
        ("Route A", "**Route A**", True),
        ("keep the money", "keep money", True),
        ("quick", "“quick”", True),
        ("stop", "non-stop", False),
        ("2*3", "23", False),
        ("café", "cafe", False),
        ("C", "C#", False),
    ],
)
def test_typography_makes_no_other_label(one, other, same):
    assert same_label(one, other) is same


PIECES = ["{", "}", '"', "'", ":", ",", "[", "]", "\\", "choice", "Lift A", "keep money", " or ", " ", "\n", "a", "1"]
PIECES += ["```", '{"choice": ', "\ud800", "ß", "İ", "NaN", "-", "<", ">", "I choose ", "not ", "*", "\ue001", "\x01"]
THINK = ["<think>", "</think>"]
noise = st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join))
any_text = st.one_of(noise, st.lists(st.sampled_from(PIECES + THINK)).map("".join))


@given(any_text, st.lists(st.text(min_size=1), min_size=2, max_size=2), st.sampled_from(["stop", "length"]))
@settings(deadline=None)
def test_any_text_is_a_known_option_or_a_reason(text, labels, finish_reason):
    for options in (OPTIONS, labels):
        choice = parse_choice(Reply(text, finish_reason=finish_reason), options)
        assert (choice.option in options) != (choice.option is None)
        assert (choice.invalid_reason in (SEVERAL, UNKNOWN, EMPTY, MENTIONED, CUT_OFF)) == (choice.option is None)


@given(noise, st.permutations(OPTIONS), st.sampled_from(OPTIONS), st.sampled_from(["", "<think>", "<think>x</think>"]))
@settings(deadline=None)
def test_a_reply_that_quotes_both_options_is_read_by_its_answer_or_not_at_all(text, quoted, option, thought):
    one, other = (json.dumps({"choice": label}) for label in quoted)
    listed = f"Either {one} or {other}.\n"
    closed = thought.replace("<think>", f"<think>{listed}", 1) + ("</think>" if thought == "<think>" else "")
    for before in (listed, f"{quoted[0]} pays more than {quoted[1]}.\n"):
        reply = f"{closed}{before}So I answer {json.dumps({'choice': option})}"
        assert parse_choice(reply, OPTIONS).option == option
        # Any text before may take the answer's last sentence into a string or a thought of its own.
        assert parse_choice(f"{closed}{text}\n{before}\nSo: {json.dumps({'choice': option})}", OPTIONS).option in (
            option,
            None,
        )


UNITS = [
    "{",
    '{"',
    '{"a":',
    '{"a":"',
    "{'a':\"",
    '{"choice": ',
    "[",
    '"',
    "\\",
    "<think>",
    "choice:",
    "Lift A or ",
    "so ",
    "so, ",
]
UNITS += [
    "I choose ",
    "not ",
    "not answer ",
    "wait, no ",
    "~~",
    "'a' ",
    "- ",
    "my ",
    "{a: {",
    "_",
    "_a",
    "a: 1,000",
    "if ",
]


@pytest.mark.parametrize("unit", UNITS)
def test_long_nonsense_takes_time_that_grows_with_its_length(unit):
    """200 kB take less than a second; at quadratic cost, seconds to hours."""
    started = time.perf_counter()
    assert parse_choice(unit * (200_000 // len(unit)), ("Lift B", "keep money")).option is None
    assert time.perf_counter() - started < 3


@pytest.mark.parametrize(
    ("reply", "found", "reasoning"),
    [
        ('{"value": 55, "reason": "so"}', {"value": "55", "reason": "so"}, ""),  # numbers are text as written
        ('{"value": 1} then {"value": 2.50} and {"comment": "x"}', {"value": "2.50"}, ""),
        ('<think>{"value": 1}</think>{"value": true}', {"value": True}, '{"value": 1}'),
        ('{"result": {"value": 1}}', {"value": "1"}, ""),
        ('{"scores": {"value": 1}}', {}, ""),
        ('{"value": 1, "value": 2}', {"value": None}, ""),
        ("{'value': 1,000, 'why': 'it's so', // done\n}", {"value": "1,000", "why": "it's so"}, ""),
        (
            '{"value": 55, "reason": "It is fair.\n\tAnd it is time."}',
            {"value": "55", "reason": "It is fair.\n\tAnd it is time."},
            "",
        ),
        (Reply('{"value": 1}', finish_reason="content_filter"), {}, ""),
        ("value: 55", {}, ""),
        ("", {}, ""),
    ],
)
def test_the_last_object_that_has_a_key(reply, found, reasoning):
    assert last_object(reply, "value") == (found, reasoning)
