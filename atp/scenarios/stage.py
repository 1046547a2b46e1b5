"""The scenario stage: templates or published files in, scenarios.parquet out."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from atp.errors import AtpError
from atp.provenance import Stage
from atp.scenarios import bargaining, coordination, role_play, tool_use
from atp.scenarios.release import assign_splits
from atp.scenarios.release_coordination import import_coordination
from atp.scenarios.release_role_play import find_templates, import_role_play
from atp.scenarios.scenario import Scenario, write_scenarios
from atp.scenarios.templates import Template, generate, read_templates

TEST = 64


class ScenarioSettings(BaseModel):
    """Where a testbed's scenarios come from, and how many."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Literal["templates", "release"] = Field("templates", description="own templates, or the paper's release")
    path: str = Field(description="template file (YAML), or the release's instances (JSON)")
    templates: str | None = Field(None, description="the release's templates.json, where it is not beside `path`")
    train: int = Field(0, ge=0, description="training scenarios; only the weights channel needs any")
    test: int | None = Field(None, ge=1, description="test scenarios; left out: 64, or all that a release holds")
    seed: int = Field(0, description="decides instances and split")


@dataclass(frozen=True)
class Generator:
    """How a testbed's scenarios are made: its templates, an instance of one, and what reads its part of the release."""

    template: type[Template]
    instantiate: Callable[[Any, str, Random], Scenario]
    release: Callable[[Path, Path | None], Sequence[Scenario]] | None = None


GENERATORS = {
    "role_play": Generator(role_play.RolePlayTemplate, role_play.instantiate, import_role_play),
    "coordination": Generator(
        coordination.CoordinationTemplate, coordination.instantiate, lambda path, _: import_coordination(path)
    ),
    "bargaining": Generator(bargaining.BargainingTemplate, bargaining.instantiate),
    "tool_use": Generator(tool_use.ToolUseTemplate, tool_use.instantiate),
}


def source_files(settings: ScenarioSettings, testbed: str, folder: Path = Path()) -> list[Path]:
    """Files that scenarios are made from, seen from `folder`; the release's templates too where they lie beside it."""
    path, templates = folder / settings.path, folder / settings.templates if settings.templates else None
    if templates and testbed != "role_play":
        raise AtpError(f"scenarios.templates: found '{settings.templates}', only role_play's release needs them")
    if settings.source == "release" and testbed == "role_play":
        templates = find_templates(path, templates)
    return [path, templates] if templates else [path]


def scenarios_stage(settings: ScenarioSettings, testbed: str, out: Path) -> None:
    """Write a testbed's scenarios.parquet, both splits.

    Raises:
        AtpError: unknown testbed, unreadable or wrong templates or release files, too few instances.
    """
    generator = _generator(testbed)
    params = settings.model_dump(exclude={"path", "templates"})
    stage = Stage("scenarios", __name__, params, source_files(settings, testbed))
    path, train, test, seed = Path(settings.path), settings.train, settings.test, settings.seed
    scenarios: Sequence[Scenario]
    if settings.source == "release":
        published = _published(settings, testbed)
        test = max(1, len(published) - train) if test is None else test
        with _named(path):
            scenarios = assign_splits(published, train, test, seed)
    else:
        templates = read_templates(path, generator.template)
        with _named(path):
            scenarios = generate(templates, generator.instantiate, train, test or TEST, seed)
    write_scenarios(scenarios, out, stage.provenance())


def import_release_stage(file: Path, testbed: str, out: Path, templates: Path | None = None) -> None:
    """Write what the release holds as it is, all of it in the test split."""
    settings = ScenarioSettings(source="release", path=str(file), templates=str(templates) if templates else None)
    stage = Stage("scenarios", __name__, {"source": "release"}, source_files(settings, testbed))
    write_scenarios(_published(settings, testbed), out, stage.provenance())


def _published(settings: ScenarioSettings, testbed: str) -> Sequence[Scenario]:
    read = _generator(testbed).release
    if read is None:
        raise AtpError(f"testbed '{testbed}': the release holds none of its scenarios, use templates")
    return read(Path(settings.path), Path(settings.templates) if settings.templates else None)


def _generator(testbed: str) -> Generator:
    if testbed not in GENERATORS:
        raise AtpError(f"testbed '{testbed}': unknown, known are {', '.join(GENERATORS)}")
    return GENERATORS[testbed]


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """What goes wrong inside names the file."""
    try:
        yield
    except AtpError as error:
        raise AtpError(f"{path}: {error}") from error
