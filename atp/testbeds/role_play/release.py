"""Import the paper's published role-play instances (data/sa_llm of its release) word for word.

An instance is one item of question_*.json. In some files each item has the three sentences about supervision; for the
others they are in the release's templates.json. The release calls a template an "environment".
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from string import Template
from typing import Any

from pydantic import Field

from atp.errors import AtpError
from atp.scenarios.release import Item, ReleaseSettings, check_unique, checked_text, in_order, json_list, read_items
from atp.testbed import Testbed
from atp.testbeds.role_play.scenarios import RolePlayScenario

#: Fields of a scenario with a sentence about supervision -> their keys in the release.
SENTENCES = {"checked": "supervised_text", "unchecked": "unsupervised_text", "uncertain": "neutral_text"}
#: Key with the template's name.
NAME = "environment"
#: Keys of which an item, or its template, has at least one.
KEYS = ("supervised_choice", "supervised_text")


class RolePlayRelease(ReleaseSettings):
    """Role-play instances of the paper's release: question_*.json of data/sa_llm."""

    templates: str | None = Field(None, description="the release's templates.json, if it is not next to `path`")

    def files(self, testbed: Testbed, root: Path) -> list[Path]:
        templates = self._templates(root)
        return [root / self.path, *([templates] if templates else [])]

    def params(self) -> dict[str, Any]:
        return {key: value for key, value in super().params().items() if key != "templates"}

    def published(self, root: Path) -> list[RolePlayScenario]:
        return import_role_play(root / self.path, self._templates(root))

    def _templates(self, root: Path) -> Path | None:
        return find_templates(root / self.path, root / self.templates if self.templates else None)


def import_role_play(path: Path, templates: Path | None = None) -> list[RolePlayScenario]:
    """Return published instances word for word, in the file's order, all in the test split.

    Args:
        templates: file with the sentences about supervision that items lack; by default see `find_templates`.

    Raises:
        AtpError: a missing file, not a JSON list of role-play instances, an item without a key or with an impossible
            value, or a sentence that neither the item nor the template file has.
    """
    path = Path(path)
    sentences = _Sentences(find_templates(path, templates))
    scenarios = [_scenario(item, sentences) for item in read_items(path)]
    check_unique(path, scenarios)
    return scenarios


def find_templates(path: Path, templates: Path | None = None) -> Path | None:
    """Return the release's template file of an instance file: `templates`, else the first known name that exists.

    The names are templates.json next to the file or one folder up, and role_play_templates.json next to it.
    """
    if templates is not None:
        return Path(templates)
    folder = Path(path).resolve().parent
    places = (folder / "templates.json", folder.parent / "templates.json", folder / "role_play_templates.json")
    return next((place for place in places if place.is_file()), None)


def _scenario(item: Item, sentences: "_Sentences") -> RolePlayScenario:
    item.check_testbed("role_play", KEYS)
    if "template" in item.values:
        raise AtpError(f"{item.path}: has templates, give a file of instances (question_*.json)")
    item.name = scenario_id = item.text("id")
    name = item.text(NAME)
    compliant, violating = item.labels("supervised_choice", "better_choice")
    low, high = item.param("low_reward"), item.param("high_reward")
    if high <= low:
        raise item.error(f"params.high_reward is {high:.10g}, must be above low_reward ({low:.10g})")
    first, second = in_order((compliant, violating), item.text("format_example"))
    texts: dict[str, Any] = {field: sentences.find(item, name, key) for field, key in SENTENCES.items()}
    return RolePlayScenario(
        scenario_id=scenario_id,
        template=name,
        split="test",
        system=item.text("system_prompt"),
        question=item.text("user_prompt"),
        instruction="",
        first=first,
        second=second,
        compliant=compliant,
        low=low,
        high=high,
        **texts,
    )


class _Sentences:
    """Sentences about supervision: an item's own, else those of its template, whose file is read when needed."""

    def __init__(self, templates: Path | None):
        self.templates = templates

    @cached_property
    def by_name(self) -> dict[str, Mapping[str, Any]]:
        """The texts of the template file by the template's name."""
        templates: dict[str, Mapping[str, Any]] = {}
        for number, item in enumerate(json_list(Path(str(self.templates)), "templates"), 1):
            name = item.get(NAME) if isinstance(item, dict) else None
            if not isinstance(name, str) or not isinstance(item.get("template"), dict):
                raise AtpError(
                    f"{self.templates}: item {number}: must be a template with the keys '{NAME}' and 'template'"
                )
            templates[name] = item["template"]
        return templates

    def find(self, item: Item, name: str, key: str) -> str:
        """Return an item's sentence. Raises AtpError if neither the item nor the template `name` has it."""
        if key in item.values:
            return item.text(key)
        if self.templates is None:
            raise item.error(
                f"no key '{key}', and no templates.json next to the file: set 'templates' to the release's file"
            )
        if name not in self.by_name:
            raise item.error(f"no template '{name}' in {self.templates}, known are {', '.join(self.by_name)}")

        def error(message: str) -> AtpError:
            return AtpError(f"{self.templates}: template '{name}': {message}")

        template = self.by_name[name]
        if key not in template:
            raise error(f"no key '{key}'")
        sentence = checked_text(template[key], key, error)
        rewards = {key: f"{item.param(key):.10g}" for key in ("low_reward", "high_reward")}
        return Template(sentence).safe_substitute(rewards)
