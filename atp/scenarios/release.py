"""Tools for importers of the paper's release (github.com/aiming-lab/ATP, data/): items, their values, and splits."""

import json
import math
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, Literal

from pydantic import Field

from atp.errors import AtpError
from atp.files.provenance import Stage
from atp.parsing.labels import same_label
from atp.registry import find_testbed
from atp.scenarios.scenario import write_scenarios
from atp.scenarios.sources import ScenarioSettings, ScenariosJob, named
from atp.scenarios.templates import AnyScenario
from atp.testbed import Scenario, Testbed

_CHOICE = re.compile(r'"choice"\s*:\s*("[^"]*"|[^{},]*)')


class ReleaseSettings(ScenarioSettings):
    """Scenarios from a file that the paper published, word for word."""

    source: Literal["release"] = "release"
    path: str = Field(description="file of the release (JSON)")

    def files(self, testbed: Testbed, root: Path) -> list[Path]:
        return [root / self.path]

    @abstractmethod
    def published(self, root: Path) -> list[Any]:
        """Return the file's scenarios in its order, all in the test split."""

    def scenarios(self, testbed: Testbed, root: Path) -> Sequence[Scenario]:
        published = self.published(root)
        test = max(1, len(published) - self.train) if self.test is None else self.test
        with named(root / self.path):
            return assign_splits(published, self.train, test, self.seed)


def import_release(job: ScenariosJob, out: Path) -> None:
    """Write all scenarios of a release file, word for word, in the test split. Raises AtpError for another source."""
    settings, testbed = job.settings, find_testbed(job.testbed)
    if not isinstance(settings, ReleaseSettings):
        raise AtpError(f"testbed '{job.testbed}': the release has no scenarios for it, use templates")
    stage = Stage(job.stage, type(settings).__module__, job.params(), settings.files(testbed, Path()))
    write_scenarios(testbed, settings.published(Path()), out, stage.provenance())


class Item:
    """One item of a release file. Its errors name the file, the item and the key.

    Args:
        number: position in the file, from 1.
        values: the item's keys and values.
        name: the item's name, for errors; empty while it is unknown.

    Raises:
        AtpError: `values` is not a dictionary.
    """

    def __init__(self, path: Path, number: int, values: Any, name: str = ""):
        self.path, self.number, self.name = path, number, name
        if not isinstance(values, dict):
            raise self.error(f"must be keys and values, found {type(values).__name__}")
        self.values: Mapping[str, Any] = values

    def error(self, message: str) -> AtpError:
        """Return an error that names the file and the item."""
        name = f" ({self.name})" if self.name else ""
        return AtpError(f"{self.path}: item {self.number}{name}: {message}")

    def text(self, key: str) -> str:
        """Return the text of a key. Raises AtpError if the key is missing or has no text."""
        if key not in self.values:
            raise self.error(f"no key '{key}'")
        return checked_text(self.values[key], key, self.error)

    def param(self, key: str) -> float:
        """Return a number of `params`, to 10 significant digits: the release writes 6.300000000000001 for 6.3."""
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

    def check_testbed(self, testbed: str, keys: Sequence[str]) -> None:
        """Raise AtpError for the file if this item, or its template, has none of a testbed's keys."""
        values = self.values.get("template", self.values)
        if isinstance(values, dict) and not any(key in values for key in keys):
            raise AtpError(
                f"{self.path}: not a release file of testbed '{testbed}': item {self.number} has none of the keys "
                f"{', '.join(keys)}"
            )

    def labels(self, one: str, other: str) -> tuple[str, str]:
        """Return the labels of two keys. Raises AtpError if a reply could not tell them apart."""
        labels = self.text(one), self.text(other)
        if same_label(*labels):
            raise self.error(f"both options have the label '{labels[0]}', they must differ")
        return labels


def checked_text(value: Any, key: str, error: Callable[[str], AtpError]) -> str:
    """Return a value that is a non-empty text; else raise the error that `error` makes of a message."""
    if not isinstance(value, str) or not value.strip():
        raise error(f"{key} is {str(value)[:80]!r}, must be a text")
    return value


def in_order(labels: tuple[str, str], example: str) -> tuple[str, str]:
    """Return two labels in the order of a published answer format, which may lack quotes, or else unchanged."""
    for label in _CHOICE.findall(example):
        if same_label(label, labels[1]):
            return labels[1], labels[0]
        if same_label(label, labels[0]):
            break
    return labels


def read_items(path: Path) -> list[Item]:
    """Return the items of a JSON list.

    Raises:
        AtpError: a missing file, not JSON, not a list, an empty list, or an item that is not a dictionary.
    """
    return [Item(path, number, item) for number, item in enumerate(json_list(path, "instances"), 1)]


def json_list(path: Path, what: str) -> list[Any]:
    """Return the list of a JSON file. Raises AtpError if there is none, or an empty one; `what` names the items."""
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


def check_unique(path: Path, scenarios: Sequence[Scenario]) -> None:
    """Raise AtpError if an id occurs more than once in a file."""
    (name, count), *_ = Counter(scenario.scenario_id for scenario in scenarios).most_common(1)
    if count > 1:
        raise AtpError(f"{path}: id '{name}' occurs {count} times, must be unique")


def assign_splits(scenarios: Sequence[AnyScenario], train: int, test: int, seed: int) -> list[AnyScenario]:
    """Return `test` scenarios, then `train`, drawn by the seed, with templates spread evenly over both splits.

    The release repeats some prompts: all instances of a prompt are in one split. The number of training scenarios does
    not change the test split.

    Raises:
        AtpError: too few instances.
    """
    prompts: dict[str, dict[tuple[str, ...], list[AnyScenario]]] = {}
    for scenario in scenarios:
        prompt = tuple(getattr(scenario, name, "") for name in ("system", "question", "multiply", "add"))
        prompts.setdefault(scenario.template, {}).setdefault(prompt, []).append(scenario)
    rng = Random(seed)
    remaining = {template: list(groups.values()) for template, groups in prompts.items()}
    for groups in remaining.values():
        rng.shuffle(groups)
    order = list(remaining)
    rng.shuffle(order)
    chosen: list[AnyScenario] = []
    for split, wanted in (("test", test), ("train", train)):
        counts = dict.fromkeys(order, 0)
        while (missing := wanted - sum(counts.values())) > 0:
            open_templates = [template for template in order if remaining[template]]
            if not open_templates:
                distinct = sum(len(groups) for groups in prompts.values())
                raise AtpError(
                    f"{len(scenarios)} instances ({distinct} different prompts) are too few for {test} test and "
                    f"{train} train scenarios without a common prompt: {missing} {split} missing"
                )
            template = min(open_templates, key=counts.__getitem__)
            group = remaining[template].pop()[:missing]
            counts[template] += len(group)
            chosen += [replace(scenario, split=split) for scenario in group]
    return chosen
