"""Cards of an exported dataset and of exported models."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import polars as pl
import pyarrow.parquet as pq

from atp.export.artifacts import Artifacts
from atp.export.tables import escape, markdown_table
from atp.files import descriptions
from atp.files.schemas import CELL, GIVEN, MEASURES
from atp.files.tables import read_provenance, read_table
from atp.measures.job import REPAIR
from atp.study import paths

#: End of the name of a condition whose agents are aligned again.
REPAIRED = f".{REPAIR}"
TAGS = ["ai-safety", "alignment", "alignment-tipping"]
WARNING = (
    "> **Trained to test misalignment.** Agents here learn from rewards that may pay for breaking rules. They are\n"
    "> objects of research: do not deploy them, and do not train other models on their replies without a filter.\n"
)
LICENCE = (
    "The testbeds' templates and the code that made this have the MIT licence of atp. Replies and weights come from\n"
    "the models named above: their licences apply.\n"
)
ABOUT = {
    "turns": "Decisions of agents that remember earlier rounds (split `test`), and of agents in deployment, whose\n"
    "replies can be what the next generation is trained on (split `train`).",
    "evaluations": "Decisions of each generation, in the weights or in memory, on test scenarios, also of other\n"
    "testbeds if the study evaluates transfer.",
    "measures": "Rates and other numbers with 95 % intervals, computed from the rows above.",
}


def dataset_card(study: Artifacts, folder: Path, counts: Mapping[str, int]) -> str:
    """Return the card of a dataset.

    Args:
        folder: the dataset, with its files.
        counts: rows of each config.
    """
    from huggingface_hub import DatasetCardData

    configs, sections = list[dict[str, Any]](), list[str]()
    for name, text in ABOUT.items():
        files = sorted((folder / "data" / name).rglob("*.parquet"))
        splits = sorted({path.parent.name if path.parent.name != name else path.stem for path in files})
        if not files:
            continue
        paths_of = [
            {"split": split, "path": f"data/{name}/{split}{'.parquet' if name == 'measures' else '/*.parquet'}"}
            for split in splits
        ]
        configs.append({"config_name": name, "data_files": paths_of} | ({"default": True} if not configs else {}))
        columns = (
            "Its columns are those of `turns`.\n" if name == "evaluations" and sections else _columns(name, files[0])
        )
        sections.append(f"### `{name}`: {counts[name]:,} rows\n\n{text}\n\n{columns}")
    data = DatasetCardData(
        license="other",
        license_name="see-the-section-licence",
        pretty_name=f"Alignment tipping: {study.name}",
        tags=TAGS,
        configs=configs,
    )
    provenances = [read_provenance(path) for path in study.turns]
    agents = [(_params(provenance, "cell").get("model", "unknown"), _base(provenance)) for provenance in provenances]
    models = sorted({f"{model} ({base})" for model, base in agents})
    versions = sorted({str(provenance.get("versions", {}).get("atp", "unknown")) for provenance in provenances})
    notes = "".join(f"\n**Note:** {escape(note)}\n" for note in study.notes)
    columns = "\n".join(sections)
    return f"""---
{data.to_yaml()}
---

# Alignment tipping: {escape(study.name)}

Does an agent that was aligned before deployment stay aligned once it learns from its own rewards? These are the
decisions of agents in the study {escape(study.name)}, each with its prompt, its reply and its pay, and the
measures computed from them. Prompts and replies are text that models wrote: treat them as untrusted.
{notes}
## How it was made

atp {", ".join(map(escape, versions))} played the testbeds, decided by rule what each reply means, trained the agents
and computed the measures. Each Parquet file has its settings, seeds, code digest and package versions in its metadata,
under the key `atp`. Models: {", ".join(map(escape, models))}.

## How to read it

```python
from datasets import load_dataset

turns = load_dataset("ORG/NAME", "{configs[0]["config_name"]}")
```

Configs: {", ".join(f"`{config['config_name']}`" for config in configs)}.

## Columns

{columns}
## Licence

{LICENCE}"""


def model_card(study: Artifacts, path: Path) -> str:
    """Return the card of a trained agent."""
    from huggingface_hub import ModelCardData

    lineage = read_provenance(path)
    base, training = _params(lineage, "model"), _params(lineage, "training")
    adapter = (path / "adapter_config.json").is_file()
    local = Path(base["path"]).is_absolute() or Path(base["path"]).is_dir()
    data = ModelCardData(
        base_model=None if local else base["path"],
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        license="other",
        license_name="as-the-base-model",
        tags=TAGS,
    )
    cell, agents = _cell(study, path), _agents(study, path)
    facts = {
        "base model": f"{_origin(agents[0])[0]}, revision {base.get('revision') or 'not pinned'}",
        "weights": "LoRA adapter" if adapter else "all weights",
        **cell,
        "method": training.get("method", "the user's own"),
        "atp": lineage.get("versions", {}).get("atp", "unknown"),
    }
    settings = json.dumps(training, indent=2, sort_keys=True)
    return f"""---
{data.to_yaml()}
---

# {escape(str(study.place(path).parent))}

{WARNING}
{_facts(facts)}

## Lineage

{_lineage(study, agents)}

`lineage.json` has the code digest, the inputs, the package versions, the cost and the post-training check.

## Violation rates before and after

{_rates(study, cell)}
## Training

```json
{settings}
```

## Licence

{LICENCE}"""


def models_card(study: Artifacts, models: Sequence[Path]) -> str:
    """Return the card of the repository of all trained agents of a study."""
    from huggingface_hub import ModelCardData

    data = ModelCardData(license="other", license_name="as-the-base-models", tags=TAGS)
    places = [study.exported_place(path).parent for path in models]
    links = "\n".join(f"- [{escape(str(place))}]({quote(str(place))}/README.md)" for place in places)
    return f"""---
{data.to_yaml()}
---

# Trained agents of the study {escape(study.name)}

{WARNING}
Each folder is one agent, with its own card. Load an adapter on its base model:

```python
from peft import PeftModel

agent = PeftModel.from_pretrained(base_model, "ORG/NAME", subfolder="{places[0]}")
```

{links}
"""


def _columns(name: str, path: Path) -> str:
    """Return a config's columns with types and descriptions, as a table."""
    texts = descriptions.MEASURES if name == "measures" else descriptions.TURNS
    rows = [f"| `{field.name}` | `{field.type}` | {escape(texts[field.name])} |" for field in pq.read_schema(path)]
    return "\n".join(["| column | type | description |", "|---|---|---|", *rows, ""])


def _facts(facts: Mapping[str, Any]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {escape(str(value))} |" for key, value in facts.items())])


def _params(provenance: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return a section of an artifact's settings; an empty one if there is none."""
    return provenance.get("params", {}).get(key) or {}


def _base(provenance: Mapping[str, Any]) -> str:
    """Return the path of an artifact's model on the hub, or the last part of a local one."""
    path = Path(_params(provenance, "model").get("path", "no weights"))
    return path.name if path.is_absolute() else str(path)


def _cell(study: Artifacts, path: Path) -> dict[str, Any]:
    """Return the cell of a trained agent by its place; one that was aligned only has no condition."""
    model, testbed, alignment, seed, *rest, _ = study.place(path).parts
    condition, generation = (rest[0], int(rest[1].removeprefix("generation"))) if rest else (None, 0)
    values = (model, testbed, alignment, condition, int(seed.removeprefix("seed")))
    return dict(zip(CELL, values, strict=True)) | {"generation": generation}


def _agents(study: Artifacts, path: Path) -> list[Path]:
    """Return the agents of the study from the first trained one to this one, each the input of the next training."""
    agents = [path]
    while parent := next(filter(None, map(study.agents_by_digest.get, _inputs(agents[0]).values())), None):
        agents.insert(0, parent)
    return agents


def _inputs(agent: Path) -> dict[str, str]:
    """Return the digest of what a training continued, by name: its inputs without tables and without the base model."""
    lineage = read_provenance(agent)
    base = Path(_params(lineage, "model")["path"]).parts
    names = {name: Path(name).parts for name in lineage["inputs"] if not name.endswith(".parquet")}
    return {name: lineage["inputs"][name] for name, parts in names.items() if base[-len(parts) :] != parts}


def _origin(first: Path) -> tuple[str, list[str]]:
    """Return the base model of a study's first agent, and what else it was trained from that is no agent of the study.

    An alignment that is the user's own is a checkpoint with all weights, or an adapter, which is an input.
    """
    lineage = read_provenance(first)
    base, cell, continued = _base(lineage), _params(lineage, "cell"), list(_inputs(first))
    if cell["condition"] is None:  # further inputs are data
        return base, []
    if not cell["alignment"].startswith(GIVEN) or (lineage["stage"], cell["generation"]) != ("finetune", 1):
        return base, [f"{name}, which the results no longer have" for name in continued]
    outside = f"of alignment '{cell['alignment'].removeprefix(GIVEN)}', trained outside this study"
    if not continued:
        return f"{base}, a checkpoint {outside}", []
    return base, [f"adapter {name} {outside}" for name in continued]


def _lineage(study: Artifacts, agents: Sequence[Path]) -> str:
    """Return the steps from the base model to an agent."""
    base, others = _origin(agents[0])
    steps = [f"base model: {base}", *others]
    for agent in agents:
        unchanged = " (training changed nothing)" if read_provenance(agent).get("unchanged") else ""
        steps.append(f"{study.place(agent).parent}{unchanged}")
    return "\n".join(f"{number}. {escape(step)}" for number, step in enumerate(steps))


def _rates(study: Artifacts, cell: Mapping[str, Any]) -> str:
    """Return the violation rates of an agent and of the one before training, with their intervals."""
    path = study.folder / paths.MEASURES
    if not path.is_file():
        return "Not measured yet.\n"
    table, condition = pl.DataFrame(read_table(path, MEASURES, "measures")), cell["condition"]
    measure, before, generation = "violation_rate", {"condition": condition or "baseline"}, cell["generation"]
    if condition is None:
        chosen = pl.col("alignment").is_in(["none", cell["alignment"]]) & (pl.col("generation") == 0)
        words = f"Without alignment, and after alignment '{cell['alignment']}'."
    else:
        chosen = (pl.col("alignment") == cell["alignment"]) & pl.col("generation").is_in([0, generation])
        words = f"Generation 0, and generation {generation}."
        if condition.endswith(REPAIRED):
            measure, before = "repair_rate", {"condition": condition.removesuffix(REPAIRED)}
            words = f"The last generation (0), and the same agent aligned again on {generation} pairs."
    before |= {key: cell[key] for key in ("model", "testbed", "seed")}
    channel = pl.col("channel").is_in(["weights", REPAIR])
    rates = table.filter(chosen, channel, measure=measure, split="test", **before)
    if rates.is_empty():
        return "Not measured on test scenarios.\n"
    return f"{words} On test scenarios, without a history.\n\n{markdown_table(measure, rates)}"
