"""The scenario stage: templates, problem sets or published files in, scenarios.parquet out."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from atp.errors import AtpError
from atp.provenance import Stage
from atp.scenarios import bargaining, coordination, role_play, tool_use
from atp.scenarios.problem_sets import ProblemSet, read_problems
from atp.scenarios.release import assign_splits
from atp.scenarios.release_coordination import import_coordination
from atp.scenarios.release_role_play import find_templates, import_role_play
from atp.scenarios.scenario import Scenario, write_scenarios
from atp.scenarios.templates import Template, generate, read_templates

TEST = 64
PROBLEMS = "problems"
SETS = ("easy", "hard")


class ScenarioSettings(BaseModel):
    """Where a testbed's scenarios come from, and how many."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Literal["templates", "release", "problems"] = Field(
        "templates", description="own templates, the paper's release, or problem sets in own templates (tool_use)"
    )
    path: str = Field(description="template file (YAML), or the release's instances (JSON)")
    templates: str | None = Field(None, description="the release's templates.json, where it is not beside `path`")
    easy: ProblemSet | None = Field(None, description="set of the easy problems; left out, the templates' own")
    hard: ProblemSet | None = Field(None, description="set of the hard problems; left out, the templates' own")
    train: int = Field(0, ge=0, description="training scenarios; only the weights channel needs any")
    test: int | None = Field(None, ge=1, description="test scenarios; left out: 64, or all that a release holds")
    seed: int = Field(0, description="decides instances and split")

    @model_validator(mode="after")
    def _sets_fit_the_source(self) -> "ScenarioSettings":
        if self.source == PROBLEMS and not self.sets:
            raise ValueError("easy, hard: found none, source 'problems' needs at least one of them")
        if self.source != PROBLEMS and self.sets:
            raise ValueError(f"{min(self.sets)}: found with source '{self.source}', only source 'problems' takes a set")
        if self.easy and self.easy == self.hard:
            raise ValueError(f"easy, hard: found '{self.easy.path}' as both, must be two sets")
        return self

    @property
    def sets(self) -> dict[str, ProblemSet]:
        """The problem sets that are named, by the kind of problem that they hold."""
        return {kind: found for kind in SETS if (found := getattr(self, kind))}

    @property
    def set_files(self) -> dict[str, str]:
        """Those of them that are files."""
        return {kind: found.path for kind, found in self.sets.items() if found.local}

    def check_testbed(self, testbed: str) -> None:
        """Raises AtpError if a testbed has no such source."""
        if self.source == PROBLEMS and testbed != "tool_use":
            raise AtpError(f"scenarios.source: found 'problems' for testbed '{testbed}', only tool_use takes it")
        if self.templates and testbed != "role_play":
            raise AtpError(f"scenarios.templates: found '{self.templates}', only role_play's release needs them")


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
    settings.check_testbed(testbed)
    path, templates = folder / settings.path, folder / settings.templates if settings.templates else None
    if settings.source == "release" and testbed == "role_play":
        templates = find_templates(path, templates)
    return [path, *([templates] if templates else []), *(folder / file for file in settings.set_files.values())]


def scenarios_stage(settings: ScenarioSettings, testbed: str, out: Path) -> None:
    """Write a testbed's scenarios.parquet, both splits.

    Raises:
        AtpError: unknown testbed, unreadable or wrong templates, problem sets or release files, too few instances.
    """
    generator = _generator(testbed)
    params = settings.model_dump(exclude={"path", "templates", *SETS}) | _described(settings)
    stage = Stage("scenarios", __name__, params, source_files(settings, testbed))
    path, train, test, seed = Path(settings.path), settings.train, settings.test, settings.seed
    scenarios: Sequence[Scenario]
    if settings.source == "release":
        published = _published(settings, testbed)
        test = max(1, len(published) - train) if test is None else test
        with _named(path):
            scenarios = assign_splits(published, train, test, seed)
    else:
        templates, instantiate = read_templates(path, generator.template), generator.instantiate
        if settings.sets:
            instantiate = partial(instantiate, **_pools(settings))
        with _named(path):
            scenarios = generate(templates, instantiate, train, test or TEST, seed)
    write_scenarios(scenarios, out, stage.provenance(scenarios=float(len(scenarios))))


def import_release_stage(file: Path, testbed: str, out: Path, templates: Path | None = None) -> None:
    """Write what the release holds as it is, all of it in the test split."""
    settings = ScenarioSettings(source="release", path=str(file), templates=str(templates) if templates else None)
    stage = Stage("scenarios", __name__, {"source": "release"}, source_files(settings, testbed))
    write_scenarios(_published(settings, testbed), out, stage.provenance())


def _pools(settings: ScenarioSettings) -> dict[str, tool_use.ProblemPool]:
    """The problems of each set. One that stands in both sets is a hard one: none is a test here and exposed there."""
    problems = {kind: read_problems(found) for kind, found in settings.sets.items()}
    hard = {problem["question"] for problem in problems.get("hard", ())}
    if "easy" in problems:
        problems["easy"] = [problem for problem in problems["easy"] if problem["question"] not in hard]
    return {
        f"{kind}_set": tool_use.ProblemPool(f"{kind} set '{settings.sets[kind].path}'", held, settings.seed)
        for kind, held in problems.items()
    }


def _described(settings: ScenarioSettings) -> dict[str, Any]:
    """The sets as provenance holds them: of files, which are inputs, the name alone."""
    named = {kind: Path(found.path).name if found.local else found.path for kind, found in settings.sets.items()}
    return {kind: settings.sets[kind].model_dump() | {"path": name} for kind, name in named.items()}


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
