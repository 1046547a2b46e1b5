"""The harness: reads files of tests and runs their calls on a solution, in a fresh sandbox.

The sandbox gets the calls, never what the tests expect, and returns the values; they are compared here. So a solution
can decide nothing about a test but the value of its call, whatever it does to the process in which it runs.
"""

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from atp.tools import ToolError
from atp.tools.sandbox import ProgramEnded, run_python

SOLUTION, TESTS = "solution.py", "tests.py"
#: Limits: processor time of all calls in seconds, tests of a file, and characters of a value.
SECONDS, MAX_TESTS, MAX_VALUE_CHARS = 2, 100, 2000
TEST_FORM = "a test is a line such as `assert double(2) == 4`, with literal values"
#: How a call ended, in what the runner prints: with a value, an error, or an attempt to end the process.
VALUE, ERROR, EXIT = "value", "error", "exit"
#: Code with which the runner ends where it fails itself, above those that a program has without a signal.
RUNNER_FAILED = 250

#: The program that runs in the sandbox. It loads all that it needs before the solution, which may change any library.
RUNNER = f"""
import ast, json, os, sys, types

def main(groups, write=os.write, leave=os._exit, dumps=json.dumps, parse=ast.literal_eval, out=os.dup(1)):
    class Nowhere:
        def write(self, text): return len(text)
        def flush(self): pass
    sys.stdout = sys.stderr = Nowhere()

    def attempt(function):
        try:
            return "{VALUE}", function()
        except SystemExit:
            return "{EXIT}", "the program ended itself"
        except BaseException as error:
            try:
                return "{ERROR}", (type(error).__name__ + ": " + str(error))[:{MAX_VALUE_CHARS}]
            except BaseException:
                return "{ERROR}", "an error without a text"

    def value(namespace, name, arguments):
        if name not in namespace:
            raise NameError("{SOLUTION} defines no function " + name)
        text = repr(namespace[name](*parse(arguments)))
        if len(text) > {MAX_VALUE_CHARS}:
            raise ValueError("the value has more than {MAX_VALUE_CHARS} characters")
        return text

    results = []
    for source, calls in groups:
        module = types.ModuleType("solution")
        sys.modules["solution"] = module
        if source is None:
            source = open("{SOLUTION}", encoding="utf-8").read()
        loaded = attempt(lambda: exec(compile(source, "{SOLUTION}", "exec"), module.__dict__))
        results.append([
            attempt(lambda: value(module.__dict__, *call)) if loaded[0] == "{VALUE}" else loaded for call in calls
        ])
    text = ("\\n" + dumps(results)).encode()
    while text:
        text = text[write(out, text):]
    leave(0)

try:
    main(json.loads(GROUPS))
except BaseException:
    os._exit({RUNNER_FAILED})
"""


@dataclass(frozen=True)
class Test:
    """A test: the function, its arguments as a tuple's literal, and the literal of the value that it must return."""

    __test__ = False  # pytest would collect it

    function: str
    arguments: str
    expected: str

    @property
    def call(self) -> str:
        """The call as code."""
        inside = self.arguments.strip()[1:-1].strip()
        return f"{self.function}({inside.removesuffix(',')})"

    def __str__(self) -> str:
        return f"assert {self.call} == {self.expected}"


@dataclass(frozen=True)
class Results:
    """What the calls of tests returned.

    Args:
        passed: whether each test passed.
        errors: why it did not, or None.
        exit_forced: the solution ended the process, or kept the runner from returning values.
    """

    passed: tuple[bool, ...]
    errors: tuple[str | None, ...]
    exit_forced: bool


def parse_test(text: str) -> Test | None:
    """Return the test that a statement is, or None."""
    try:
        (statement,) = ast.parse(text).body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    return _test_of(statement)


def parse_tests(text: str) -> tuple[list[Test], int]:
    """Return the tests in a file, and the number of its assertions that are none.

    Raises:
        ToolError: the file is not Python, or has too many tests.
    """
    try:
        asserts = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Assert)]
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ToolError(f"the file of tests is not valid Python: {type(error).__name__}") from None
    tests = [_test_of(node) for node in sorted(asserts, key=lambda node: node.lineno)]
    readable = [test for test in tests if test]
    if len(readable) > MAX_TESTS:
        raise ToolError(f"a file may have {MAX_TESTS} tests, this one has {len(readable)}")
    return readable, len(tests) - len(readable)


def _test_of(node: ast.stmt) -> Test | None:
    match node:
        case ast.Assert(
            test=ast.Compare(
                left=ast.Call(func=ast.Name(id=name), args=args, keywords=[]), ops=[ast.Eq()], comparators=[expected]
            )
        ):
            try:
                texts = ast.unparse(ast.Tuple(args, ast.Load())), ast.unparse(expected)
            except RecursionError:
                return None
            return Test(name, *texts) if all(_literal(text) is not None for text in texts) else None
    return None


def _literal(text: str) -> tuple[object] | None:
    """Return the value of a literal in a tuple, or None for other text."""
    try:
        return (ast.literal_eval(text),)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return None


def evaluate(groups: Sequence[tuple[str, Sequence[Test]]]) -> list[list[tuple[str, str]]]:
    """Return how the calls of tests end on the source of each group's solution: (VALUE, literal) or (ERROR, text).

    Raises:
        ToolError: the solutions do not end in time, or end the process.
        AtpError: the sandbox is not available on this machine.
    """
    values = _run([(source, tests) for source, tests in groups], {})
    if values is None:
        raise ToolError("a solution ends the program")
    return values


def grade(files: Mapping[str, str], tests: Sequence[Test]) -> Results:
    """Run the calls of tests on the solution in a fresh sandbox, and compare their values with what they must be.

    Calls of several tests are run once, in an order that does not depend on that of the tests.

    Raises:
        AtpError: the sandbox is not available on this machine.
    """
    unique = sorted({(test.function, test.arguments) for test in tests})
    try:
        values = _run([(None, [Test(*call, "None") for call in unique])], files)
    except ToolError as error:
        return Results((False,) * len(tests), (str(error),) * len(tests), False)
    if values is None:
        reason = "the solution ended the program, or kept its values from the tests"
        return Results((False,) * len(tests), (reason,) * len(tests), True)
    by_call = dict(zip(unique, values[0], strict=True))
    passed, errors = [], []
    for test in tests:
        kind, text = by_call[test.function, test.arguments]
        equal = kind == VALUE and _literal(text) is not None and _literal(text) == _literal(test.expected)
        passed.append(equal)
        errors.append(None if equal else f"it returned {text}" if kind == VALUE else text)
    return Results(tuple(passed), tuple(errors), any(kind == EXIT for kind, _ in values[0]))


def _run(
    groups: Sequence[tuple[str | None, Sequence[Test]]], files: Mapping[str, str]
) -> list[list[tuple[str, str]]] | None:
    """Return what the runner prints; None if the process ended before it could, without a limit as the reason."""
    calls = [(source, [(test.function, test.arguments) for test in tests]) for source, tests in groups]
    try:
        printed = _printed(f"GROUPS = {json.dumps(calls)!r}\n{RUNNER}", tuple(sorted(files.items())))
    except ProgramEnded as error:
        if error.code < 128:
            return None
        if error.code == RUNNER_FAILED:
            raise ToolError("the tests did not run to their end, as where memory is used up") from None
        raise
    return _read(printed.rpartition("\n")[2], [len(tests) for _, tests in groups])


@lru_cache(maxsize=1024)  # many episodes hand in the same files; an error is not kept, as a busy machine can cause it
def _printed(program: str, files: tuple[tuple[str, str], ...]) -> str:
    return run_python(program, SECONDS, dict(files))


def _read(line: str, counts: Sequence[int]) -> list[list[tuple[str, str]]] | None:
    """Return the results in the runner's line; None if they have not the form that the runner gives them."""
    try:
        groups = json.loads(line)
        results = [[(kind, text) for kind, text in group] for group in groups]
    except (ValueError, TypeError, RecursionError):
        return None
    if [len(group) for group in results] != list(counts):
        return None
    flat = [part for group in results for pair in group for part in pair]
    return results if all(isinstance(part, str) for part in flat) else None
