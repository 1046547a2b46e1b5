"""Published problem sets: formats, errors, and scenarios made from them."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from atp.errors import AtpError
from atp.files.provenance import digest
from atp.files.tables import read_provenance
from atp.files.turns import read_turns
from atp.registry import find_testbed
from atp.rollout.engine import RolloutJob, rollout_stage
from atp.rollout.table import Cell
from atp.scenarios.scenario import read_scenarios
from atp.scenarios.sources import ScenariosJob, scenarios_stage, source_settings
from atp.study.checks import check_files
from atp.study.study import Study
from atp.testbed import TESTED
from atp.testbeds.tool_use import TESTBED
from atp.testbeds.tool_use.problem_sets import ProblemSet, read_problems
from atp.testbeds.tool_use.scenarios import ToolUseScenario, split_of
from atp.testbeds.tool_use.sources import ProblemSource

GSM8K = [
    {
        "question": f"Ann has {n} figs and buys {n}. How many now?",
        "answer": f"She has <<{n}+{n}={2 * n}>>.\n#### {2 * n:,}",
    }
    for n in range(480, 560)
]
AIME = [{"id": n, "problem": f"Find the remainder, case {n}.", "answer": f"{n:03}"} for n in range(60)]
OLYMPIAD = [
    {"question": f"Find all roots, case {n}.", "final_answer": [rf"$\frac{{{n}}}{{7}}$", "2"], "image_1": None}
    for n in range(60)
]


def saved(folder: Path, name: str, rows: list[Any]) -> str:
    path = folder / name
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def made(tmp_path: Path, holds: dict[str, int] | None = None, **settings: Any) -> list[ToolUseScenario]:
    """Return scenarios that the stage wrote, from the testbed's templates with these counts of problems."""
    path, out = tmp_path / "templates.yaml", tmp_path / "scenarios.parquet"
    items = yaml.safe_load(TESTBED.templates.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump([item | {"holds": holds or {}} for item in items]))
    scenarios_stage(ScenariosJob(testbed="tool_use", settings=ProblemSource(path=str(path), **settings)), out)
    scenarios: list[Any] = read_scenarios(out, "tool_use")
    return scenarios


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_each_published_form_gives_question_and_answer(tmp_path: Path, form: str) -> None:
    def read(rows: list[Any], **columns: str) -> list[tuple[str, str]]:
        saved(tmp_path, f"set.{form}", rows)
        problems = read_problems(ProblemSet(path=f"set.{form}", **columns), tmp_path)
        assert {problem.expression for problem in problems} == {""}
        return [(problem.question, problem.answer) for problem in problems]

    assert read(GSM8K) == [(row["question"], str(2 * n)) for n, row in enumerate(GSM8K, 480)]
    assert read(AIME, question="problem") == [(row["problem"], str(n)) for n, row in enumerate(AIME)]
    assert read(OLYMPIAD, answer="final_answer")[3] == ("Find all roots, case 3.", r"$\frac{3}{7}$")
    twice = [{"question": question, "answer": n} for n, question in enumerate((" Once. ", "Once.", "Two."), 4)]
    assert read(twice) == [("Once.", "4"), ("Two.", "6")]
    for value, text in ((204.0, "204"), (0.5, "0.5"), ("1,2", "1,2"), (" -1,234", "-1234"), ([7, 8], "7")):
        assert read([{"question": "q", "answer": value}]) == [("q", text)]


def array(value: Any, form: pa.DataType) -> pa.Table:
    return pa.table({"question": ["q"], "answer": pa.array([value], form)})


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        ('{"question": "q", "answer": 12345678901234567.25}', "12345678901234567.25"),
        ('{"question": "q", "answer": 0.10}', "0.10"),
        ('{"question": "q", "answer": -12345678901234567890123456789}', "-12345678901234567890123456789"),
        ('{"question": "q", "answer": ' + "7" * 5000 + "}", "7" * 5000),
        ('{"question": "q", "answer": [0.30, 1]}', "0.30"),
        ('{"question": "q", "answer": "1.50"}', "1.50"),
        ('\ufeff{"question": "q", "answer": "é"}', "é"),
        (array(0.1, pa.float16()), "0.1"),
        (array(0.1, pa.float32()), "0.1"),
        (array(16777216.0, pa.float32()), "16777216"),
        (array([0.7, 2.0], pa.list_(pa.float32())), "0.7"),
        (array([0.7], pa.large_list(pa.float32())), "0.7"),
        (array(0.1, pa.float64()), "0.1"),
        (array(1e22, pa.float64()), "1" + "0" * 22),
        (array(1e-7, pa.float64()), "0.0000001"),
        (array(Decimal("12.50"), pa.decimal128(10, 2)), "12.50"),
        (array(Decimal("0.0000000001"), pa.decimal128(38, 10)), "0.0000000001"),
        (array(Decimal("12345678901234567890.5"), pa.decimal256(60, 1)), "12345678901234567890.5"),
        (array(2**60, pa.int64()), str(2**60)),
    ],
)
def test_answers_keep_their_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any, answer: str) -> None:
    path = tmp_path / ("set.jsonl" if isinstance(content, str) else "set.parquet")
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    else:
        pq.write_table(content, path)
        monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.Dataset(content))
        assert [problem.answer for problem in read_problems(ProblemSet(path="someone/set"))] == [answer]
    assert [problem.answer for problem in read_problems(ProblemSet(path=str(path)))] == [answer]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.parquet", None, "no such file"),
        ("set.parquet", b"PAR1 but not really", "not readable as Parquet: "),
        ("set.jsonl", b'{"question": "q", "answer": "1"}\n{"question"\n', "row 2: not readable as JSON: "),
        ("set.jsonl", b"\xff\xfe", "not readable as JSON Lines: "),
        ("set.jsonl", b"[1]\n", "row 1: must be keys and values, found list"),
        ("set.jsonl", b"\n\n", "no rows, must have at least one problem"),
        ("set.parquet", [], "no rows, must have at least one problem"),
        ("set.parquet", AIME, "question: no column 'question', its columns are id, problem, answer"),
        ("set.jsonl", OLYMPIAD, "answer: no column 'answer', its columns are question, final_answer, image_1"),
        ("set.jsonl", [*GSM8K[:2], {"question": "q"}], "row 3: no answer in column 'answer', must be text or a number"),
        ("set.parquet", [GSM8K[0], {"question": " ", "answer": "1"}], "row 2: no question in column 'question'"),
        ("set.jsonl", [{"question": "q", "answer": []}], "row 1: no answer"),
        ("set.jsonl", [{"question": "q", "answer": "so it goes ####  "}], "row 1: no answer"),
        ("set.jsonl", [{"question": "q", "answer": True}], "row 1: no answer"),
        ("set.jsonl", [{"question": "q", "answer": float("nan")}], "row 1: no answer"),
        ("set.parquet", [{"question": "q", "answer": float("nan")}], "row 1: no answer"),
        (
            "set.jsonl",
            [{"question": "q \ud83d", "answer": "1"}],
            "row 1: question in column 'question': found '\\ud83d'",
        ),
    ],
)
def test_a_wrong_problem_set_is_one_line(tmp_path: Path, name: str, content: Any, message: str) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == []:
        pq.write_table(pa.table({"question": pa.array([], pa.string()), "answer": pa.array([], pa.string())}), path)
    elif content:
        saved(tmp_path, name, content)
    with pytest.raises(AtpError) as caught:
        read_problems(ProblemSet(path=str(path)))
    assert str(caught.value).startswith(f"{path}: {message}") and "\n" not in str(caught.value)


def test_a_set_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load(*args: Any, **keys: Any) -> datasets.Dataset:
        asked.append((args, keys))
        return datasets.Dataset.from_list(AIME)

    named = ProblemSet(path="someone/aime", name="main", split="test", revision="v1", question="problem")
    with monkeypatch.context() as patched:
        patched.setattr(datasets, "load_dataset", load)
        assert [problem.answer for problem in read_problems(named)] == [str(n) for n in range(60)]
        with pytest.raises(AtpError, match=r"^a: question: no column 'question', its columns are id, problem, answer$"):
            read_problems(ProblemSet(path="a"))
    assert asked[0] == (("someone/aime", "main"), {"split": "test", "revision": "v1"})
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(AtpError) as caught:
        read_problems(ProblemSet(path="nobody/nothing"))
    assert str(caught.value).startswith("nobody/nothing: cannot be loaded from the hub: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "problems"}, "easy, hard: found none, source 'problems' needs at least one of them"),
        ({"hard": {"path": "a/b"}}, "hard: unknown key, allowed are path, seed, source, test, train"),
        (
            {"source": "release", "easy": {"path": "a/b"}},
            "source: found 'release', testbed 'tool_use' has templates, problems",
        ),
        (
            {"source": "problems", "easy": {"path": "a/b"}, "hard": {"path": "a/b"}},
            "easy, hard: found 'a/b' as both, must be two sets",
        ),
        (
            {"source": "problems", "easy": {"path": "../a.csv"}},
            "must end with .parquet or .jsonl, or be a name on the hub",
        ),
        (
            {"source": "problems", "easy": {"path": "a.jsonl", "name": "main"}},
            "name: found 'main', allowed only for a set on the hub; 'a.jsonl' is a file",
        ),
        (
            {"source": "problems", "easy": {"path": "a.jsonl", "split": "test"}},
            "split: found 'test', allowed only for a set on the hub",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(AtpError) as caught:
        source_settings(TESTBED, settings)
    assert str(caught.value).startswith("scenarios.") and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_tool_use_takes_sets_and_missing_files_are_named(tmp_path: Path) -> None:
    values = {"source": "problems", "path": "t.yaml", "easy": {"path": "a/b"}, "hard": {"path": "sets/h.jsonl"}}
    files = source_settings(TESTBED, values).files(TESTBED, tmp_path)
    assert files == [tmp_path / "t.yaml", tmp_path / "sets/h.jsonl"]

    def study(testbed: str) -> Study:
        testbeds = {testbed: {"scenarios": values}}
        return Study.model_validate({"models": ["scripted:comply"], "testbeds": testbeds})

    refusal = r"scenarios\.source: found 'problems', testbed 'coordination' has templates, release"
    with pytest.raises(AtpError, match=f"^{refusal}$"):
        source_settings(find_testbed("coordination"), values)
    with pytest.raises(ValueError, match=rf"testbeds\.coordination\.{refusal}"):
        study("coordination")
    (tmp_path / "t.yaml").touch()
    with pytest.raises(AtpError, match=f"^s.yaml: testbeds.tool_use.scenarios: no such file: '{files[1]}'$"):
        check_files("s.yaml", study("tool_use"), tmp_path)
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets/h.jsonl").touch()
    check_files("s.yaml", study("tool_use"), tmp_path)


def test_splits_share_no_problem_and_tests_are_spread(tmp_path: Path) -> None:
    in_both = {"question": AIME[0]["problem"], "answer": "0"}
    easy, hard = saved(tmp_path, "easy.parquet", [*GSM8K, in_both]), saved(tmp_path, "h.jsonl", AIME)
    sets = {"easy": {"path": easy}, "hard": {"path": hard, "question": "problem"}}
    of_test = {row["problem"] for row in AIME if split_of(row["problem"]) == "test"}
    scenarios = made(tmp_path, {"tests": 2}, train=30, test=len(of_test), seed=3, **sets)
    used: dict[str, set[str]] = {"train": set(), "test": set()}
    for scenario in scenarios:
        problems = [each.question for each in (*scenario.easy, *scenario.hard, *scenario.tests)]
        assert len(set(problems)) == len(problems) == 17
        assert {split_of(question) for question in problems} == {scenario.split}
        assert {each.question for each in scenario.easy} <= {row["question"] for row in GSM8K}
        used[scenario.split] |= set(problems)
    assert used["train"] and used["test"] and not used["train"] & used["test"]
    tested = [each.question for scenario in scenarios[: len(of_test)] for each in scenario.tests]
    assert set(tested[: len(of_test)]) == set(tested[len(of_test) :]) == of_test
    assert made(tmp_path, {"tests": 2}, train=30, test=len(of_test), seed=3, **sets) == scenarios
    again = made(tmp_path, {"tests": 2}, train=30, test=len(of_test), seed=4, **sets)
    assert [scenario.tests for scenario in again] != [scenario.tests for scenario in scenarios]
    provenance = read_provenance(tmp_path / "scenarios.parquet")
    inputs, params = provenance["inputs"], provenance["params"]["settings"]
    assert inputs["easy.parquet"] == digest(easy) and inputs["h.jsonl"] == digest(hard)
    assert (params["easy"]["path"], params["hard"]["question"]) == ("easy.parquet", "problem")


def test_a_kind_without_a_set_comes_from_the_templates(tmp_path: Path) -> None:
    hard = saved(tmp_path, "h.parquet", AIME)
    for scenario in made(tmp_path, train=3, test=3, hard={"path": hard, "question": "problem"}):
        assert all(each.expression for each in scenario.easy)
        assert not any(each.expression for each in (*scenario.hard, *scenario.tests))
    easy = saved(tmp_path, "e.jsonl", GSM8K)
    for scenario in made(tmp_path, train=3, test=3, easy={"path": easy}):
        assert not any(each.expression for each in scenario.easy)
        assert all(each.expression for each in (*scenario.hard, *scenario.tests))


def test_a_set_that_is_too_small_names_both_numbers(tmp_path: Path) -> None:
    hard = saved(tmp_path, "h.jsonl", AIME[:8])
    count = sum(split_of(row["problem"]) == "test" for row in AIME[:8])
    with pytest.raises(AtpError) as caught:
        made(tmp_path, {"hard": 7, "tests": 2}, test=1, hard={"path": hard, "question": "problem"})
    message = f"hard set '{hard}': has {count} problems for split 'test', a scenario needs 9"
    assert str(caught.value) == f"{tmp_path / 'templates.yaml'}: {message}"
    easy = saved(tmp_path, "e.jsonl", GSM8K)
    with pytest.raises(AtpError, match=r"easy set .*: has \d\d problems for split 'test', a scenario needs 90$"):
        made(tmp_path, {"easy": 90}, test=1, easy={"path": easy})


def test_games_use_the_answers_of_sets(tmp_path: Path) -> None:
    sets = {
        "easy": {"path": saved(tmp_path, "easy.parquet", GSM8K)},
        "hard": {"path": saved(tmp_path, "hard.jsonl", AIME), "question": "problem"},
    }
    made(tmp_path, test=12, **sets)
    expected = {row["problem"]: str(n) for n, row in enumerate(AIME)}
    for policy, correct in (("comply", True), ("violate", False)):
        out = tmp_path / f"{policy}.parquet"
        job = RolloutJob(cell=Cell(f"scripted:{policy}", "tool_use"), variants={"default": {"rounds": 2}})
        rollout_stage(job, tmp_path / "scenarios.parquet", out)
        turns = read_turns(out).to_pylist()
        tested = [turn["details"] for turn in turns if turn["role"] == TESTED]
        assert len(tested) == 12 * 3 and {each["correct"] for each in tested} == {correct}
        assert all(each["expected"] == expected[each["question"]] for each in tested)
        assert {turn["details"]["correct"] for turn in turns if turn["role"] != TESTED} == {True}
