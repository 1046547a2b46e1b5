"""What a reply asks of a tool."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atp.parsing.replies import THOUGHT_MARKS, split_reasoning
from atp.parsing.tool_calls import MAX_CALLS, NOT_CLOSED, ParsedCall, parse_calls

TOOLS = {"calculator": "expression", "python": "code"}
SUM = ("calculator", "1+2")
JSON = '{"name": "calculator", "arguments": {"expression": "1+2"}}'
LLAMA = '{"name": "calculator", "parameters": {"expression": "1+2"}}'
CODER = "<tool_call>\n<function=calculator>\n<parameter=expression>\n1+2\n</parameter>\n</function>\n</tool_call>"


def tagged(inside: str) -> str:
    return f"<tool_call>\n{inside}\n</tool_call>"


@pytest.mark.parametrize(
    ("reply", "calls"),
    [
        # Hermes and Qwen, as their chat templates print a call.
        (tagged(JSON), [SUM]),
        (f"I add.\n{tagged(JSON)}", [SUM]),
        (f"<think>\n{tagged(JSON)}\n</think>\n\n{tagged(JSON)}", [SUM]),
        (f"{tagged(JSON)}\n{tagged(JSON.replace('1+2', '3*4'))}", [SUM, ("calculator", "3*4")]),
        (f"<tool_call>{JSON}</tool_call><tool_call>\n\n {JSON}\t</tool_call>", [SUM, SUM]),
        (tagged('{"name": "calculator", "arguments": "{\\"expression\\": \\"1+2\\"}"}'), [SUM]),
        (tagged(LLAMA), [SUM]),
        (tagged('{"arguments": {"expression": "1+2"}, "name": "calculator"}'), [SUM]),
        (tagged(f'{{"type": "function", "function": {JSON}}}'), [SUM]),
        (tagged('{"name": "python", "arguments": {"code": "a = 1\nprint(a)"}}'), [("python", "a = 1\nprint(a)")]),
        (tagged('{"name": "calculator", "arguments": {"expression": 0.10}}'), [("calculator", "0.10")]),
        (tagged(JSON.replace('"1+2"', "9" * 5000)), [("calculator", "9" * 5000)]),
        (tagged('{"name": "python", "arguments": {"code": "\'</tool_call>\'"}}'), [("python", "'</tool_call>'")]),
        (f"```xml\n{tagged(JSON)}\n```", [SUM]),
        # Qwen3-Coder.
        (CODER, [SUM]),
        (CODER.replace("\n", ""), [SUM]),
        (CODER.replace("1+2", "1\n\n+2 < 3"), [("calculator", "1\n\n+2 < 3")]),
        # Llama 3.1.
        (LLAMA, [SUM]),
        (f"<|python_tag|>{LLAMA}", [SUM]),
        (f"\n {LLAMA} \n", [SUM]),
        (f"{LLAMA}<|eom_id|>", [SUM]),
        (f"{LLAMA}; {LLAMA.replace('1+2', '5')}", [SUM, ("calculator", "5")]),
        (f"{LLAMA}\n{LLAMA}", [SUM, SUM]),
        (JSON, [SUM]),
        (f'{{"type": "function", "function": {LLAMA}}}', [SUM]),
        ('{"type": "function", "name": "calculator", "parameters": {"expression": "1+2"}}', [SUM]),
        # Plain fences.
        ("```calculator\n1+2\n```", [SUM]),
        ("I add:\n```Calculator \n1+2\n```\nand wait.", [SUM]),
        ("```python\nprint(1)\n\nprint(2)\n```", [("python", "print(1)\n\nprint(2)")]),
        ("````python\n'''\n```\n'''\n````", [("python", "'''\n```\n'''")]),
        ("```calculator\n```", [("calculator", "")]),
        ("```calculator\r\n1+2\r\n```\r\n", [("calculator", "1+2\r")]),
        (f"```tool_call\n{JSON}\n```", [SUM]),
        (f"```json\n{{}}\n```\n```calculator\n1+2\n```\n{tagged(JSON)}", [SUM, SUM]),
        # A whole answer in a fence, in Python's list, and as InternLM and Phi-4 write calls.
        (f"```json\n{LLAMA}\n```", [SUM]),
        ("[calculator(expression='1+2')]", [SUM]),
        (f"<|action_start|><|plugin|>{LLAMA}<|action_end|>", [SUM]),
        (f"functools[{JSON}]", [SUM]),
        # None.
        ("", []),
        ("The answer is 3.", []),
        ('{"answer": 3}', []),
        ('{"name": "Ada", "age": 3}', []),
        (f"I would call {LLAMA}", []),
        (f"{LLAMA} I wait.", []),
        (f"```json\n{LLAMA}\n```\nIt adds.", []),
        ("```\n1+2\n```", []),
        ("```text\n```python\nprint(1)\n```", []),
        (f"<think>{tagged(JSON)}", []),
        (f"<think>{tagged(JSON)}</think>3", []),
        ("`calculator 1+2`", []),
        ("</tool_call>", []),
    ],
)
def test_calls_are_read(reply, calls):
    asked = parse_calls(reply, TOOLS)
    assert [(each.name, each.text) for each in asked if each.error is None] == calls
    assert len(asked) == len(calls)


def call(name: object, arguments: object) -> str:
    return tagged(json.dumps({"name": name, "arguments": arguments}))


OTHER = "no tool is called 'search'; there is calculator, python"
INVALID = "the call is not valid JSON"
NEEDS = "calculator needs the argument 'expression'"


@pytest.mark.parametrize(
    ("reply", "errors"),
    [
        (f"<tool_call>\n{JSON}", [NOT_CLOSED]),
        ("<tool_call>", [NOT_CLOSED]),
        ('<tool_call>\n{"name": "calc', [NOT_CLOSED]),
        (f'<tool_call>{{"name": "calc{tagged(JSON)}', [NOT_CLOSED, None]),
        (f"<tool_call>{JSON}{tagged(JSON)}", [NOT_CLOSED, None]),
        (f"<tool_call>{JSON}\n```calculator\n1\n```", [NOT_CLOSED, None]),
        ("```calculator\n1+2", [NOT_CLOSED]),
        ("````calculator\n1+2\n```", [NOT_CLOSED]),
        (f"```tool_call\n{JSON}", [NOT_CLOSED]),
        (CODER.removesuffix("\n</tool_call>"), [NOT_CLOSED]),
        (CODER.replace("</parameter>", ""), ["the call's function or parameter is not closed"]),
        (CODER.replace("</function>", ""), ["the call's function or parameter is not closed"]),
        (CODER.replace("expression", "code"), [NEEDS]),
        (CODER.replace("calculator", "search"), [OTHER]),
        (tagged("{'name': 'calculator'}"), [f"{INVALID}: Expecting property name enclosed in double quotes"]),
        (tagged(JSON + "}"), [f"{INVALID}: something follows its end"]),
        (f"{tagged(JSON + '}')}{tagged(JSON)}", [f"{INVALID}: something follows its end", None]),
        (f"```tool_call\n{JSON}}}\n```", [f"{INVALID}: Extra data"]),
        (tagged(""), [f"{INVALID}: Expecting value"]),
        (tagged("[" * 40_000), [f"{INVALID}: it is nested too deeply"]),
        (tagged("[1]"), ["the call is not a JSON object"]),
        (tagged("null"), ["the call is not a JSON object"]),
        (tagged("{}"), ["the call names no tool"]),
        (call(["calculator"], {}), ["the call names no tool"]),
        (tagged('{"name": "calculator"}'), [NEEDS]),
        (call("calculator", {}), [NEEDS]),
        (call("calculator", {"code": "1"}), [NEEDS]),
        (call("calculator", {"expression": "1", "digits": 2}), ["calculator takes only 'expression', not 'digits'"]),
        *(
            (call("calculator", {"expression": value}), ["the argument 'expression' must be text"])
            for value in (None, True, [1], {"a": 1})
        ),
        (call("calculator", ["1"]), ["the call's arguments are not a JSON object"]),
        (call("calculator", "1+2"), ["the call's arguments are not a JSON object"]),
        (call("search", {"query": "1"}), [OTHER]),
        (call("Calculator", {"expression": "1"}), [OTHER.replace("search", "Calculator")]),
        (LLAMA.replace("calculator", "search"), [OTHER]),
        (LLAMA[:-3], [f"{INVALID}: Unterminated string starting at"]),
        (LLAMA[:-1], [f"{INVALID}: Expecting ',' delimiter"]),
        (f"{LLAMA};{LLAMA[:-1]}", [None, f"{INVALID}: Expecting ',' delimiter"]),
    ],
)
def test_a_call_that_cannot_be_run_says_why(reply, errors):
    assert [each.error for each in parse_calls(reply, TOOLS)] == errors


def test_without_tools_there_is_none_to_call():
    assert parse_calls(tagged(JSON), {}) == [
        ParsedCall("calculator", "", "no tool is called 'calculator'; there is no tool", 0)
    ]
    assert parse_calls("```python\nprint(1)\n```", {"calculator": "expression"}) == []


def test_a_call_knows_where_it_stands_in_the_answer():
    said = f"<think>x</think>First\n```calculator\n1\n```\nthen\n{tagged(JSON)}"
    answer, _ = split_reasoning(said)
    assert [answer[each.start :][:5] for each in parse_calls(said, TOOLS)] == ["```ca", "<tool"]


def test_what_comes_back_is_short_and_can_be_written_to_a_file():
    odd = call("calculator", {"expression": "\ud800 1"}) + call("\udfff\n" * 500, {"\ud800" * 500: 1})
    odd += call("python", {"code": "1", "\ud800" * 500: 1}) + "\n```calculator\n\udc00\n```"
    asked = parse_calls(odd, TOOLS)
    assert len(asked) == 4 and asked[0].text == "? 1"
    for each in asked:
        "".join((each.name, each.text, each.error or "")).encode()
        assert len(each.error or "") < 160 and len(each.name) <= 60


def test_only_the_first_calls_are_read():
    for reply in (tagged(JSON) * 100, "```calculator\n1\n```\n" * 100, "; ".join([LLAMA] * 100)):
        assert len(parse_calls(reply, TOOLS)) == MAX_CALLS


texts = st.text() | st.lists(
    st.sampled_from(["</tool_call>", "<tool_call>", "```", "\n", '"', "\\", "{", "}", "1+2", ";", " ", "<function="])
).map("".join)
MARKS = [mark for pair in THOUGHT_MARKS.items() for mark in pair]
unthought = texts.filter(lambda text: not any(mark in text.casefold() for mark in MARKS))


@given(unthought, st.booleans(), st.sampled_from(["", "I add. ", "x "]))
@settings(deadline=None)
def test_any_argument_comes_back_from_json(text, ascii, before):
    inside = json.dumps({"name": "python", "arguments": {"code": text}}, ensure_ascii=ascii)
    assert parse_calls(f"{before}{tagged(inside)}", TOOLS) == [ParsedCall("python", text, None, len(before))]
    for reply in (f"<tool_call>{inside}</tool_call>{tagged(JSON)}", inside, f"{inside};{JSON}"):
        assert parse_calls(reply, TOOLS)[0] == ParsedCall("python", text)


@given(unthought)
@settings(deadline=None)
def test_any_argument_comes_back_from_tags(text):
    text = text.replace("</parameter>", "")
    reply = f"<tool_call>\n<function=python>\n<parameter=code>\n{text}\n</parameter>\n</function>\n</tool_call>"
    assert parse_calls(reply, TOOLS) == [ParsedCall("python", text)]


@given(unthought)
@settings(deadline=None)
def test_any_argument_without_a_fence_comes_back_from_a_fence(text):
    text = text.replace("```", "")
    for fence in ("```", "`````"):
        assert parse_calls(f"{fence}python\n{text}\n{fence}", TOOLS) == [ParsedCall("python", text)]
    assert parse_calls(f"````python\n```\n{text}\n```\n````", TOOLS) == [ParsedCall("python", f"```\n{text}\n```")]


PIECES = ["<tool_call>", "</tool_call>", "<function=python>", "<parameter=code>", "</parameter>", "</function>", "```"]
PIECES += [
    "```python\n",
    "```tool_call\n",
    "\n",
    "{",
    "}",
    '"',
    JSON,
    LLAMA,
    ";",
    "<|python_tag|>",
    "\ud800",
    "\\ud800",
]
PIECES += ["<think>", "</think>", '{"name": ', '"parameters": ', "[", "1e999", " "]


@given(st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join)), st.sampled_from([TOOLS, {}]))
@settings(deadline=None)
def test_any_text_is_calls_or_none(reply, tools):
    for each in parse_calls(reply, tools):
        assert each.error is not None or each.name in tools
        f"{each.name}{each.text}{each.error}".encode()


UNITS = ["<tool_call>", "<tool_call>{", '<tool_call>"', "`", "```\n", "```python\n", "```x", "```tool_call\n```\n"]
UNITS += ["{", '{"a":', '{"name": "', LLAMA, ";", "\n", " ", "[", "\\", "<think>", "</parameter>"]
UNITS += ["<tool_call><function=a><parameter=b>"]


@pytest.mark.parametrize("unit", UNITS)
def test_long_nonsense_takes_time_that_grows_with_its_length(unit):
    """A megabyte takes less than half a second; at quadratic cost, minutes."""
    started = time.perf_counter()
    assert len(parse_calls(unit * (1_000_000 // len(unit)), TOOLS)) <= MAX_CALLS
    assert time.perf_counter() - started < 3
