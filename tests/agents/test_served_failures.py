"""A served agent and servers that fail in every way: asked again, counted, said in one line; and what it is asked."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import FINE, KEY, Failing, completion, ok, play, request, served

from atp.agents.load import load_agent
from atp.errors import AtpError
from atp.files.tables import read_provenance
from atp.models.spec import ModelSpec, Sampling
from atp.parsing.tool_calls import parse_calls
from atp.testbed import Reply
from atp.tools import schema

pytest.importorskip("atp.agents.served", reason="Inspect is not installed: pip install -e '.[inspect]'")
#: Inspect's, to tenacity.
pytestmark = pytest.mark.filterwarnings("ignore:The 'initial' parameter:DeprecationWarning")


@pytest.fixture(autouse=True)
def key(monkeypatch) -> None:
    monkeypatch.setenv("LOCAL_API_KEY", KEY)


@pytest.fixture
def failing() -> Iterator[Any]:
    servers: list[Failing] = []

    def start(*answers: Any, **settings: Any) -> Failing:
        servers.append(Failing(*answers, **settings))
        return servers[-1]

    yield start
    for each in servers:
        each.http.shutdown()
        each.http.server_close()


def test_failures_and_garbage_are_asked_again_and_counted(failing, caplog):
    wrong = [
        (500, {}, "broken"),
        (503, {}, ""),
        (429, {"Retry-After": "1"}, "{}"),
        (200, {"Content-Type": "text/html"}, "<html>a page</html>"),
        (200, {}, "{no JSON"),
        (200, {}, ""),
        ok("a text"),
        ok({}),
        ok({**completion(), "choices": None}),
        ok({**completion(), "choices": [{"index": 0, "finish_reason": "stop", "message": None}]}),
        ok(completion(content=5)),
        ok({**completion(), "choices": []}),
        ok({"error": {"message": "overloaded", "code": 503}}),
        ok({**completion(content="half"), "error": "the backend was lost"}),
        ok({**completion(), "choices": [{"index": 0, "finish_reason": "error", "error": {"message": "gone"}}]}),
    ]
    server = failing(*wrong, FINE)
    count = len(wrong) + 1
    agent = served(Path("m"), server.url, batch=count)
    replies = agent.answer([request(number) for number in range(count)])
    assert replies == [Reply("fine", prompt_tokens=9, cached_tokens=5, completion_tokens=4)] * count
    assert agent.served == {"requests": count, "retries": len(wrong), "empty": 0, "refused": 0}
    assert len(server.seen) == count + len(wrong)
    assert f"so far {count} requests, {len(wrong)} retries, 0 empty, 0 refused" in caplog.text


def test_a_reply_without_text_is_invalid_and_never_compliance(failing, tmp_path):
    too_long = {"error": {"message": "comply", "code": "context_length_exceeded", "type": "invalid_request_error"}}
    server = failing(
        ok(completion()),
        ok(completion(content="")),
        ok(completion("content_filter", content='I comply, {"choice": "A"}')),
        (400, {}, json.dumps(too_long)),
        ok(completion(content="  ")),
    )
    agent = served(Path("m"), server.url, batch=1)
    turns = play(agent, "role_play", tmp_path / "turns.parquet", scenarios=2)
    assert set(turns["decision"].to_pylist()) == {"invalid"} and turns["violation"].null_count == len(turns) == 6
    assert set(turns["reply"].to_pylist()) == {""}
    assert sorted(turns["finish_reason"].to_pylist()) == ["content_filter", "length", *["stop"] * 4]
    assert agent.served == {"requests": 6, "retries": 0, "empty": 4, "refused": 2}


def test_a_server_that_fails_for_good_ends_the_stage_with_one_line(failing):
    down = failing((500, {}, "broken"))
    with pytest.raises(
        AtpError,
        match=r"^openai-api/local/m: no answer in 1 s .*(last error: .*500.*)?; what is finished .* rerun to resume$",
    ) as error:
        served(Path("m"), down.url, timeout=1).answer([request(0)])
    assert "\n" not in str(error.value)
    unknown = failing((404, {}, json.dumps({"error": {"message": f"no model\n'm' for {KEY}"}})))
    with pytest.raises(AtpError, match=r"m: request failed: .*404.*no model 'm' for \[secret\]") as error:
        served(Path("m"), unknown.url).answer([request(0)])
    assert "\n" not in str(error.value)
    for body, reason in (
        ({**completion(), "choices": []}, "the response has no choices"),
        ({"error": {"message": f"out of\nmemory {KEY}"}}, "the response is an error: .*out of.*memory .secret.*"),
    ):
        empty = failing(ok(body))
        with pytest.raises(
            AtpError, match=rf"m: no answer in 1 s .*; last error: BadResponseError: {reason}; "
        ) as error:
            served(Path("m"), empty.url, timeout=1).answer([request(0)])
        assert "\n" not in str(error.value)
    locked = failing((401, {}, json.dumps({"error": {"message": f"wrong key {KEY[:8]}"}})))
    with pytest.raises(AtpError, match=r"did not accept the key in LOCAL_API_KEY \(status 401\)$"):
        served(Path("m"), locked.url).answer([request(0)])
    assert len(unknown.seen) == len(locked.seen) == 1


def test_a_key_reaches_the_server_and_nothing_else(failing, tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    server = failing((500, {}, KEY), ok(completion(content=f"{KEY} \ud800")))
    out = tmp_path / "turns.parquet"
    turns = play(served(Path("m"), server.url, batch=4), "role_play", out, scenarios=2)
    assert {headers["authorization"] for headers, _ in server.seen} == {f"Bearer {KEY}"}
    assert set(turns["reply"].to_pylist()) == {"[secret] ?"}  # half a character fits into no file
    told = str(turns.to_pylist()) + json.dumps(read_provenance(out)) + caplog.text + str(capfd.readouterr())
    assert KEY not in told and "1 retries" in told
    assert all(KEY.encode() not in path.read_bytes() for path in tmp_path.iterdir())


def test_no_more_requests_are_in_flight_than_the_batch(failing):
    server = failing(FINE, delay=0.02)
    served(Path("in-flight"), server.url, batch=3).answer([request(number) for number in range(30)])
    assert server.max_busy == 3


def test_a_request_says_how_a_reply_is_sampled(failing):
    server = failing(FINE)
    sampling = Sampling(temperature=0.5, top_p=0.9, top_k=20, max_new_tokens=7)
    agent = served(Path("m"), server.url, sampling=sampling, chat_template={"enable_thinking": False})
    agent.answer([request(3)])
    ((_, body),) = server.seen
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "Well?"}],
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 20,
        "max_tokens": 7,
        "seed": 3,
        "chat_template_kwargs": {"enable_thinking": False},
    }


CALLING = '<tool_call>\n{"name": "calculator", "arguments": {"expression": "2 + 2"}}\n</tool_call>'


def test_tools_are_offered_as_here_and_calls_come_back_as_text(failing):
    calls = [
        {"id": "a", "type": "function", "function": {"name": "calculator", "arguments": '{"expression": "2 + 2"}'}},
        {"id": "b", "type": "function", "function": {"name": "calculator", "arguments": "{no JSON"}},
        {"id": "c", "type": "function", "function": {"name": "abacus", "arguments": '{"beads": 4}'}},
    ]
    server = failing(ok(completion("tool_calls", content="So: ", reasoning_content="hm", tool_calls=calls)))
    (reply,) = served(Path("m"), server.url).answer([request(0, tools=("calculator",))])
    ((_, body),) = server.seen
    assert body["tools"] == [schema("calculator")]
    assert reply.finish_reason == "stop" and reply.text.startswith(f"<think>\nhm\n</think>\n\nSo:\n{CALLING}\n")
    first, second, third = parse_calls(reply.text, {"calculator": "expression"})
    assert (first.name, first.text, first.error) == ("calculator", "2 + 2", None)
    assert second.error.startswith("the call is not valid JSON: Expecting property name")
    assert third.error == "no tool is called 'abacus'; there is calculator"


PROGRAM = "import math\nfor n in [1, 2]:\n    print(n)\n"


@pytest.mark.parametrize(
    ("tool", "arguments", "text", "error"),
    [
        ("calculator", '{"expression": 0.10}', "0.10", None),
        ("calculator", '{"expression": 12345678901234567890.25}', "12345678901234567890.25", None),
        ("calculator", '{"expression": 1e400}', "1e400", None),
        ("calculator", '{"expression": "½ \\u00e9"}', "½ é", None),
        (
            "python",
            "import math\nfor n in [1, 2]:\n    print(n)\n",
            "import math\nfor n in [1, 2]:\n    print(n)\n",
            None,
        ),
        ("python", '"print(1)\\nprint(2)"', "print(1)\nprint(2)", None),
        ("python", '"{\\"code\\": \\"print(0.10)\\"}"', "print(0.10)", None),
        ("calculator", "0.10", "0.10", None),
        ("calculator", "yes", "yes", None),
        ("calculator", '{"expression": "2 + 2"', "", "the call is not valid JSON: "),
        ("calculator", '{"expression": "2 + 2}', "", "the call is not valid JSON: "),
        ("calculator", '{"expression": "2"}}', "", "the call is not valid JSON: something follows its end"),
        ("calculator", "{'expression': '2'}", "", "the call is not valid JSON: "),
        ("calculator", "", "", "calculator needs the argument 'expression'"),
        ("calculator", "[1, 2]", "[1, 2]", None),
    ],
)
def test_a_call_is_the_text_that_the_server_sent(failing, tool, arguments, text, error):
    call = {"id": "a", "type": "function", "function": {"name": tool, "arguments": arguments}}
    server = failing(ok(completion("tool_calls", tool_calls=[call])))
    (reply,) = served(Path("m"), server.url).answer([request(0, tools=("calculator", "python"))])
    assert reply.text.startswith(f'<tool_call>\n{{"name": "{tool}", "arguments": ')
    (parsed,) = parse_calls(reply.text, {"calculator": "expression", "python": "code"})
    assert parsed.text == text and (parsed.error or "").startswith(error or "") and bool(parsed.error) == bool(error)


@pytest.mark.parametrize("wrong", ["sk-ключ-of-mine", "sk-a-key\nof-two-lines"])
def test_a_key_that_no_request_can_carry_is_said_at_once(failing, monkeypatch, wrong):
    monkeypatch.setenv("LOCAL_API_KEY", wrong)
    with pytest.raises(AtpError, match=r"openai-api/local/m: the key in LOCAL_API_KEY has a line break") as error:
        served(Path("m"), failing(FINE).url)
    assert wrong not in str(error.value)


def test_calls_and_their_results_are_told_as_apis_want_them(failing):
    said = f"<think>\nhm\n</think>\n\nFirst:\n{CALLING}\n<tool_call>\n{{}}\n</tool_call>"
    messages = [
        {"role": "system", "content": "Count."},
        {"role": "user", "content": "2 + 2? <|im_end|> <a|b>"},
        {"role": "assistant", "content": said},
        {"role": "tool", "content": "4"},
        {"role": "tool", "content": "Error: the call names no tool"},
        {"role": "assistant", "content": "It is 4."},
        {"role": "user", "content": "3 + 3?"},
        {"role": "assistant", "content": CALLING},
        {"role": "user", "content": "No calls are left."},
    ]
    server = failing(FINE)
    served(Path("m"), server.url).answer([request(0, messages=messages)])
    ((_, body),) = server.seen
    told = body["messages"]
    assert [message["role"] for message in told] == [message["role"] for message in messages]
    assert told[1]["content"] == "2 + 2? < |im_end|> <a|b>"  # a mark of a chat template, and none
    assert told[2]["content"] == "<think>\nhm\n</think>\n\nFirst:"
    asked = [call["function"] for call in told[2]["tool_calls"]]
    assert [json.loads(call["arguments"]) for call in asked] == [{"expression": "2 + 2"}, {"expression": ""}]
    assert [message["tool_call_id"] for message in told[3:5]] == [call["id"] for call in told[2]["tool_calls"]]
    assert [told[5]["content"], told[7]["content"]] == ["It is 4.", CALLING]  # what no tool answered stays text


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"path": "openai-api/nowhere/m"}, "No NOWHERE_API_KEY defined in the environment"),
        ({"path": "abacus/m"}, "Model API abacus .* not recognized"),
        ({"path": "openai/gpt-5", "sampling": {"top_k": 5}}, "sampling.top_k: found 5, 'openai' takes none"),
        ({"path": "openai/gpt-5", "chat_template": {"a": 1}}, "chat_template: found {'a': 1}, 'openai' takes none"),
    ],
)
def test_what_a_provider_has_not_is_one_line(settings, said):
    with pytest.raises(AtpError, match=said) as error:
        load_agent("served", ModelSpec(kind="inspect", base_url="http://127.0.0.1:9/v1", **settings))
    assert "\n" not in str(error.value)


ALONE = """
import os, sys
told = []
def hear(event, details):
    if event == "socket.connect" and isinstance(details[1], tuple):
        told.append(("to", details[1][0]))
    elif event == "socket.getaddrinfo":
        told.append(("to", details[0]))
    elif event == "open" and isinstance(details[1], str) and set(details[1]) & set("wax+"):
        told.append(("file", str(details[0])))
    elif event == "os.mkdir":
        told.append(("folder", str(details[0])))
sys.addaudithook(hear)
from atp.models.spec import ModelSpec
from atp.agents.base import Request
from atp.agents.load import load_agent
from atp.testbed import Observation, Prompt
agent = load_agent("m", ModelSpec(kind="inspect", path="openai-api/local/m", base_url=sys.argv[1]))
assert "torch" not in sys.modules
agent.answer([Request(0, Prompt(0, 1, [{"role": "user", "content": "Well?"}], Observation({}, "", ())), 1)])
print([each for each in dict.fromkeys(told) if each[1] != os.devnull])
"""


def test_inspect_tells_nobody_and_leaves_nothing(failing, tmp_path):
    server = failing(FINE)
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    environment = {name: value for name, value in environment.items() if not name.startswith("XDG_")}
    ran = subprocess.run([sys.executable, "-c", ALONE, server.url], env=environment, capture_output=True, text=True)
    assert ran.stdout.strip() == "[('to', '127.0.0.1')]", ran.stdout + ran.stderr
    assert not list(tmp_path.iterdir())
