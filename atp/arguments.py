"""Options that commands share, and arguments of the command line -> checked settings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import BaseModel, ValidationError

from atp.errors import AtpError
from atp.explain import explain
from atp.files.code import SHIPPED
from atp.files.yaml_text import parse_yaml
from atp.models.gpus import claim_gpus
from atp.models.spec import ModelSpec, check_trainable
from atp.registry import find_testbed
from atp.scenarios.scenario import scenario_testbed
from atp.study.read import read_models
from atp.study.stages import MODELS_FOLDER, project_root
from atp.testbed import Settings
from atp.training import DpoSettings, GrpoSettings, SftSettings, TrainingSettings

Out = Annotated[Path, typer.Option(help="file to write")]
Models = Annotated[Path, typer.Option(help="folder of model files")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="of every random choice")]
MODELS = project_root(SHIPPED) / MODELS_FOLDER

Typed = TypeVar("Typed", bound=BaseModel)
TRAININGS: dict[str, type[TrainingSettings]] = {"sft": SftSettings, "dpo": DpoSettings, "grpo": GrpoSettings}


def key_values(pairs: list[str], flag: str = "--set") -> dict[str, Any]:
    """Return KEY=VALUE arguments, whose values are YAML. Raises AtpError for one of another form."""
    values = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key or not value.strip():
            raise AtpError(f"{flag} {pair}: must be KEY=VALUE")
        values[key] = parse_yaml(value, f"{flag} {pair}")
    return values


def testbed_settings(
    testbed: str, pairs: list[str], given: Mapping[str, Any] | None = None, flag: str = "--set"
) -> Settings:
    """Return a testbed's settings from KEY=VALUE arguments. Raises AtpError that names the key."""
    return _typed(find_testbed(testbed).settings, {**key_values(pairs, flag), **(given or {})}, flag)


def training_settings(method: str, pairs: list[str]) -> TrainingSettings:
    """Return a method's training settings from KEY=VALUE arguments. Raises AtpError that names the key."""
    if method not in TRAININGS:
        raise AtpError(f"--method {method}: allowed are {', '.join(TRAININGS)}")
    return _typed(TRAININGS[method], {**key_values(pairs), "method": method}, "--set")


def agent_model(agent: str, folder: Path, testbed: str) -> ModelSpec | None:
    """Return an agent's model, with its GPUs claimed; None for an agent without one. Raises AtpError."""
    model = read_models((agent,), folder)[agent]
    if model is None:
        return None
    claim_gpus(model.gpus, model.path)
    model = model.of(testbed)
    if model.organism and not Path(model.path).exists():  # outside a clone
        return model.model_copy(update={"path": str(SHIPPED / model.path)})
    return model


def trainable_model(agent: str, folder: Path, testbed: str) -> ModelSpec:
    """Return an agent's model. Raises AtpError if it has no weights that can be trained here."""
    model = agent_model(agent, folder, testbed)
    if model is None or ":" in agent:
        raise AtpError(f"agent {agent}: has no weights to train")
    check_trainable(model)
    return model


def played_testbed(given: str | None, scenarios: Path) -> str:
    """Return the testbed of a scenario file. Raises AtpError if the command line names another one."""
    actual = scenario_testbed(scenarios)
    if given is not None and given != actual:
        raise AtpError(f"--testbed {given}: {scenarios} has scenarios of testbed '{actual}'")
    return actual


def _typed(kind: type[Typed], values: Mapping[str, Any], flag: str) -> Typed:
    try:
        return kind(**values)
    except ValidationError as error:
        raise AtpError(f"{flag} {explain(error, kind)}") from error
