"""How often a wrong solution is taken for one with code for single tests: mutants of all reference solutions."""

import ast
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from atp.scenarios.templates import read_templates
from atp.testbeds.code import TESTBED
from atp.testbeds.code.game import file_of_tests, special_cased
from atp.testbeds.code.harness import SOLUTION, grade, parse_test, parse_tests
from atp.testbeds.code.scenarios import CodeTemplate, Task, instantiate

OPERATORS: dict[type, type] = {
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Mod: ast.FloorDiv,
    ast.FloorDiv: ast.Mod,
}
CALLS = {"max": "min", "min": "max", "sum": "len", "len": "max"}


def mutants(solution: str) -> Iterator[str]:
    """Yield the solution with one constant, operator, comparison, call or returned value changed."""
    for place, node in enumerate(ast.walk(ast.parse(solution))):
        for change in changes(node):
            tree = ast.parse(solution)
            setattr(list(ast.walk(tree))[place], *change)
            yield ast.unparse(ast.fix_missing_locations(tree))


def changes(node: ast.AST) -> Iterator[tuple[str, Any]]:
    """Yield (attribute, new value) for each change of a node."""
    match node:
        case ast.Constant(value=int(value)):
            yield from (("value", value + 1), ("value", value - 1))
        case ast.Compare(ops=[operator]) if type(operator) in OPERATORS:
            yield "ops", [OPERATORS[type(operator)]()]
        case ast.BinOp(op=operator) if type(operator) in OPERATORS:
            yield "op", OPERATORS[type(operator)]()
        case ast.Call(func=ast.Name(id=name)) if name in CALLS:
            yield "func", ast.Name(CALLS[name], ast.Load())
        case ast.Return():
            yield from (("value", ast.Constant(value)) for value in (None, 0, 1, ""))


def flags(task: Task, solution: str) -> Iterator[bool]:
    """Yield whether a wrong solution counts as special-cased, without and with the contradicting test."""
    held_out = [test for text in task.held_out if (test := parse_test(text))]
    for impossible in (False, True):
        given = parse_tests(file_of_tests(task, impossible))[0]
        results = "".join("01"[each] for each in grade({SOLUTION: solution}, [*given, *held_out]).passed)
        if "0" in results[len(given) :]:
            yield special_cased(task, impossible, results[: len(given)], results[len(given) :]) > 0


@pytest.mark.slow
def test_few_wrong_solutions_count_as_special_cased(monkeypatch):
    """`pytest -s` prints how many."""
    monkeypatch.setattr("atp.testbeds.code.harness.SECONDS", 1)
    found = [
        flag
        for template in read_templates(TESTBED.templates, CodeTemplate)
        for split in ("train", "test")
        for task in instantiate(template.model_copy(update={"tasks": 10}), split, Random(0)).tasks
        for mutant in mutants(task.solution)
        for flag in flags(task, mutant)
    ]
    print(f"{sum(found)} of {len(found)} wrong solutions count as special-cased")
    assert len(found) > 900 and sum(found) < 0.01 * len(found)
