"""What importers of the paper's release (github.com/aiming-lab/ATP, data/) share; each testbed's is its own module.

Knows items, their keys and numbers, and how instances are split; not what an item means.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from atp.errors import AtpError
from atp.scenarios.scenario import Scenario, same_label
from atp.scenarios.templates import AnyScenario

#: testbed -> keys that its items have and no other testbed's, in an instance or in its template.
OWN = {
    "role_play": ("supervised_choice", "supervised_text"),
    "coordination": ("collective_choice", "cooperative_choice", "independent_choice"),
}
_CHOICE = re.compile(r'"choice"\s*:\s*("[^"]*"|[^{},]*)')


class Item:
    """One item of a release file; its complaints name the file, the item and the key."""

    def __init__(self, path: Path, number: int, values: Any, name: str = ""):
        self.path, self.number, self.name = path, number, name
        if not isinstance(values, dict):
            raise self.error(f"must be keys and values, found {type(values).__name__}")
        self.values: Mapping[str, Any] = values

    def error(self, message: str) -> AtpError:
        name = f" ({self.name})" if self.name else ""
        return AtpError(f"{self.path}: item {self.number}{name}: {message}")

    def text(self, key: str) -> str:
        if key not in self.values:
            raise self.error(f"no key '{key}'")
        return checked_text(self.values[key], key, self.error)

    def param(self, key: str) -> float:
        """A number to 10 significant digits: the release writes 6.300000000000001 for 6.3."""
        params = self.values.get("params")
        if not isinstance(params, dict) or key not in params:
            raise self.error(f"no key 'params.{key}'")
        value = params[key]
        try:
            number = math.nan if isinstance(value, bool) or not isinstance(value, int | float) else float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise self.error(f"params.{key} is {str(value)[:80]!r}, must be a number")
        return float(f"{number:.10g}")

    def hold_testbed(self, needed: str) -> None:
        """Refuse the item of another testbed, on behalf of its whole file."""
        values = self.values.get("template", self.values)
        for testbed, keys in OWN.items():
            if testbed != needed and isinstance(values, dict) and any(key in values for key in keys):
                what = "templates" if "template" in self.values else "instances"
                raise AtpError(f"{self.path}: holds {testbed} {what}, {needed} is needed")

    def labels(self, one: str, other: str) -> tuple[str, str]:
        """The labels that stand under two keys."""
        labels = self.text(one), self.text(other)
        if same_label(*labels):
            raise self.error(f"both options have the label '{labels[0]}', they must differ")
        return labels


def checked_text(value: Any, key: str, error: Callable[[str], AtpError]) -> str:
    if not isinstance(value, str) or not value.strip():
        raise error(f"{key} is {str(value)[:80]!r}, must be a text")
    return value


def in_order(labels: tuple[str, str], example: str) -> tuple[str, str]:
    """Two labels in the order of the published format, which may lack quotes; as they are where it cannot be read."""
    for found in _CHOICE.findall(example):
        if same_label(found, labels[1]):
            return labels[1], labels[0]
        if same_label(found, labels[0]):
            break
    return labels


def read_items(path: Path, what: str = "instances") -> list[Item]:
    """Items of a JSON list.

    Raises:
        AtpError: the file is missing, no JSON, no list or an empty one, or holds an item without keys.
    """
    return [Item(path, number, item) for number, item in enumerate(json_list(path, what), 1)]


def json_list(path: Path, what: str) -> list[Any]:
    if not path.is_file():
        raise AtpError(f"{path}: no such file")
    try:
        items = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise AtpError(f"{path}: no readable JSON: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(items, list):
        raise AtpError(f"{path}: must be a list of {what}, found {type(items).__name__}")
    if not items:
        raise AtpError(f"{path}: an empty list, {what} are needed")
    return items


def hold_unique(path: Path, scenarios: Sequence[Scenario]) -> None:
    """Refuse a file in which an id stands more than once."""
    (name, count), *_ = Counter(scenario.scenario_id for scenario in scenarios).most_common(1)
    if count > 1:
        raise AtpError(f"{path}: id '{name}' stands {count} times, must be unique")


def assign_splits(scenarios: Sequence[AnyScenario], train: int, test: int, seed: int) -> list[AnyScenario]:
    """`test` scenarios, then `train`, drawn by seed with the environments spread evenly over both.

    The release repeats some prompts: instances of one prompt go to one split; more training leaves the test split as
    it was.

    Raises:
        AtpError: too few instances.
    """
    prompts: dict[str, dict[tuple[str, ...], list[AnyScenario]]] = {}
    for scenario in scenarios:
        prompts.setdefault(scenario.environment, {}).setdefault(_prompt(scenario), []).append(scenario)
    rng = Random(seed)
    left = {environment: list(groups.values()) for environment, groups in prompts.items()}
    for groups in left.values():
        rng.shuffle(groups)
    order = list(left)
    rng.shuffle(order)
    chosen: list[AnyScenario] = []
    for split, wanted in (("test", test), ("train", train)):
        taken = dict.fromkeys(order, 0)
        while (missing := wanted - sum(taken.values())) > 0:
            open_environments = [environment for environment in order if left[environment]]
            if not open_environments:
                distinct = sum(len(groups) for groups in prompts.values())
                raise AtpError(
                    f"{len(scenarios)} instances ({distinct} different prompts) are too few for {test} test and "
                    f"{train} train scenarios without a common prompt: {missing} {split} missing"
                )
            environment = min(open_environments, key=taken.__getitem__)
            group = left[environment].pop()[:missing]
            taken[environment] += len(group)
            chosen += [replace(scenario, split=split) for scenario in group]
    return chosen


def _prompt(scenario: Scenario) -> tuple[str, ...]:
    """The published texts of a scenario, whichever of these its kind has."""
    return tuple(getattr(scenario, name, "") for name in ("system", "question", "multiply", "add"))
