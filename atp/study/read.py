"""Read and check studies and model files, and write their JSON schemas."""

import os
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.json_schema import models_json_schema

from atp.agents.load import model_name
from atp.errors import AtpError
from atp.explain import explain
from atp.files.code import SHIPPED
from atp.files.tables import read_provenance
from atp.files.yaml_text import parse_yaml, read_yaml
from atp.models.spec import ModelSpec
from atp.registry import entries, load_plugins, resolve
from atp.scenarios.sources import TemplateSource
from atp.study import paths
from atp.study.checks import MAX_NAME_CHARS, check_files, check_models, check_study
from atp.study.given import check_own
from atp.study.project import Project
from atp.study.stages import MODELS_FOLDER, project_root
from atp.study.study import Study, agents

Model = TypeVar("Model", bound=BaseModel)
STUDIES = Path("config/studies")
NAME = r"\w[\w.-]*"


def read_project(
    config: Mapping[str, Any],
    workflow: Path = SHIPPED,
    file: Path | None = None,
    arguments: Sequence[str] = (),
    models: Path | None = None,
) -> Project:
    """Return the study of a Snakemake config, and what it refers to, checked.

    Args:
        config: a whole study; or `study`, the name of a file in config/studies or a path, with keys that override the
            file's. `organism: rebuild` trains the model organisms.
        workflow: folder of the workflow.
        file: the last file that the config comes from, whose name is the study's if it has none of its own.
        arguments: KEY=VALUE on the command line. Snakemake reads values as text, and 2024_01 as a number.
        models: folder of model files; left out: config/models.

    Raises:
        AtpError: a missing or unreadable file, an unknown key, an impossible value, or an error in a plug-in.
    """
    root = project_root(workflow)
    values = deepcopy(dict(config))
    given = dict(argument.split("=", 1) for argument in arguments)
    _merge(values, {key: parse_yaml(value, f"--config {key}") for key, value in given.items() if key != "study"})
    organism = values.pop("organism", "shipped")
    if organism not in ("shipped", "rebuild"):
        raise AtpError(f"organism: found '{organism}', allowed are shipped, rebuild")
    named = given.get("study") or values.pop("study", None)
    values.pop("study", None)
    if named is None:
        place, default = str(file or "config"), file.stem if file else None
    else:
        if "testbeds" in values and "testbeds" not in given:
            raise AtpError(f"{file or 'config'}: has `study: {named}` and testbeds, allowed is one of them")
        named = str(named)
        path = Path(named) if named.endswith((".yaml", ".yml")) else root / STUDIES / f"{named}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(file.stem for file in (root / STUDIES).glob("*.yaml")))
            raise AtpError(f"{path}: no such file; studies of {root / STUDIES}: {known or 'none'}")
        place, default = str(path), path.stem
        overrides, values = values, _read_mapping(path)
        _merge(values, overrides)
    if "name" in given:
        values["name"] = given["name"]
    if overridden := [key for key in given if key not in ("study", "organism")]:
        place += f" (with --config {', '.join(overridden)})"
    study = check_values(values, place, root)
    name = study.name or default
    if name is None:
        raise AtpError(f"{place}: name: missing; a study that is not read from a file needs one")
    if not re.fullmatch(NAME, name) or len(name) > MAX_NAME_CHARS:
        raise AtpError(
            f"{place}: name: found '{name:.100}', allowed are up to {MAX_NAME_CHARS} letters, digits, '_', '-', '.', "
            "not '.' first; without `name` it is the name of the study's file"
        )
    check_files(place, study, root)
    specs = read_models(agents(study), models or root / MODELS_FOLDER)
    for judge, key in study.judges.items():
        try:
            specs |= read_models((judge,), models or root / MODELS_FOLDER)
        except AtpError as error:
            raise AtpError(f"{place}: {key}: {error}") from error
    check_models(place, study, specs, root)
    organisms = Path("results/organism") if organism == "rebuild" else workflow / "resources/organism"
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    project = Project(name, study, specs, text, root, organisms, organism == "rebuild")
    check_own(place, project)
    return project


def check_results(project: Project) -> None:
    """Raise AtpError if the results of a study cannot be written here, or are of another version of atp."""
    folder = Path("results", project.name)
    for path in (Path(), folder.parent, folder):
        if path.exists() and not (path.is_dir() and os.access(path, os.W_OK)):
            raise AtpError(f"{path}: is not a folder that can be written; run in another one with --directory")
    for testbed in project.study.testbeds:
        scenarios = folder / paths.SCENARIOS.format(testbed=testbed)
        if scenarios.is_file():
            try:
                read_provenance(scenarios)
            except AtpError as error:
                raise AtpError(f"{error}; delete {folder}, or run in another folder with --directory") from error


def _merge(values: dict[str, Any], others: Mapping[str, Any]) -> None:
    """Override values by others, key by key, as Snakemake does."""
    for key, other in others.items():
        if isinstance(other, Mapping) and isinstance(values.get(key), dict):
            _merge(values[key], other)
        else:
            values[key] = other


def read_study(path: Path | str, root: Path = Path()) -> Study:
    """Read a study file, load its plug-ins and check it. Raises AtpError as `read_project` does.

    Args:
        root: the folder where the study's paths begin.
    """
    return check_values(_read_mapping(Path(path)), path, root)


def check_values(values: dict[str, Any], path: Path | str, root: Path) -> Study:
    """Return the study of a file's values, after loading its plug-ins. Raises AtpError that names file and key."""
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
    return _validate(path, _read_mapping(path), ModelSpec)


def _read_mapping(path: Path) -> dict[str, Any]:
    values = read_yaml(path)
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
