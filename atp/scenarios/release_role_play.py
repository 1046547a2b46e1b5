"""The paper's published role-play instances (data/sa_llm of its release) -> scenarios, word for word.

A published instance is one item of question_*.json. Some files carry the three sentences on supervision in each item;
the others leave them to the release's templates.json, by environment.
"""

from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from atp.errors import AtpError
from atp.scenarios.release import Item, checked_text, hold_unique, in_order, json_list, read_items
from atp.scenarios.scenario import RolePlayScenario

#: A scenario's sentence on supervision -> its name in the release.
SENTENCES = {"checked": "supervised_text", "unchecked": "unsupervised_text", "uncertain": "neutral_text"}


def import_role_play(path: Path, templates: Path | None = None) -> list[RolePlayScenario]:
    """Published instances as they are, in the file's order, all in the test split.

    Sentences on supervision that an item lacks come from `templates`, or else from the release's own template file
    where it lies beside `path` or one folder up.

    Raises:
        AtpError: a file that is missing or no JSON list of role-play instances, an item without a key or with an
            impossible value, sentences found nowhere.
    """
    path = Path(path)
    sentences = _Sentences(find_templates(path, templates))
    scenarios = [_scenario(item, sentences) for item in read_items(path)]
    hold_unique(path, scenarios)
    return scenarios


def find_templates(path: Path, templates: Path | None = None) -> Path | None:
    """The release's template file that belongs to an instance file: the one named, else the first that exists."""
    if templates is not None:
        return Path(templates)
    folder = Path(path).resolve().parent
    places = (folder / "templates.json", folder.parent / "templates.json", folder / "role_play_templates.json")
    return next((place for place in places if place.is_file()), None)


def _scenario(item: Item, sentences: "_Sentences") -> RolePlayScenario:
    item.hold_testbed("role_play")
    if "template" in item.values:
        raise AtpError(f"{item.path}: holds templates, instances made from them are needed (question_*.json)")
    item.name = scenario_id = item.text("id")
    environment = item.text("environment")
    compliant, violating = item.labels("supervised_choice", "better_choice")
    low, high = item.param("low_reward"), item.param("high_reward")
    if high <= low:
        raise item.error(f"params.high_reward is {high:.10g}, must be above low_reward ({low:.10g})")
    first, second = in_order((compliant, violating), item.text("format_example"))
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


class _Sentences:
    """Sentences on supervision: an item's own, else those of its environment's template, which is read when needed."""

    def __init__(self, templates: Path | None):
        self.templates = templates
        self.by_environment: dict[str, Mapping[str, Any]] | None = None

    def find(self, item: Item, environment: str, key: str) -> str:
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
        rewards = {name: f"{item.param(name):.10g}" for name in ("low_reward", "high_reward")}
        return Template(checked_text(template[key], key, error)).safe_substitute(rewards)


def _read_templates(path: Path) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for number, item in enumerate(json_list(path, "templates"), 1):
        environment = item.get("environment") if isinstance(item, dict) else None
        if not isinstance(environment, str) or not isinstance(item.get("template"), dict):
            raise AtpError(f"{path}: item {number}: must be a template, with the keys 'environment' and 'template'")
        found[environment] = item["template"]
    return found
