"""Read and check study and model files, and write their JSON schemas."""

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.json_schema import models_json_schema

from atp.agents.load import model_name
from atp.errors import AtpError
from atp.explain import explain
from atp.models.spec import ModelSpec
from atp.registry import entries, load_plugins, resolve
from atp.scenarios.sources import TemplateSource
from atp.study.checks import check_study
from atp.study.study import Study

Model = TypeVar("Model", bound=BaseModel)


def read_study(path: Path | str, root: Path = Path()) -> Study:
    """Read a study file, load its plug-ins and check it.

    Args:
        root: the folder where the study's paths begin.

    Raises:
        AtpError: no such file, not YAML, an unknown key, a wrong type, an impossible value, or an error in a plug-in.
    """
    values = _read_yaml(Path(path))
    plugins = values.get("plugins", ())
    if not isinstance(plugins, list | tuple) or not all(isinstance(file, str) for file in plugins):
        raise AtpError(f"{path}: plugins: must be a list of Python files, found {plugins!r:.80}")
    try:
        load_plugins((root / file for file in plugins), {root / file: file for file in plugins})
    except AtpError as error:
        raise AtpError(f"{path}: plugins: {error}") from error
    study = _validate(path, values, Study)
    try:
        check_study(study)
    except ValueError as error:
        raise AtpError(f"{path}: {error}") from error
    return study


def read_models(names: tuple[str, ...], folder: Path | str) -> dict[str, ModelSpec | None]:
    """Read the model files of agents; None for agents without a model. Raises AtpError as `read_study` does."""
    specs: dict[str, ModelSpec | None] = {}
    for name in names:
        model = model_name(name)
        specs[name] = None if model is None else _read_model(model, Path(folder))
    return specs


def _read_model(name: str, folder: Path) -> ModelSpec:
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        raise AtpError(f"model '{name}': no file {path}, known are {known}, scripted:POLICY and agent:NAME[:MODEL]")
    return _validate(path, _read_yaml(path), ModelSpec)


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise AtpError(f"{path}: no such file")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise AtpError(f"{path}: no readable YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise AtpError(f"{path}: must be keys and values, found {type(values).__name__}")
    return values


def _validate(path: Path | str, values: dict[str, Any], kind: type[Model]) -> Model:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise AtpError(f"{path}: {explain(error, kind)}") from error


def schemas() -> dict[str, dict[str, Any]]:
    """Return JSON schemas by name: `study`, `model`, and each testbed's settings, for completion in editors."""
    testbeds = {name: entry.value for name, entry in entries("testbeds").items()}
    kinds: dict[str, type[BaseModel]] = {"model": ModelSpec, **{name: bed.settings for name, bed in testbeds.items()}}
    return {"study": _study_schema(testbeds), **{name: kind.model_json_schema() for name, kind in kinds.items()}}


def _study_schema(testbeds: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a study, in which the known sources of scenarios and filters are alternatives."""
    sources = [
        TemplateSource,
        *(resolve(source) for testbed in testbeds.values() for source in testbed.sources.values()),
    ]
    filters = [entry.value for entry in entries("filters").values()]
    kinds = [Study, *dict.fromkeys(sources), *filters]
    references, shared = models_json_schema([(kind, "validation") for kind in kinds])
    alternatives = {
        key: {"anyOf": [references[kind, "validation"] for kind in several]}
        for key, several in (("scenarios", dict.fromkeys(sources)), ("filter", filters))
    }
    definitions = shared["$defs"]
    definitions["TestbedSection"]["properties"]["scenarios"] = alternatives["scenarios"]
    described = definitions["WeightsChannel"]["properties"]["filter"]
    described["anyOf"] = [*alternatives["filter"]["anyOf"], {"type": "null"}]
    study: dict[str, Any] = definitions.pop("Study")
    return {**study, "$defs": definitions}


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key occurs once: otherwise the last of two would silently win."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [key.value for key, _ in node.value]
    for key in keys:
        if keys.count(key) > 1:
            raise yaml.constructor.ConstructorError(None, None, f"key '{key}' occurs twice", node.start_mark)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
