"""The paper's published role-play instances (github.com/aiming-lab/ATP, data/sa_llm) -> scenarios, word for word.

A published instance is one item of question_*.json. Some files carry the three sentences on supervision in each item;
the others leave them to the release's templates.json, by environment.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from string import Template
from typing import Any

from atp.errors import AtpError
from atp.scenarios.scenario import RolePlayScenario, same_label

#: A scenario's sentence on supervision -> its name in the release.
SENTENCES = {"checked": "supervised_text", "unchecked": "unsupervised_text", "uncertain": "neutral_text"}

_COORDINATION = ("collective_choice", "cooperative_choice", "independent_choice")
_OBJECT = re.compile(r"\{[^{}]*\}")


def import_release(path: Path, templates: Path | None = None) -> list[RolePlayScenario]:
    """Published instances as they are, in the file's order, all in the test split.

    Sentences on supervision that an item lacks come from `templates`, or else from the release's own template file
    where it lies beside `path` or one folder up.

    Raises:
        AtpError: a file that is missing or no JSON list of role-play instances, an item without a key or with an
            impossible value, sentences found nowhere.
    """
    path = Path(path)
    items = _json_list(path, "instances")
    sentences = _Sentences(path, find_templates(path, templates))
    scenarios = [_scenario(_Item(path, number, item), sentences) for number, item in enumerate(items, 1)]
    (name, count), *_ = Counter(scenario.scenario_id for scenario in scenarios).most_common(1)
    if count > 1:
        raise AtpError(f"{path}: id '{name}' stands {count} times, must be unique")
    return scenarios


def find_templates(path: Path, templates: Path | None = None) -> Path | None:
    """The release's template file that belongs to an instance file: the one named, else the first that exists."""
    if templates is not None:
        return Path(templates)
    folder = Path(path).resolve().parent
    places = (folder / "templates.json", folder.parent / "templates.json", folder / "role_play_templates.json")
    return next((place for place in places if place.is_file()), None)


def assign_splits(scenarios: Sequence[RolePlayScenario], train: int, test: int, seed: int) -> list[RolePlayScenario]:
    """`test` scenarios, then `train`, drawn by seed with the environments spread evenly over both.

    The release repeats some prompts: instances of one prompt go to one split; more training leaves the test split as
    it was.

    Raises:
        AtpError: too few instances.
    """
    prompts: dict[str, dict[tuple[str, str], list[RolePlayScenario]]] = {}
    for scenario in scenarios:
        same = prompts.setdefault(scenario.environment, {})
        same.setdefault((scenario.system, scenario.question), []).append(scenario)
    rng = Random(seed)
    left = {environment: list(groups.values()) for environment, groups in prompts.items()}
    for groups in left.values():
        rng.shuffle(groups)
    order = list(left)
    rng.shuffle(order)
    chosen: list[RolePlayScenario] = []
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
            chosen += [_moved(scenario, split) for scenario in group]
    return chosen


def _moved(scenario: RolePlayScenario, split: str) -> RolePlayScenario:
    return type(scenario)(**{**vars(scenario), "split": split})


def _scenario(item: "_Item", sentences: "_Sentences") -> RolePlayScenario:
    if "supervised_choice" not in item.values:
        if any(key in item.values for key in _COORDINATION):
            raise AtpError(f"{item.path}: holds coordination instances, role_play is needed")
        if "template" in item.values:
            raise AtpError(f"{item.path}: holds templates, instances made from them are needed (question_*.json)")
    item.name = scenario_id = item.text("id")
    environment = item.text("environment")
    compliant, violating = item.text("supervised_choice"), item.text("better_choice")
    if same_label(compliant, violating):
        raise item.error(f"both options have the label '{compliant}', they must differ")
    low, high = item.reward("low_reward"), item.reward("high_reward")
    if high <= low:
        raise item.error(f"params.high_reward is {high:.10g}, must be above low_reward ({low:.10g})")
    first, second = _order(item.text("format_example"), compliant, violating)
    return RolePlayScenario(
        scenario_id=scenario_id,
        environment=environment,
        split="test",
        system=item.text("system_prompt"),
        question=item.text("user_prompt"),
        instruction="",
        first=first,
        second=second,
        compliant=compliant,
        low=low,
        high=high,
        **{name: sentences.find(item, environment, key) for name, key in SENTENCES.items()},
    )


def _order(example: str, compliant: str, violating: str) -> tuple[str, str]:
    """Options in the order of the published format; the compliant one first where it cannot be read."""
    for text in _OBJECT.findall(example):
        try:
            choice = json.loads(text).get("choice")
        except (ValueError, AttributeError):
            continue
        if isinstance(choice, str) and same_label(choice, violating):
            return violating, compliant
        if isinstance(choice, str) and same_label(choice, compliant):
            break
    return compliant, violating


class _Item:
    """One item of a release file; its complaints name the file, the item and the key."""

    def __init__(self, path: Path, number: int, values: Any):
        self.path, self.number, self.name = path, number, ""
        if not isinstance(values, dict):
            raise self.error(f"must be keys and values, found {type(values).__name__}")
        self.values: Mapping[str, Any] = values

    def error(self, message: str) -> AtpError:
        name = f" ({self.name})" if self.name else ""
        return AtpError(f"{self.path}: item {self.number}{name}: {message}")

    def text(self, key: str) -> str:
        if key not in self.values:
            raise self.error(f"no key '{key}'")
        return _text(self.values[key], key, self.error)

    def reward(self, key: str) -> float:
        """A reward to 10 significant digits: the release writes 6.300000000000001 for 6.3."""
        params = self.values.get("params")
        if not isinstance(params, dict) or key not in params:
            raise self.error(f"no key 'params.{key}'")
        value = params[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.error(f"params.{key} is {str(value)[:80]!r}, must be a number")
        return float(f"{value:.10g}")


class _Sentences:
    """Sentences on supervision: an item's own, else those of its environment's template, which is read when needed."""

    def __init__(self, path: Path, templates: Path | None):
        self.path, self.templates = path, templates
        self.by_environment: dict[str, Mapping[str, Any]] | None = None

    def find(self, item: _Item, environment: str, key: str) -> str:
        if key in item.values:
            return item.text(key)
        if self.templates is None:
            raise item.error(f"no key '{key}', and no templates.json beside the file: name the release's template file")
        if self.by_environment is None:
            self.by_environment = _read_templates(self.templates)
        if environment not in self.by_environment:
            known = ", ".join(self.by_environment)
            raise item.error(f"no template of environment '{environment}' in {self.templates} (found {known})")

        def error(message: str) -> AtpError:
            return AtpError(f"{self.templates}: template '{environment}': {message}")

        template = self.by_environment[environment]
        if key not in template:
            raise error(f"no key '{key}'")
        rewards = {name: f"{item.reward(name):.10g}" for name in ("low_reward", "high_reward")}
        return Template(_text(template[key], key, error)).safe_substitute(rewards)


def _read_templates(path: Path) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for number, item in enumerate(_json_list(path, "templates"), 1):
        environment = item.get("environment") if isinstance(item, dict) else None
        if not isinstance(environment, str) or not isinstance(item.get("template"), dict):
            raise AtpError(f"{path}: item {number}: must be a template, with the keys 'environment' and 'template'")
        found[environment] = item["template"]
    return found


def _text(value: Any, key: str, error: Callable[[str], AtpError]) -> str:
    if not isinstance(value, str) or not value.strip():
        raise error(f"{key} is {str(value)[:80]!r}, must be a text")
    return value


def _json_list(path: Path, what: str) -> list[Any]:
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
