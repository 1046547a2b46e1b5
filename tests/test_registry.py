"""Extensions of every kind but testbeds through the front door, plug-ins and studies, and what goes wrong."""

import re
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from atp import cli
from atp.errors import AtpError, PluginError
from atp.files.turns import read_turns
from atp.registry import entries, load_plugins, resolve
from atp.study.read import read_study

ROOT = Path(__file__).parents[1]
#: One extension of each kind but testbeds, which tests/extend covers.
PLUGIN = '''\
from typing import Literal

import polars as pl

from atp.agents.base import Agent
from atp.measures.measure import Measure
from atp.report.figures import measure_figure
from atp.testbed import Reply
from atp.tools import Tool, ToolError
from atp.training.filters import Filter


class First(Agent):
    """Gives the first possible answer."""

    name = "first"

    def answer(self, requests):
        return [Reply(next(iter(request.prompt.observation.answers.values()))) for request in requests]


class Longest(Filter):
    """The longest replies."""

    name: Literal["longest"] = "longest"
    characters: int = 1

    def select(self, turns):
        return turns.filter(pl.col("reply").str.len_chars() >= self.characters)


def alternate():
    """Return a policy that violates in every second round."""
    return lambda observation, draw: list(observation.answers)[len(observation.history) % 2]


def shout(text):
    if not text:
        raise ToolError("there is no text")
    return text.upper()


def draw(results):
    from atp.registry import find_testbed

    return measure_figure(results, find_testbed("role_play"), "mean_round", "Rounds", "A figure of a plug-in.")


AGENTS = [First]
FILTERS = [Longest]
MEASURES = [Measure("mean_round", pl.col("round"), pl.lit(True), is_proportion=False)]
POLICIES = [alternate]
TOOLS = [Tool("shout", "Writes in capitals.", "text", "the text", shout)]
FIGURES = {"rounds": draw}
'''


pytestmark = pytest.mark.usefixtures("own_registry")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty working folder with scenarios of role-play and a plug-in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(PLUGIN)
    run("scenarios", "--testbed", "role_play", "--train", 4, "--test", 4, "--out", "scenarios.parquet")
    return tmp_path


def run(*arguments: object) -> None:
    """Run `atp ARGUMENTS`. Raises SystemExit with the message if it fails."""
    before = sys.argv
    sys.argv = ["atp", *map(str, arguments)]
    try:
        cli.main()
    except SystemExit as end:
        if end.code:
            raise
    finally:
        sys.argv = before


def fails(*arguments: object) -> str:
    """Run `atp ARGUMENTS`, which must fail, and return its message, which must be one line."""
    with pytest.raises(SystemExit) as end:
        run(*arguments)
    message = str(end.value.code)
    assert message.startswith("atp: ") and "\n" not in message
    return message.removeprefix("atp: ")


def rollout(agent: str, out: str = "turns.parquet", *more: object) -> list[dict[str, object]]:
    """Play the test scenarios and return the turns."""
    run("rollout", "--scenarios", "scenarios.parquet", "--agent", agent, "--out", out, *more)
    return read_turns(out).to_pylist()


def test_an_agent_and_a_policy_of_a_plugin_play(folder):
    turns = rollout("agent:first", "turns.parquet", "--plugin", "own.py")
    assert {turn["model"] for turn in turns} == {"agent:first"} and {turn["violation"] for turn in turns} == {False}
    alternating = rollout("scripted:alternate", "other.parquet", "--rounds", 4, "--plugin", "own.py")
    assert {(turn["round"] % 2, turn["violation"]) for turn in alternating} == {(1, False), (0, True)}


def test_a_filter_of_a_plugin_selects(folder, capsys):
    rollout("scripted:random", "turns.parquet", "--split", "train")
    select = ("filter", "turns.parquet", "--plugin", "own.py", "--name", "longest", "--out", "selection.parquet")
    run(*select)
    assert "kept 24 of 24" in capsys.readouterr().out
    run(*select, "--set", "characters=10000")
    assert "kept 0 of 24" in capsys.readouterr().out
    assert fails(*select, "--set", "words=1").startswith("filter longest: words: unknown key, allowed are characters, ")


def test_a_measure_and_a_figure_of_a_plugin_are_in_the_results(folder):
    rollout("scripted:random")
    run("measure", "turns.parquet", "--out", "measures.parquet", "--plugin", "own.py")
    rows = [row for row in pq.read_table("measures.parquet").to_pylist() if row["measure"] == "mean_round"]
    assert [row["value"] for row in rows] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0] * (len(rows) // 6) and rows
    from atp.report.job import ReportFiles, ReportJob
    from atp.report.page import report_stage

    load_plugins(["own.py"])
    measures, scenarios, turns = (Path(f"{name}.parquet") for name in ("measures", "scenarios", "turns"))
    files, page = ReportFiles(measures, [scenarios], [turns]), Path("report.html")
    report_stage(ReportJob(study="s"), files, page, Path("figures"))
    assert "A figure of a plug-in." in page.read_text() and Path("figures/role_play_mean_round.svg").is_file()


def test_a_tool_of_a_plugin_is_called(folder):
    from atp.tools import Call, run_calls, schema

    load_plugins(["own.py"])
    outcomes = run_calls([Call("shout", "hello"), Call("shout", "")])
    assert [(outcome.text, outcome.failed) for outcome in outcomes] == [
        ("HELLO", False),
        ("Error: there is no text", True),
    ]
    assert schema("shout")["function"]["name"] == "shout"
    Path("counts.py").write_text("from atp.tools import Tool\n\nTOOLS = [Tool('count', '', '', '', len)]\n")
    load_plugins(["counts.py"])
    with pytest.raises(AtpError, match=r"tool 'count': run returned 5 \(int\), must be a text"):
        run_calls([Call("count", "hello")])


def test_a_study_loads_its_plugins(folder):
    study = folder / "study.yaml"
    study.write_text(
        "plugins: [own.py]\nmodels: [agent:first]\n"
        "testbeds: {role_play: {scenarios: {test: 2}, context: {reference_policies: [scripted:alternate]}}}\n"
    )
    assert read_study(study, folder).models == ("agent:first",)
    study.write_text(study.read_text().replace("agent:first", "agent:last"))
    with pytest.raises(AtpError, match=r"study.yaml: models: unknown agent 'last', known are first; .*--plugin FILE"):
        read_study(study, folder)


WRONG = {
    "AGENTS = [First]": [
        ("AGENTS = First", r"own.py:LINE: AGENTS: must be a list, found ABCMeta|own.py:LINE: AGENTS: must be a list, "),
        ("AGENTS = [Reply]", r"own.py:LINE: AGENTS: agent 'Reply' must have a method answer\(requests\)"),
        ("AGENTS = [First, First]", "own.py:LINE: AGENTS: the agent 'first' exists already, choose another name"),
    ],
    "FILTERS = [Longest]": [
        ("FILTERS = [First]", "own.py:LINE: FILTERS: filter 'first' must be a subclass of atp.training.filters.Filter"),
        ('FILTERS = {"long": Longest}', "own.py:LINE: FILTERS: filter 'long' is called 'longest' by its own field"),
        ("FILTERS = [Filter]", "own.py:LINE: FILTERS: .* has no name; a filter names itself by the default of"),
    ],
    "POLICIES = [alternate]": [
        ('POLICIES = {"comply": alternate}', "own.py:LINE: POLICIES: the policy 'comply' exists already"),
        ('POLICIES = {"bold": 3}', "own.py:LINE: POLICIES: policy 'bold' must be a function, found int"),
    ],
    "MEASURES = [Measure(": [("MEASURES = [3, Measure(", "own.py:LINE: MEASURES: 3 has no name")],
    "FIGURES = {": [("FIGURES = {2: draw, ", "own.py:LINE: FIGURES: <function draw at .*> has no name")],
    "TOOLS = [Tool(": [
        ("TOOLS = [shout, Tool(", "own.py:LINE: TOOLS: tool 'shout' must be an atp.tools.Tool, found function"),
        ('TOOLS = [Tool("python", "", "", "", shout), Tool(', "own.py:LINE: TOOLS: the tool 'python' exists already"),
        (
            'TOOLS = [Tool("x", "", "", "", 1), Tool(',
            "own.py:LINE: TOOLS: tool 'x': run must be a function of one text",
        ),
    ],
}


@pytest.mark.parametrize(
    ("old", "new", "message"), [(old, *case) for old, cases in WRONG.items() for case in cases], ids=str
)
def test_a_wrong_definition_is_named_with_its_line(tmp_path, monkeypatch, old, new, message):
    monkeypatch.chdir(tmp_path)
    text = PLUGIN.replace(old, new)
    Path("own.py").write_text(text)
    line = next(number for number, each in enumerate(text.splitlines(), 1) if each.startswith(new[:9]))
    with pytest.raises(PluginError) as error:
        load_plugins(["own.py"])
    assert re.match(message.replace("LINE", str(line)), str(error.value)), error.value
    assert entries("agents") == {}


RUN = ("rollout", "--scenarios", "scenarios.parquet", "--out", "t.parquet", "--plugin", "own.py", "--agent")
MEASURE = ("measure", "turns.parquet", "--out", "m.parquet", "--plugin", "own.py")
FILTER = ("filter", "turns.parquet", "--out", "s.parquet", "--plugin", "own.py", "--name", "longest")
AGENT, POLICY = (*RUN, "agent:first"), (*RUN, "scripted:alternate")
#: (text, its replacement, the command that then fails, its message). `AT` is the plug-in's file and a line.
BROKEN = [
    ("Reply(next(iter(", "Reply(1 / 0, next(iter(", AGENT, "AT: ZeroDivisionError: division by zero, in <listcomp>"),
    (
        "in requests]",
        "in requests[1:]]",
        AGENT,
        r"AT: agent 'first': .*answer\(\) returned 7 replies, must be a list of 8",
    ),
    ("[Reply(next", "[str(next", AGENT, "AT: agent 'first': .*the reply is .*, must be an atp.testbed.Reply"),
    (
        "    def answer(",
        "    batch = 0\n\n    def answer(",
        AGENT,
        "AT: agent 'first': .*batch is 0, must be a whole number",
    ),
    (
        "    def answer(",
        "    def start(self, one):\n        return\n\n    def answer(",
        AGENT,
        "AT: agent 'first': .*'one'",
    ),
    ("history) % 2]", "history) + 2]", POLICY, "AT: IndexError: list index out of range, in <lambda>"),
    (
        "list(observation.answers)",
        '["x", "y"]',
        POLICY,
        "agent scripted:alternate: its decision is 'x', the prompt has",
    ),
    ("def alternate():", "def alternate(number):", POLICY, "agent scripted:alternate: alternate needs a number, as in"),
    ('pl.col("round")', 'pl.col("rounds")', MEASURE, "AT: measure 'mean_round': .*unable to find column \"rounds\""),
    ("MEASURES = [", "MEASURES = [lambda evidence: evidence.x, ", MEASURE, "AT: AttributeError: .*, in <lambda>"),
    ("MEASURES = [", "MEASURES = [lambda evidence: 3, ", MEASURE, "AT: measure '<lambda>': "),
    ('pl.col("reply")', 'pl.col("replies")', FILTER, "AT: ColumnNotFoundError: .*replies.*, in select"),
    ("return turns.filter", "return 3 and str", FILTER, "AT: filter 'longest': TypeError"),
]


@pytest.mark.parametrize(("old", "new", "command", "message"), BROKEN, ids=range(len(BROKEN)))
def test_an_error_in_a_plugin_is_one_line_with_its_place(folder, old, new, command, message):
    rollout("scripted:random", "turns.parquet", "--split", "train")
    assert old in PLUGIN
    Path("own.py").write_text(PLUGIN.replace(old, new, 1))
    error = fails(*command)
    assert re.match(message.replace("AT: ", r"own\.py:\d+: "), error), error


def test_an_unknown_name_lists_the_known_ones(folder):
    known = "known are bargaining, code, coordination, role_play, tool_use"
    assert fails("check", "chess").startswith(f"unknown testbed 'chess', {known}; one of a file needs --plugin FILE.py")
    assert fails("check", "none.py") == "none.py: no such file"
    Path("wrong").mkdir()
    assert fails("check", "wrong.py", "--plugin", "wrong") == "wrong: is a folder, must be a Python file"
    Path("text.txt").write_text("TESTBEDS = []")
    assert (
        fails("check", "role_play", "--plugin", "text.txt")
        == "text.txt: must be a Python file, whose name ends with .py"
    )
    assert fails(*RUN, "agent:second") == (
        "unknown agent 'second', known are first; one of a file needs --plugin FILE.py, in a study `plugins: [FILE.py]`"
        " (loaded: own.py)"
    )
    assert fails(*RUN, "scripted:second").startswith(
        "agent scripted:second: unknown policy 'second', known are comply, "
    )


def test_a_file_without_a_testbed_is_checked_by_loading_it(folder, capsys):
    run("check", "own.py")
    assert capsys.readouterr().out.splitlines() == [
        "agent 'first' can be used",
        "filter 'longest' can be used",
        "measure 'mean_round' can be used",
        "policy 'alternate' can be used",
        "tool 'shout' can be used",
        "figure 'rounds' can be used",
    ]


NOTES = '''
from dataclasses import replace

from atp.agents.base import Agent


class Notes(Agent):
    """Shows a model its own notes on earlier rounds in place of the conversation."""

    name = "notes"

    def __init__(self, model):
        self.model, self.batch, self.notes = model, model.batch, {}

    def start(self):
        self.notes = {}
        self.model.start()

    def answer(self, requests):
        asked = []
        for request in requests:
            system, *_, question = request.prompt.messages
            notes = self.notes.setdefault(request.conversation, [])
            text = " ".join([*notes, question["content"].splitlines()[-1]])
            messages = [system, {"role": "user", "content": text}]
            asked.append(replace(request, prompt=replace(request.prompt, messages=messages)))
        replies = self.model.answer(asked)
        for request in requests:
            notes = self.notes[request.conversation]
            notes.append(f"I have answered {len(notes) + 1} times.")
        return replies


AGENTS = [Notes]
'''


def test_an_agent_around_a_model_keeps_its_own_memory(folder, monkeypatch):
    plugin = folder / "notes.py"
    plugin.write_text(NOTES)
    monkeypatch.chdir(ROOT)  # where the model organism's path begins
    scenarios, out = folder / "scenarios.parquet", folder / "turns.parquet"
    play = ("rollout", "--scenarios", scenarios, "--split", "test", "--rounds", 2, "--out", out, "--plugin", plugin)
    run(*play, "--agent", "agent:notes:organism")
    turns = read_turns(out).to_pylist()
    assert {turn["model"] for turn in turns} == {"agent:notes:organism"} and len(turns) == 8
    assert sum(turn["decision"] == "invalid" for turn in turns) <= 2
    assert all(turn["prompt_tokens"] for turn in turns)
    assert fails(*play, "--agent", "agent:notes:none").startswith("model 'none': no file config/models/none.yaml")
    assert re.match(r".*notes.py:\d+: agent 'notes': TypeError: .*'model'", fails(*play, "--agent", "agent:notes"))


def test_a_reference_that_names_nothing_is_one_line():
    for reference in ("atp.nothing:NAME", "atp.tools:NAME", "atp.tools"):
        with pytest.raises(AtpError, match=rf"'{reference}' names no object that can be imported \(MODULE:NAME\): "):
            resolve(reference)
