"""Own templates -> scenarios, for any testbed: seeded, train and test apart. Knows nothing of what a game asks."""

import string
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Annotated, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from atp.errors import AtpError
from atp.explain import explain
from atp.scenarios.scenario import Scenario, plain, same_label

TRIES = 1000


def holds(*needed: str, allowed: tuple[str, ...] = ()) -> AfterValidator:
    """Holds a text to the placeholders `needed`, once each, and to no others but `allowed`."""
    names = (*needed, *allowed)

    def check(text: str) -> str:
        fields = [field for field in string.Formatter().parse(text) if field[1] is not None]
        found = [str(name) for _, name, _, _ in fields]
        for _, name, form, conversion in fields:
            if name not in names:
                raise ValueError(f"unknown placeholder {{{name}}}, allowed: {_braced(names) or 'none'}")
            if form or conversion:
                raise ValueError(f"placeholder {{{name}}} takes no format")
        strict = [name for name in found if name in needed]
        if sorted(strict) != sorted(needed):
            raise ValueError(f"needs {_braced(needed)} once each, found {_braced(strict) or 'none'}")
        return text

    return AfterValidator(check)


def _braced(names: Iterable[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in names)


Plain = Annotated[str, Field(min_length=1), holds()]
Pair = tuple[Plain, Plain]


class Template(BaseModel):
    """What instances of one environment are made from; a testbed's own kind adds its texts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    environment: Plain


class TwoOptions(Template):
    """A template of two options with names. Any pair of `labels` may name them either way round; `described` pairs say
    what they are, in the order that the testbed states."""

    labels: tuple[Pair, ...] = Field(min_length=1)
    described: tuple[Pair, ...] = ()

    @model_validator(mode="after")
    def _labels_differ(self) -> "TwoOptions":
        for first, second in (*self.labels, *self.described):
            if same_label(first, second):
                raise ValueError(f"two options with the same label '{first}', they must differ")
            if not (plain(first) and plain(second)):
                raise ValueError(f"labels '{first}' and '{second}': each must hold a letter, digit or sign")
        return self


AnyTemplate = TypeVar("AnyTemplate", bound=Template)
AnyScenario = TypeVar("AnyScenario", bound=Scenario)


def read_templates(path: Path | str, kind: type[AnyTemplate]) -> list[AnyTemplate]:
    """Templates of a YAML file.

    Raises:
        AtpError: no such file, not YAML, not a list of templates, an unknown placeholder, two equal labels.
    """
    path = Path(path)
    if not path.is_file():
        raise AtpError(f"{path}: {'a folder, not a template file' if path.is_dir() else 'no such file'}")
    try:
        items = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise AtpError(f"{path}: no readable YAML: {' '.join(str(error).split())}") from error
    if not isinstance(items, list) or not items:
        raise AtpError(f"{path}: not a template file: must be a list of templates, found {type(items).__name__}")
    templates = []
    for number, item in enumerate(items, 1):
        name = item.get("environment", number) if isinstance(item, dict) else number
        try:
            templates.append(kind.model_validate(item))
        except ValidationError as error:
            raise AtpError(f"{path}: template '{name}': {explain(error, kind)}") from error
    return templates


def generate(
    templates: Sequence[AnyTemplate],
    instantiate: Callable[[AnyTemplate, str, Random], AnyScenario],
    train: int,
    test: int,
    seed: int,
) -> list[AnyScenario]:
    """`test` scenarios, then `train`, the templates taking turns; none stands twice, in a split or across.

    More of one split leaves the other as it was.
    """
    scenarios: dict[str, AnyScenario] = {}
    for split, count in (("test", test), ("train", train)):
        for number in range(count):
            template = templates[number % len(templates)]
            drawn = (instantiate(template, split, Random(f"{seed}|{split}|{number}|{n}")) for n in range(TRIES))
            fresh = next((scenario for scenario in drawn if scenario.scenario_id not in scenarios), None)
            if fresh is None:
                raise AtpError(f"template '{template.environment}': too few different instances, let it vary more")
            scenarios[fresh.scenario_id] = fresh
    return list(scenarios.values())


def draw_labels(template: TwoOptions, rng: Random) -> Pair:
    """A pair of names either way round, or a described pair as it is."""
    pair = rng.choice([*template.labels, *template.described])
    if pair in template.described or rng.random() < 0.5:
        return pair
    return pair[1], pair[0]


def sentence(text: str) -> str:
    """A label may open a sentence: its first letter becomes a capital."""
    return text[:1].upper() + text[1:]
