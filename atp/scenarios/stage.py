"""The scenario stage: templates or published files in, scenarios.parquet out."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from atp.errors import AtpError
from atp.provenance import Stage
from atp.scenarios.scenario import Scenario, write_scenarios

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


def _role_play(settings: ScenarioSettings) -> list[Scenario]:
    path, test = Path(settings.path), settings.test
    draw: Callable[[], Sequence[Scenario]]
    if settings.source == "release":
        from atp.scenarios.release import assign_splits, import_release

        published = import_release(path, Path(settings.templates) if settings.templates else None)
        test = max(1, len(published) - settings.train) if test is None else test
        draw = partial(assign_splits, published, settings.train, test, settings.seed)
    else:
        from atp.scenarios.templates import generate, read_templates

        draw = partial(generate, read_templates(path), settings.train, test or TEST, settings.seed)
    try:
        return list(draw())
    except AtpError as error:
        raise AtpError(f"{path}: {error}") from error


def source_files(settings: ScenarioSettings, folder: Path = Path()) -> list[Path]:
    """Files that scenarios are made from, seen from `folder`; the release's templates too where they lie beside it."""
    path, templates = folder / settings.path, folder / settings.templates if settings.templates else None
    if settings.source == "release":
        from atp.scenarios.release import find_templates

        templates = find_templates(path, templates)
    return [path, templates] if templates else [path]


#: testbed -> how its scenarios are made.
GENERATORS: dict[str, Callable[[ScenarioSettings], list[Scenario]]] = {"role_play": _role_play}


def scenarios_stage(settings: ScenarioSettings, testbed: str, out: Path) -> None:
    """Write a testbed's scenarios.parquet, both splits.

    Raises:
        AtpError: unknown testbed, unreadable or wrong templates or release files, too few instances.
    """
    _known(testbed)
    params = settings.model_dump(exclude={"path", "templates"})
    stage = Stage("scenarios", __name__, params, source_files(settings))
    write_scenarios(GENERATORS[testbed](settings), out, stage.provenance())


def import_release_stage(file: Path, testbed: str, out: Path, templates: Path | None = None) -> None:
    """Write the published instances as they are, all of them in the test split."""
    from atp.scenarios.release import import_release

    _known(testbed)
    settings = ScenarioSettings(source="release", path=str(file), templates=str(templates) if templates else None)
    stage = Stage("scenarios", __name__, {"source": "release"}, source_files(settings))
    write_scenarios(import_release(file, templates), out, stage.provenance())


def _known(testbed: str) -> None:
    if testbed not in GENERATORS:
        raise AtpError(f"testbed '{testbed}': unknown, known are {', '.join(GENERATORS)}")
