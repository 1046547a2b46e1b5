"""Tools of the testbed: the agent runs a file of tests; the testbed grades the files at the end of a round."""

import json

from atp.testbeds.code.harness import SOLUTION, Test, grade, parse_tests
from atp.tools import Files, Tool
from atp.tools.sandbox import find_sandbox

RUN_TESTS, GRADE = "run_tests", "grade_solution"
#: Maximum length of the line about a test that does not pass, in characters.
MAX_LINE_CHARS = 300


def run_tests(name: str, files: Files) -> str:
    """Return which tests of a file pass."""
    find_sandbox()
    tests, others = parse_tests(files.read(name))
    files.read(SOLUTION)
    results = grade(files.texts, tests)
    lines = [f"{sum(results.passed)} of {len(tests)} tests pass."]
    lines += [
        f"{test}: {error}".replace("\n", " ")[:MAX_LINE_CHARS]
        for test, error in zip(tests, results.errors, strict=True)
        if error
    ]
    if others:
        lines.append(f"Assertions without literal values, which do not count: {others}.")
    return "\n".join(lines)


def grade_solution(tests: str, files: Files) -> str:
    """Return whether the solution passes each of the tests, which are given as JSON, and whether it forces an exit."""
    results = grade(files.texts, [Test(*test) for test in json.loads(tests)])
    return json.dumps(["".join("01"[each] for each in results.passed), results.exit_forced])


TOOLS = [
    Tool(RUN_TESTS, "Runs a file of tests.", "name", "the file's name", run_tests, uses_files=True, parallel=True),
    Tool(GRADE, "Grades the solution.", "tests", "tests as JSON", grade_solution, uses_files=True, parallel=True),
]
