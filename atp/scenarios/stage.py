"""The scenario stage: templates or published files in, scenarios.parquet out."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from atp.errors import AtpError
from atp.provenance import Stage
from atp.scenarios.scenario import Scenario, write_scenarios


class ScenarioSettings(BaseModel):
    """Where a testbed's scenarios come from, and how many."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Literal["templates", "release"] = Field("templates", description="own templates, or the paper's release")
    path: str = Field(description="template file (YAML), or the release's instances (JSON)")
    templates: str | None = Field(None, description="the release's templates.json, where it is not beside `path`")
    train: int = Field(192, ge=0, description="training scenarios")
    test: int = Field(64, ge=1, description="test scenarios")
    seed: int = Field(0, description="decides instances and split")


def _role_play(settings: ScenarioSettings) -> list[Scenario]:
    if settings.source == "release":
        from atp.scenarios.release import assign_splits, import_release

        published = import_release(Path(settings.path), Path(settings.templates) if settings.templates else None)
        return list(assign_splits(published, settings.train, settings.test, settings.seed))
    from atp.scenarios.templates import generate, read_templates

    return list(generate(read_templates(settings.path), settings.train, settings.test, settings.seed))


#: testbed -> how its scenarios are made.
GENERATORS: dict[str, Callable[[ScenarioSettings], list[Scenario]]] = {"role_play": _role_play}


def scenarios_stage(settings: ScenarioSettings, testbed: str, out: Path) -> None:
    """Write a testbed's scenarios.parquet, both splits.

    Raises:
        AtpError: unknown testbed, unreadable or wrong templates or release files, too few instances.
    """
    _known(testbed)
    inputs = [path for path in (settings.path, settings.templates) if path]
    params = settings.model_dump(exclude={"path", "templates"})
    scenarios = GENERATORS[testbed](settings)
    write_scenarios(scenarios, out, Stage("scenarios", __name__, params, inputs).provenance())


def import_release_stage(file: Path, testbed: str, out: Path, templates: Path | None = None) -> None:
    """Write the published instances as they are, all of them in the test split."""
    from atp.scenarios.release import import_release

    _known(testbed)
    scenarios = import_release(file, templates)
    write_scenarios(scenarios, out, Stage("scenarios", __name__, {"source": "release"}, [file]).provenance())


def _known(testbed: str) -> None:
    if testbed not in GENERATORS:
        raise AtpError(f"testbed '{testbed}': unknown, known are {', '.join(GENERATORS)}")
