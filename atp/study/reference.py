"""The reference of all keys of studies and model files, as Markdown, from the types that check them."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

from pydantic import BaseModel

from atp.files.tables import write_text
from atp.memory.channel import MemoryChannel
from atp.models.spec import ModelSpec, Sampling
from atp.registry import entries, resolve
from atp.rollout.transplant import HistorySource
from atp.scenarios.sources import TEMPLATES, TemplateSource
from atp.study.read import schemas
from atp.study.study import ContextChannel, Study, TestbedSection
from atp.training import DpoSettings, GrpoSettings, SftSettings
from atp.training.alignment import Alignment, OwnAlignment, OwnConversations
from atp.training.channel import Evaluation, WeightsChannel

INTRODUCTION = """\
# Configuration

`atp schemas` writes this page and the JSON schemas in `config/schemas`, from which editors complete.

A **study** is a YAML file: which models play which testbeds, under which conditions, in which channels. The shipped
studies are in `config/studies`. A **model** is a file of `config/models`, which studies name without `.yaml`.

| to run | command: `snakemake --cores all` ... |
|---|---|
| the default study, `demo`; in a deployed copy that of `config/config.yaml` | |
| a file of your own | `--configfile my_study.yaml` |
| a file of `config/studies`, by its name | `--config study=NAME` |
| with single keys overridden | `--config study=NAME 'seeds=[0,1]' 'testbeds={NAME: {context: {samples: 2}}}'` |
| after training the model organisms again | `--config study=NAME organism=rebuild` |

The file after `--configfile` is a whole study, or `study: NAME` with the keys that it overrides. Results are written
to `results/NAME`: the study's `name`, or else the name of its file. Paths in a study or in a model's file (plug-ins,
templates, folders of models), and the names of studies and models, begin at the working directory if it has a folder
`config/models`, otherwise at the workflow's folder. An unknown key is an error.
[docs/workflow.md](../docs/workflow.md) has more ways to start the workflow.
"""
OWN_AGENTS = (
    "An entry of `alignments` with exactly one of these keys is an agent of your own at generation 0, such as "
    "`- mine: {adapter: FOLDER}`. In results, `weights.seeds`, `primary` and `history_from` the names of `adapter` and "
    "`model` begin with `given:` ([docs/aligned-agents.md](../docs/aligned-agents.md))."
)
CONDITION = (
    "A condition has testbed settings that it overrides; `training`, `filter` and `monitor`, with settings of the "
    "weights channel that it overrides; `memory`, with those of the memory channel; and, for transplanted histories, "
    "`history_from` with these keys, or, for yoked rewards, `payments_from` with the same keys. Left out, `model` and "
    "`alignment` are the agent's own."
)
MEMORY = (
    "Experience accumulates in a memory ([docs/memory.md](../docs/memory.md)): a generation is a rollout that is "
    "remembered, and an evaluation with the memory and without it. `memory.evaluation` has the keys of "
    "[Evaluation](#evaluation)."
)
SOURCE = "Without `source`, scenarios come from the testbed's templates, or from its first source if it has none."
FILTER = "`name` is required and selects the filter. GRPO has no filter; DPO needs `best_and_worst`."
TRAINING = (
    "`method` is required and selects the table. `testbeds.NAME.alignment.dpo` and `.grpo` have the same keys, without "
    "defences. Any other field of TRL's `SFTConfig`, `DPOConfig` or `GRPOConfig` is passed on, unless atp sets it."
)
TESTBEDS = (
    "A testbed's `context.sweep` varies these keys. `weights.deployment` overrides them for deployments, and "
    "`weights.evaluation.settings` for evaluations; `memory` has the same keys. A condition overrides them for all but "
    "evaluations, and wins."
)
#: Descriptions of keys that have none in their type.
DESCRIPTIONS = {
    "scenarios": "number and source of scenarios: see [Scenarios](#scenarios)",
    "training": "method and settings of fine-tuning",
}
LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}

Schema = Mapping[str, Any]
Kinds = Mapping[str, type[BaseModel]]


class Section(NamedTuple):
    """Tables of types by heading, after a table of the keys that all of them share. `place` is where keys stand."""

    title: str
    place: str
    kinds: Kinds
    text: str = ""


def write_schemas(folder: Path, page: Path) -> None:
    """Write the JSON schemas to a folder, and the reference to a file."""
    for name, schema in schemas().items():
        write_text(json.dumps(schema, indent=2) + "\n", folder / f"{name}.schema.json")

    write_text(reference(), page)


def reference() -> str:
    """Return the page."""
    sections = list(_sections())
    links = {
        kind.__name__: f"[keys](#{section.title.lower().replace(' ', '-')})"
        for section in sections
        for kind in section.kinds.values()
    }
    links[OwnConversations.__name__] = links[SftSettings.__name__]
    return "\n".join([INTRODUCTION, *(_text(section, links) for section in sections)])


def _sections() -> Iterator[Section]:
    testbeds = {f"`{name}`": each.value for name, each in entries("testbeds").items()}
    sources = [(name, kind, title) for title, each in testbeds.items() for name, kind in each.sources.items()]
    named = {f"`{name}` of {title}": resolve(kind) for name, kind, title in sources}
    methods: Kinds = {"`sft`": SftSettings, "`dpo`": DpoSettings, "`grpo`": GrpoSettings}
    filters = {f"`{name}`": entry.value for name, entry in entries("filters").items()}
    place = "testbeds.NAME."
    yield Section("Study", "", {"": Study})
    yield Section("Your own agents", "alignments.NAME.", {"": OwnAlignment}, OWN_AGENTS)
    yield Section("Testbed section", place, {"": TestbedSection})
    yield Section("Conditions", f"{place}conditions.CONDITION.history_from.", {"": HistorySource}, CONDITION)
    yield Section("Alignment", f"{place}alignment.", {"": Alignment})
    yield Section("Context channel", f"{place}context.", {"": ContextChannel})
    yield Section("Weights channel", f"{place}weights.", {"": WeightsChannel})
    yield Section("Memory channel", f"{place}memory.", {"": MemoryChannel}, MEMORY)
    yield Section("Evaluation", f"{place}weights.evaluation.", {"": Evaluation})
    yield Section("Scenarios", f"{place}scenarios.", {f"`{TEMPLATES}`": TemplateSource, **named}, SOURCE)
    yield Section("Filters", f"{place}weights.filter.", filters, FILTER)
    yield Section("Training", f"{place}weights.training.", methods, TRAINING)
    settings = {title: testbed.settings for title, testbed in testbeds.items()}
    yield Section("Settings of testbeds", f"{place}settings.", settings, TESTBEDS)
    yield Section("Model file", "", {"": ModelSpec})
    yield Section("Sampling", "sampling.", {"": Sampling})


def _text(section: Section, links: Mapping[str, str]) -> str:
    tables = {name: list(_rows(section.place, kind.model_json_schema(), links)) for name, kind in section.kinds.items()}
    first, *others = tables.values()
    shared = [row for row in first if all(row in rows for rows in others)] if others else []
    parts = [f"## {section.title}", fill(section.text, 120, break_on_hyphens=False), _table(shared)]
    for name, rows in tables.items():
        description = str(section.kinds[name].__doc__) if name or not section.text else ""
        parts += [f"### {name}" if name else "", description, _table([row for row in rows if row not in shared])]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(rows: list[str]) -> str:
    return "\n".join(["| key | type | default | description |", "|---|---|---|---|", *rows]) if rows else ""


def _rows(place: str, schema: Schema, links: Mapping[str, str], definitions: Schema | None = None) -> Iterator[str]:
    """Yield the row of each key. Keys of a type without a section of its own follow the key that has this type."""
    definitions = definitions or schema.get("$defs", {})
    for key, each in schema["properties"].items():
        names = re.findall(r'"#/\$defs/(\w+)"', json.dumps(each))
        description = each.get("description") or DESCRIPTIONS.get(key, "")
        if names and not description:
            text = definitions[names[0]]["description"]
            description = text[0].lower() + text[1:].rstrip(".")
        default = f"`{json.dumps(each.get('default', {}))}`" if key not in schema.get("required", ()) else "required"
        if "const" in each:
            default, description = "–", "selects this table"
        yield f"| `{place}{key}` | {_type(each, links)} | {default} | {description} |"
        for name in names:
            if name not in links:
                yield from _rows(f"{place}{key}.", definitions[name], links, definitions)


def _type(schema: Schema, links: Mapping[str, str]) -> str:
    """Return the type of a value in words, with its limits."""
    if "$ref" in schema:
        return links.get(schema["$ref"].rpartition("/")[2], "keys")
    if several := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(_type(each, links) for each in several))
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type", "value")
    inner = schema.get("items" if kind == "array" else "additionalProperties")
    if kind in ("array", "object") and isinstance(inner, dict):
        plural = re.sub(r"^(string|integer|number|value|mapping|list)\b", r"\1s", _type(inner, links))
        return f"{'list of' if kind == 'array' else 'mapping of names to'} {plural}"
    limits = [f"{sign} {schema[limit]:,.10g}" for limit, sign in LIMITS.items() if limit in schema]
    return " ".join(["mapping" if kind == "object" else kind, ", ".join(limits)]).strip()
