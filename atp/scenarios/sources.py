"""Sources of a testbed's scenarios: its templates, or sources of its own. The scenario stage."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationError, model_validator

from atp.errors import AtpError
from atp.explain import explain
from atp.files.provenance import Job, Stage
from atp.registry import find_testbed, resolve, sources
from atp.scenarios.scenario import mark_seen, write_scenarios
from atp.scenarios.templates import generate, read_templates
from atp.testbed import Scenario, Testbed

#: Number of test scenarios where a study gives none.
DEFAULT_TEST = 64
TEMPLATES: Literal["templates"] = "templates"


class ScenarioSettings(BaseModel, ABC):
    """Settings that every source of scenarios has. A source adds fields and the abstract methods."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    train: int = Field(0, ge=0, description="training scenarios; only the weights channel needs any")
    test: int | None = Field(None, ge=1, description="test scenarios; left out: 64, or all that a release has")
    seed: int = Field(0, description="decides instances and split")

    @abstractmethod
    def files(self, testbed: Testbed, root: Path) -> list[Path]:
        """Return the files that scenarios are made from; relative paths begin at `root`."""

    def params(self) -> dict[str, Any]:
        """Return the settings that decide the content. Paths of files are left out: their digests count as inputs."""
        return self.model_dump(mode="json", exclude={"path"})

    @abstractmethod
    def scenarios(self, testbed: Testbed, root: Path) -> Sequence[Scenario]:
        """Return the scenarios of both splits. Raises AtpError for unreadable files, or too few instances."""


class TemplateSource(ScenarioSettings):
    """Scenarios from templates, whose values are drawn by the seed."""

    source: Literal["templates"] = TEMPLATES
    path: str | None = Field(None, description="template file (YAML); left out: the testbed's own")
    unseen_templates: float = Field(
        0.25, ge=0, lt=1, description="proportion of the templates that only test scenarios are made from"
    )

    def files(self, testbed: Testbed, root: Path) -> list[Path]:
        if self.path is None and testbed.templates is None:
            raise AtpError(f"scenarios.path: missing, testbed '{testbed.name}' has no template file of its own")
        return [root / self.path if self.path is not None else Path(str(testbed.templates))]

    def scenarios(self, testbed: Testbed, root: Path) -> Sequence[Scenario]:
        path = self.files(testbed, root)[0]
        assert testbed.template and testbed.instantiate
        template: Any = testbed.template
        templates = read_templates(path, template)
        instantiate = partial(testbed.instantiate, **self.arguments(root))
        sizes = self.train, self.test or DEFAULT_TEST
        with named(path):
            return generate(templates, instantiate, *sizes, self.seed, self.unseen_templates)

    def arguments(self, root: Path) -> dict[str, Any]:
        """Return further arguments of the testbed's `instantiate`."""
        return {}


def source_settings(testbed: Testbed, values: Mapping[str, Any] | ScenarioSettings) -> ScenarioSettings:
    """Return the checked settings of a testbed's scenarios, typed by their source.

    Raises:
        AtpError: an unknown source, or values that it does not take.
    """
    if isinstance(values, ScenarioSettings):
        return values
    known: dict[str, Any] = {TEMPLATES: TemplateSource} if testbed.template and testbed.instantiate else {}
    known |= testbed.sources
    if not known:
        raise AtpError(f"scenarios: testbed '{testbed.name}' has neither templates (template, instantiate) nor sources")
    source = values.get("source", next(iter(known)))
    if source not in known:
        raise AtpError(f"scenarios.source: found {source!r}, testbed '{testbed.name}' has {', '.join(known)}")
    kind: type[ScenarioSettings] = resolve(known[source])
    try:
        return kind.model_validate({"source": source, **values})
    except ValidationError as error:
        raise AtpError(f"scenarios.{explain(error, kind)}") from error


class ScenariosJob(Job):
    """Generate a testbed's scenarios."""

    stage = "scenarios"

    testbed: str
    settings: SerializeAsAny[ScenarioSettings]

    @model_validator(mode="before")
    @classmethod
    def _type_settings(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        return {**values, "settings": source_settings(find_testbed(values["testbed"]), values["settings"])}

    def params(self) -> dict[str, Any]:
        return {"testbed": self.testbed, "settings": self.settings.params()}


def scenarios_stage(job: ScenariosJob, out: Path, root: Path = Path()) -> None:
    """Write a testbed's scenarios.parquet, both splits.

    Raises:
        AtpError: unreadable or wrong files, too few instances.
    """
    kind = find_testbed(job.testbed)
    code = [__name__, *sources(job.testbed, "scenarios")]
    stage = Stage(job.stage, code, job.params(), job.settings.files(kind, root))
    scenarios = mark_seen(job.settings.scenarios(kind, root))
    write_scenarios(kind, scenarios, out, stage.provenance(scenarios=float(len(scenarios))))


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Put the file's name in front of errors raised in the block."""
    try:
        yield
    except AtpError as error:
        raise AtpError(f"{path}: {error}") from error
