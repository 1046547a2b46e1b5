"""Scenarios from templates, for any testbed: seeded, with disjoint train and test splits."""

import re
import string
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import chain, islice
from pathlib import Path
from random import Random
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from atp.errors import AtpError
from atp.explain import explain
from atp.files.yaml_text import read_yaml
from atp.parsing.labels import has_name, same_label
from atp.testbed import Scenario

#: Attempts to draw an instance that does not exist yet.
TRIES = 1000
#: Attempts to draw a training instance that differs from every test instance in more than its numbers.
TRIES_TO_DIFFER = 32


def holds(*needed: str, allowed: tuple[str, ...] = ()) -> AfterValidator:
    """Return a validator of a text's placeholders: each of `needed` occurs once, any of `allowed` may, no others."""
    names = (*needed, *allowed)

    def check(text: str) -> str:
        present = [name for name in placeholders(text, names) if name in needed]
        if sorted(present) != sorted(needed):
            raise ValueError(f"needs {_braced(needed)} once each, found {_braced(present) or 'none'}")
        return text

    return AfterValidator(check)


def placeholders(text: str, names: Collection[str]) -> list[str]:
    """Return a text's placeholders. Raises ValueError for one that is not among `names`, or that has a format."""
    fields = [field for field in string.Formatter().parse(text) if field[1] is not None]
    for _, name, form, conversion in fields:
        if name not in names:
            raise ValueError(f"unknown placeholder {{{name}}}, allowed: {_braced(names) or 'none'}")
        if form or conversion:
            raise ValueError(f"placeholder {{{name}}} takes no format")
    return [str(name) for _, name, _, _ in fields]


def _braced(names: Iterable[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in names)


Text = Annotated[str, Field(min_length=1), holds()]
Pair = tuple[Text, Text]


class Template(BaseModel):
    """One item of a template file, from which scenarios are made. A testbed's own type adds its texts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Text


class TwoOptions(Template):
    """A template of two options with labels.

    Args:
        labels: pairs of neutral labels, which may name the options in either order.
        described: pairs of labels that describe the options, in the order that the testbed defines.
    """

    labels: tuple[Pair, ...] = Field(min_length=1)
    described: tuple[Pair, ...] = ()

    @model_validator(mode="after")
    def _check_labels(self) -> "TwoOptions":
        for first, second in (*self.labels, *self.described):
            if same_label(first, second):
                raise ValueError(f"both options have the label '{first}', they must differ")
            if not (has_name(first) and has_name(second)):
                raise ValueError(f"labels '{first}' and '{second}': each must have a letter, digit or sign")
        return self


AnyTemplate = TypeVar("AnyTemplate", bound=Template)
AnyScenario = TypeVar("AnyScenario", bound=Scenario)


def read_templates(path: Path | str, kind: type[AnyTemplate]) -> list[AnyTemplate]:
    """Return the templates of a YAML file.

    Raises:
        AtpError: no such file, not YAML, a key twice, not a list of templates, or a template that its type refuses.
    """
    path = Path(path)
    items = read_yaml(path)
    if not isinstance(items, list) or not items:
        raise AtpError(f"{path}: not a template file: must be a list of templates, found {type(items).__name__}")
    templates = []
    for number, item in enumerate(items, 1):
        name = item.get("name", number) if isinstance(item, dict) else number
        try:
            templates.append(kind.model_validate(item))
        except ValidationError as error:
            raise AtpError(f"{path}: template '{name}': {explain(error, kind)}") from error
        if any(template.name == templates[-1].name for template in templates[:-1]):
            raise AtpError(f"{path}: template '{name}': the name occurs twice, names must differ")
    return templates


def generate(
    templates: Sequence[AnyTemplate],
    instantiate: Callable[[AnyTemplate, str, Random], AnyScenario],
    train: int,
    test: int,
    seed: int,
    unseen: float = 0.0,
) -> list[AnyScenario]:
    """Return `test` scenarios, then `train`, all different, made from the templates in turn.

    A training scenario equals no test scenario but for its numbers, unless its template has too few such variants. The
    size of the training split does not change the test scenarios.

    Args:
        unseen: proportion of the templates that only test scenarios are made from, rounded to a number of templates;
            the seed draws them. At least one template is left for training.

    Raises:
        AtpError: a template has too few different instances.
    """
    scenarios: dict[str, AnyScenario] = {}
    tested: set[str] = set()
    for split, count in (("test", test), ("train", train)):
        of_split = templates if split == "test" else _trained(templates, unseen, seed)
        for number in range(count):
            template = of_split[number % len(of_split)]
            candidates = (instantiate(template, split, Random(f"{seed}|{split}|{number}|{n}")) for n in range(TRIES))
            others = (scenario for scenario in candidates if scenario.scenario_id not in scenarios)
            new = next(others, None)
            if new is None:
                raise AtpError(
                    f"template '{template.name}': has too few different instances: give it more values to draw "
                    "from, or ask for fewer scenarios"
                )
            if split == "test":
                tested.add(without_numbers(new))
            else:
                redrawn = chain([new], islice(others, TRIES_TO_DIFFER - 1))
                new = next((scenario for scenario in redrawn if without_numbers(scenario) not in tested), new)
            scenarios[new.scenario_id] = new
    return list(scenarios.values())


def _trained(templates: Sequence[AnyTemplate], unseen: float, seed: int) -> list[AnyTemplate]:
    """Return the templates that training scenarios are made from."""
    count = min(int(unseen * len(templates) + 0.5), len(templates) - 1)
    drawn = Random(f"{seed}|unseen").sample(range(len(templates)), count)
    return [template for number, template in enumerate(templates) if number not in drawn]


def without_numbers(scenario: Scenario) -> str:
    """Return a scenario's content with a sign in place of each number."""
    content = {name: value for name, value in vars(scenario).items() if name not in ("scenario_id", "split")}
    return re.sub(r"\d+(?:[.,]\d+)*", "#", str(content))


def draw_labels(template: TwoOptions, rng: Random) -> Pair:
    """Return a drawn pair of labels: a neutral pair in either order, or a described pair as it is."""
    pair = rng.choice([*template.labels, *template.described])
    if pair in template.described or rng.random() < 0.5:
        return pair
    return pair[1], pair[0]


def sentence(text: str) -> str:
    """Return a text with a capital first letter, for a label that begins a sentence."""
    return text[:1].upper() + text[1:]
