"""Calls and their outcomes: order, bounds, and what no text may do."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atp.tools import TOOLS, Call, Outcome, ToolError, run_calls, schema, tool

needs_bwrap = pytest.mark.skipif(not shutil.which("bwrap"), reason="no sandbox: apt-get install bubblewrap")


def test_schemas_are_what_chat_templates_take():
    assert schema("calculator")["function"]["parameters"]["required"] == ["expression"]
    assert schema("python")["function"]["parameters"]["properties"]["code"]["type"] == "string"
    for name in TOOLS:
        assert schema(name)["type"] == "function" and schema(name)["function"]["name"] == name
        assert len(schema(name)["function"]["description"].split()) < 12
        assert json.loads(json.dumps(schema(name))) == schema(name)


def test_outcomes_are_in_order_and_equal_calls_run_once(monkeypatch):
    asked = []

    def count(text):
        asked.append(text)
        return text * 2

    monkeypatch.setitem(TOOLS, "calculator", tool.Tool("calculator", "", "expression", "", count))
    calls = [Call("calculator", text) for text in "abac"]
    assert [outcome.text for outcome in run_calls(calls)] == ["aa", "bb", "aa", "cc"]
    assert asked == ["a", "b", "c"] and run_calls([]) == []


def test_an_unknown_tool_is_an_outcome():
    (outcome,) = run_calls([Call("search\x1b\ud800" + "x" * 99, "")])
    assert outcome.failed and outcome.text.startswith("Error: no tool is called 'search\ufffd\ufffdxxx")
    assert "'; there is calculator, python, read_file, write_file" in outcome.text and len(outcome.text) < 160


@pytest.mark.parametrize("failed", [False, True])
def test_a_long_or_unfit_text_is_cut_and_mended(failed, monkeypatch):
    def say(text):
        if failed:
            raise ToolError(text)
        return text

    monkeypatch.setitem(TOOLS, "calculator", tool.Tool("calculator", "", "expression", "", say))
    odd, long = run_calls([Call("calculator", "\x1b[2J\ta\nb\x00\x9b\ud800\u202eü"), Call("calculator", "x" * 10**6)])
    start = "Error: " if failed else ""
    assert odd == Outcome(f"{start}\ufffd[2J\ta\nb\ufffd\ufffd\ufffd\ufffdü", failed)
    assert long.text == f"{start}{'x' * (2000 - len(start))} (and {10**6 - 2000 + len(start)} more characters)"


@given(st.text(max_size=600), st.sampled_from(["calculator", "", "calc"]))
@settings(deadline=None)
def test_no_text_raises(text, name):
    (outcome,) = run_calls([Call(name, text)])
    assert outcome.text.encode() and outcome.failed == outcome.text.startswith("Error: ")


@needs_bwrap
@given(st.text(max_size=200))
@settings(deadline=None, max_examples=20)
def test_no_program_raises(text):
    (outcome,) = run_calls([Call("python", text)])
    assert outcome.text.encode() and outcome.failed == outcome.text.startswith("Error: ")


@needs_bwrap
def test_programs_run_side_by_side():
    begun = time.monotonic()
    outcomes = run_calls([Call("python", f"import time; time.sleep(0.5); print({n})") for n in (1, 2)])
    assert [outcome.text for outcome in outcomes] == ["1", "2"]
    if len(os.sched_getaffinity(0)) > 1:
        assert time.monotonic() - begun < 0.95


@needs_bwrap
def test_what_programs_print_is_cut_and_mended():
    codes = ["print(5000 * 'x')", "print('\\x1b[2J')", "raise ValueError('\\x1b[2J')"]
    long, escape, error = run_calls([Call("python", code) for code in codes])
    assert long.text == "x" * 2000 + " (and 3000 more characters)"
    assert escape == Outcome("\ufffd[2J", False) and error == Outcome("Error: ValueError: \ufffd[2J", True)


def test_the_room_loads_little():
    code = "import sys, atp.tools; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"simpleeval", "pydantic", "concurrent.futures", "torch"} & set(loaded)
