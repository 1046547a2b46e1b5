"""What a reply is read as."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atp.parsing.choices import last_object, loose_number, parse_choice, read_number
from atp.parsing.replies import split_reasoning

OPTIONS = ("Lift A", "keep money")
SEVERAL, UNKNOWN, EMPTY = "several options named, none chosen", "no known option named", "empty answer"
QUESTION = '{"choice": "Lift A"} or {"choice": "keep money"}'


@pytest.mark.parametrize(
    ("reply", "option"),
    [
        ('{"choice": "Lift A"}', "Lift A"),
        ('I think so.\n```json\n{"choice": "keep money"}\n```', "keep money"),
        ('{"choice": "keep money"} On reflection: {"choice": "Lift A"}', "Lift A"),  # the last one wins
        ('{"choice": "Lift A"} {"choice": "neither"} {"mood": "keep money"}', "Lift A"),  # of those that name one
        ('{"answer": {"choice": "Lift A"}}\n{"choice": "keep money"}', "keep money"),
        ('{"a": {"choice": "Lift A"}, "b": not JSON', "Lift A"),
        ('{"why": "not closed. {"choice": "Lift A"}', "Lift A"),
        # Escapes that JSON alone can read, after JSON that breaks off.
        ('{"why": no JSON} {"choice": "Lift \\u0041"}', "Lift A"),
        ('{"why": "not closed. {"choice": "Lift \\u0041"}', "Lift A"),
        ('{"choice": " LIFT  A. "}', "Lift A"),
        ("{'choice': 'Keep Money'}", "keep money"),
        ("choice: keep   money", "keep money"),
        ("**Choice** = `Lift A`!", "Lift A"),
        ('Choice: "Lift A". Later, choice: keep money.', "keep money"),
        ("I keep money.", "keep money"),  # prose that holds one name, and nothing else to go by
        ("KEEP MONEY", "keep money"),
        ("“Lift A”", "Lift A"),
        (f"The format is {QUESTION}. I answer choice: Lift A", "Lift A"),
        (f'{{"choice": "keep money"}} answers {QUESTION}', "keep money"),  # a list of what there is chooses nothing
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
        ("I refuse.", UNKNOWN),
        ("Lift Alpha", UNKNOWN),
        ('{"choice": 7}', UNKNOWN),
        ('["Lift"]', UNKNOWN),
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


def test_a_name_inside_a_longer_name_does_not_count():
    options = ("route 1", "route 1 north")
    assert parse_choice("choice: route 1 north", options).option == "route 1 north"
    assert parse_choice("I take route 1 north.", options).option == "route 1 north"
    assert parse_choice("I take route 1.", options).option == "route 1"
    assert parse_choice("route 1, not route 1 north", options).invalid_reason == SEVERAL


PIECES = ["{", "}", '"', "'", ":", ",", "[", "]", "\\", "choice", "Lift A", "keep money", " or ", " ", "\n", "a", "1"]
PIECES += ["```", '{"choice": ', "\ud800", "ß", "İ", "NaN", "-", "<", ">"]
THINK = ["<think>", "</think>"]
noise = st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join))
spoken = noise.filter(lambda text: "think>" not in text.casefold())
any_text = st.one_of(noise, st.lists(st.sampled_from(PIECES + THINK)).map("".join))


@given(any_text, st.lists(st.text(min_size=1), min_size=2, max_size=2))
@settings(deadline=None)
def test_any_text_is_a_known_option_or_a_reason(text, labels):
    for options in (OPTIONS, labels):
        choice = parse_choice(text, options)
        assert (choice.option in options) != (choice.option is None)
        assert (choice.invalid_reason in (SEVERAL, UNKNOWN, EMPTY)) == (choice.option is None)


@given(spoken, st.permutations(OPTIONS), st.sampled_from(OPTIONS), st.sampled_from(["", "<think>", "<think>x</think>"]))
@settings(deadline=None)
def test_a_reply_that_quotes_both_options_is_read_by_its_answer(text, quoted, option, thought):
    one, other = (json.dumps({"choice": label}) for label in quoted)
    listed = f"Either {one} or {other}.\n"
    closed = thought.replace("<think>", f"<think>{listed}", 1) + ("</think>" if thought == "<think>" else "")
    for before in (text + listed, f"{quoted[0]} pays more than {quoted[1]}. {text}\n"):
        reply = f"{closed}{before}So I answer {json.dumps({'choice': option})}"
        assert parse_choice(reply, OPTIONS).option == option


@pytest.mark.parametrize(
    "unit", ["{", '{"', '{"a":', '{"choice": ', "[", '"', "\\", "<think>", "choice:", "Lift A or "]
)
def test_long_nonsense_takes_time_that_grows_with_its_length(unit):
    """200 kB take less than half a second; at quadratic cost, seconds to hours."""
    started = time.perf_counter()
    assert parse_choice(unit * (200_000 // len(unit)), ("Lift B", "keep money")).option is None
    assert time.perf_counter() - started < 3


@pytest.mark.parametrize(
    ("reply", "found", "reasoning"),
    [
        ('{"value": 55, "reason": "so"}', {"value": "55", "reason": "so"}, ""),  # whole numbers are text
        ('{"value": 1} then {"value": 2.5} and {"comment": "x"}', {"value": 2.5}, ""),
        ('<think>{"value": 1}</think>{"value": true}', {"value": True}, '{"value": 1}'),
        ('{"value": 1} {"value": ...}', {"value": "1"}, ""),
        ('{"scores": {"value": 1}}', {}, ""),  # of nested objects the outermost counts
        ("value: 55", {}, ""),
        ("", {}, ""),
    ],
)
def test_the_last_object_that_holds_a_key(reply, found, reasoning):
    assert last_object(reply, "value") == (found, reasoning)


@pytest.mark.parametrize(
    ("value", "number"),
    [("55", 55.0), (" -1e3\n", -1000.0), (2.5, 2.5), ("9" * 5000, None), (float("nan"), None), ("inf", None)]
    + [(value, None) for value in (None, True, [1], {}, "", "55 cents", "1,5")],
)
def test_what_is_a_number(value, number):
    assert read_number(value) == number


@given(any_text)
@settings(deadline=None)
def test_any_text_holds_an_object_or_none(text):
    found, _ = last_object(text, "choice")
    assert found == {} or "choice" in found


def test_a_line_break_inside_a_text_breaks_no_object():
    said = '{"value": 55, "reason": "It is fair.\n\tAnd it is time."}'
    found, _ = last_object(said, "value")
    assert found == {"value": "55", "reason": "It is fair.\n\tAnd it is time."}
    assert parse_choice('{"why": "first\nsecond", "choice": "Lift A"}', ("Lift A", "Lift B")).option == "Lift A"


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ("{'value': 40, 'reason': 'x'}", 40.0),
        ('{"value": 40.5, reason: "x"}', 40.5),
        ('{"Value": "-3", "reason": "a "quote" inside"}', -3.0),
        ("I propose value: 40, so value = 40.", 40.0),
        ("value: 40 or value: 50", None),
        ("<think>value: 40</think>none", None),
        ("value: forty", None),
        ("value: 1e9", None),
    ],
)
def test_a_number_named_loosely(said, number):
    assert loose_number(said, "value") == number
