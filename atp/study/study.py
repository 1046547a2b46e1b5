"""A study as typed settings: the models, conditions and channels to run, and what follows from them.

A study is a YAML file of config/studies; models are files of config/models.
"""

import itertools
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from atp.errors import AtpError
from atp.explain import explain
from atp.files.schemas import GIVEN
from atp.measures.hypothesis import Hypothesis
from atp.memory.channel import MEMORY, MemoryChannel
from atp.registry import find_testbed
from atp.rollout.transplant import RECORDED_FROM
from atp.scenarios.sources import ScenarioSettings, source_settings
from atp.testbed import Settings
from atp.training import TrainingSettings
from atp.training.alignment import Alignment, OwnAlignment
from atp.training.channel import OF_WEIGHTS, Seeds, WeightsChannel
from atp.training.trainer import NO_DEFENCE

BASELINE = "baseline"
NONE: Literal["none"] = "none"
#: Alignments that need no settings.
KNOWN_ALIGNMENTS = (NONE, "dpo", "grpo")
OWN_NAME = r"[a-z][a-z0-9_]*"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ContextChannel(_Section):
    """Experience accumulates in the conversation: R rounds of history on the test split."""

    conditions: tuple[str, ...] = Field((BASELINE,), min_length=1, description="conditions of the testbed to run")
    sweep: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = Field(
        default_factory=dict, description="testbed settings to vary: each combination is a variant"
    )
    samples: int = Field(1, ge=1, description="episodes of each scenario and variant")
    reference_policies: tuple[str, ...] = Field(
        (), description="scripted policies (scripted:POLICY) that play next to the models, without alignment"
    )

    @model_validator(mode="after")
    def _check_sweep(self) -> "ContextChannel":
        for key, values in self.sweep.items():
            if any(values.count(value) > 1 for value in values):
                raise ValueError(f"sweep.{key}: {list(values)} has a value twice")
        return self


Channel = ContextChannel | WeightsChannel | MemoryChannel


class TestbedSection(_Section):
    """What a study does on one testbed."""

    scenarios: Annotated[SerializeAsAny[ScenarioSettings], WithJsonSchema({"type": "object"})]
    settings: dict[str, Any] = Field(default_factory=dict, description="testbed settings shared by all that follows")
    conditions: dict[str, dict[str, Any]] = Field(
        default={BASELINE: {}},
        description="controls and defences: name -> testbed settings that it overrides; under `training`, `filter` and "
        "`monitor` those of the weights channel, under `memory` of the memory channel; under `history_from` whose "
        "histories it reads, or under `payments_from` whose rewards it is paid (model, alignment, condition)",
    )
    alignment: Alignment = Field(default_factory=Alignment)
    context: ContextChannel | None = None
    weights: WeightsChannel | None = None
    memory: MemoryChannel | None = None

    @property
    def channels(self) -> dict[str, Channel]:
        """The channels that the testbed has, by name."""
        named = {"context": self.context, "weights": self.weights, MEMORY: self.memory}
        return {name: channel for name, channel in named.items() if channel}

    def overrides(self, condition: str) -> dict[str, Any]:
        """Return the testbed settings that a condition overrides."""
        left_out = (*OF_WEIGHTS, MEMORY, *RECORDED_FROM)
        return {key: value for key, value in self.conditions[condition].items() if key not in left_out}

    def learning(self, condition: str) -> WeightsChannel:
        """Return the weights channel under a condition. Raises ValidationError for overrides that do not fit."""
        assert self.weights
        return self.weights.changed_by(self.conditions[condition])

    def remembering(self, condition: str) -> MemoryChannel:
        """Return the memory channel under a condition. Raises ValidationError for overrides that do not fit."""
        assert self.memory
        return self.memory.changed_by(self.conditions[condition])

    def trainings(self) -> dict[str, TrainingSettings]:
        """Return the training settings of each condition that runs in the weights channel."""
        names = self.weights.conditions if self.weights else ()
        return {condition: self.learning(condition).training for condition in names}

    def needs_pairs(self, condition: str) -> bool:
        """Return whether a condition trains on preference pairs, mixed in or after a generation's own training."""
        return not {"rehearsal", "realign_every"}.isdisjoint(self.learning(condition).training.defences)


class Study(_Section):
    """A study: the cells to run, the channels, the sizes."""

    name: str | None = Field(None, description="folder of its results; left out: the name of the study's file")
    plugins: tuple[str, ...] = Field((), description="Python files that define testbeds, agents, filters or measures")
    models: tuple[str, ...] = Field(
        min_length=1, description="names of config/models, scripted:POLICY, or agent:NAME[:MODEL] of a plug-in"
    )
    prepared: tuple[Literal["none", "dpo", "grpo"] | dict[str, OwnAlignment], ...] = Field(
        (NONE,),
        alias="alignments",
        min_length=1,
        description="how agents are prepared before deployment: names, and agents of your own as NAME: KEYS",
    )
    seeds: Seeds = Field((0,), description="seeds, one series each; the weights channel can have others")
    primary: tuple[Hypothesis, ...] = Field(
        (), description="hypotheses that are fixed before the first rollout; the report tests them first"
    )
    shards: Annotated[int, Field(ge=1, le=10_000, strict=True)] | Literal["auto"] = Field(
        "auto", description="jobs that a rollout is split into; auto: by its size, where the model needs a GPU"
    )
    testbeds: dict[str, TestbedSection] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _type_sections(cls, values: Any) -> Any:
        """Give each testbed's scenarios the type of their source, and swept values that of the testbed's setting."""
        sections = values.get("testbeds") if isinstance(values, dict) else None
        if not isinstance(sections, dict):
            return values
        typed = {}
        for name, section in sections.items():
            try:
                testbed = find_testbed(str(name))
            except AtpError as error:
                raise ValueError(f"testbeds: {error}") from error
            try:
                if isinstance(section, Mapping) and isinstance(
                    section.get("scenarios", {}), Mapping | ScenarioSettings
                ):
                    scenarios = source_settings(testbed, section.get("scenarios", {}))
                    section = {**section, "scenarios": scenarios}
            except AtpError as error:
                raise ValueError(f"testbeds.{name}.{error}") from error
            typed[name] = _with_typed_sweep(section, testbed.settings)
        return {**values, "testbeds": typed}

    @model_validator(mode="before")
    @classmethod
    def _type_alignments(cls, values: Any) -> Any:
        """Check each alignment by itself, because an error in a union would be about all its types."""
        listed = values.get("alignments") if isinstance(values, dict) else None
        if not isinstance(listed, list | tuple):
            return values
        return {**values, "alignments": tuple(_alignment(f"alignments.{n}", each) for n, each in enumerate(listed))}

    @field_validator("name", mode="before")
    @classmethod
    def _check_name(cls, name: Any) -> Any:
        if name is not None and not isinstance(name, str):
            raise ValueError(f"must be text, found {name!r}; put it in quotes")
        return name

    @model_validator(mode="after")
    def _check_names(self) -> "Study":
        for key in ("models", "alignments"):
            values: tuple[str, ...] = getattr(self, key)
            if len(set(values)) < len(values):
                raise ValueError(f"{key}: {list(values)} has a value twice")
        return self

    @property
    def own_alignments(self) -> dict[str, OwnAlignment]:
        """The alignments that are the user's own, by their names in results."""
        own = [item for entry in self.prepared if not isinstance(entry, str) for item in entry.items()]
        return {_name_in_results(name, settings): settings for name, settings in own}

    @property
    def alignments(self) -> tuple[str, ...]:
        """The names of all alignments in results."""
        return tuple(
            entry if isinstance(entry, str) else _name_in_results(*next(iter(entry.items()))) for entry in self.prepared
        )

    @property
    def judges(self) -> dict[str, str]:
        """The models that judge deployments: name -> the key that names it."""
        return {
            monitor.model: f"testbeds.{testbed}.conditions.{condition}.monitor.model"
            for testbed, section in self.testbeds.items()
            for condition in (section.weights.conditions if section.weights else ())
            if (monitor := section.learning(condition).monitor) and monitor.model
        }

    @property
    def readers(self) -> set[str]:
        """Conditions that need recorded episodes."""
        conditions = [each for section in self.testbeds.values() for each in section.conditions.items()]
        return {name for name, keys in conditions if not keys.keys().isdisjoint(RECORDED_FROM)}


def _name_in_results(name: str, settings: OwnAlignment) -> str:
    return name if settings.sft else f"{GIVEN}{name}"


def _alignment(key: str, entry: Any) -> Any:
    """Return an entry of `alignments`: a name, or one name with its typed settings. Raises ValueError."""
    form = "or one of your own such as {mine: {adapter: FOLDER}}"
    if not isinstance(entry, Mapping):
        if entry not in KNOWN_ALIGNMENTS:
            raise ValueError(f"{key}: found {entry!r:.80}, allowed are {', '.join(KNOWN_ALIGNMENTS)}, {form}")
        return entry
    if len(entry) != 1:
        raise ValueError(f"{key}: found {len(entry)} names, must be one; put each into a list item of its own")
    ((name, settings),) = entry.items()
    if name in KNOWN_ALIGNMENTS or not re.fullmatch(OWN_NAME, str(name)):
        raise ValueError(
            f"{key}: found '{name}', the name of an alignment of your own is of small letters, digits and '_', and "
            f"none of {', '.join(KNOWN_ALIGNMENTS)}"
        )
    try:
        return {name: OwnAlignment.model_validate(settings)}
    except ValidationError as error:
        separator = "." if error.errors()[0]["loc"] else ": "
        raise ValueError(f"{key}.{name}{separator}{explain(error, OwnAlignment)}") from None


def _with_typed_sweep(section: Any, kind: type[Settings]) -> Any:
    """Return a section whose swept values that YAML reads as text, such as 1e-1, are what the settings make of them."""
    try:
        context = section["context"]
        sweep = dict(context["sweep"])
    except (LookupError, TypeError, ValueError):
        return section  # no sweep, or refused for its form
    typed = {
        key: [_typed(kind, key, value) for value in values] if isinstance(values, list | tuple) else values
        for key, values in sweep.items()
    }
    return {**section, "context": {**context, "sweep": typed}}


def _typed(kind: type[Settings], key: str, value: Any) -> Any:
    if not isinstance(value, str) or key not in kind.model_fields:
        return value
    try:
        typed = TypeAdapter[Any](kind.model_fields[key].rebuild_annotation()).validate_python(value)
    except ValidationError:
        return value  # refused when the variant's settings are checked together
    return int(typed) if isinstance(typed, float) and typed.is_integer() else typed


def players(study: Study, channel: Channel) -> list[tuple[str, str]]:
    """Return (model, alignment) of the agents in a channel."""
    own = [(model, alignment) for model in study.models for alignment in study.alignments]
    return own + [(name, NONE) for name in getattr(channel, "reference_policies", ())]


def channel_seeds(study: Study, channel: Channel, alignment: str) -> tuple[int, ...]:
    """Return the seeds that agents of an alignment have in a channel."""
    own = {} if isinstance(channel, ContextChannel) else channel.seeds
    return next((seeds for name, seeds in own.items() if name == alignment), study.seeds)


def alignments_on(study: Study, testbed: str) -> tuple[str, ...]:
    """Return the alignments that agents have on a testbed; none where agents of other testbeds are evaluated only."""
    section, others = study.testbeds[testbed], study.testbeds.values()
    only_evaluated = not section.channels and any(
        testbed in other.weights.transfer for other in others if other.weights
    )
    return () if only_evaluated else study.alignments


def is_aligned_here(alignment: str) -> bool:
    """Return whether the study trains the agents of an alignment before deployment."""
    return alignment != NONE and not alignment.startswith(GIVEN)


def training_seeds(study: Study, section: TestbedSection, alignment: str) -> tuple[int, ...]:
    """Return the seeds that an alignment has in any channel of a testbed."""
    seeds = [seed for channel in section.channels.values() for seed in channel_seeds(study, channel, alignment)]
    return tuple(dict.fromkeys(seeds or study.seeds))


def agents(study: Study) -> tuple[str, ...]:
    """Return the names of all agents of a study: models, and the policies that play next to them."""
    sections = study.testbeds.values()
    policies = [name for section in sections if section.context for name in section.context.reference_policies]
    return tuple(dict.fromkeys([*study.models, *policies]))


def alignment_training(
    study: Study, section: TestbedSection, alignment: str, model: str, where: str = ""
) -> TrainingSettings:
    """Return the settings with which a model is aligned. Raises ValueError that names the key, under `where`."""
    own_alignment = study.own_alignments.get(alignment)
    if own_alignment and own_alignment.sft:
        return own_alignment.sft.training
    shared: TrainingSettings = getattr(section.alignment, alignment)
    own = section.alignment.models.get(model, {}).get(alignment, {})  # type: ignore[call-overload]
    try:
        training = type(shared)(**{**shared.model_dump(), **own})
    except ValidationError as error:
        raise ValueError(f"{where}.alignment.models.{model}.{alignment}: {explain(error, type(shared))}") from None
    if training.defences:
        raise ValueError(f"{where}.alignment.{alignment}.{training.defences[0]}: {NO_DEFENCE}")
    return training


def deployed_rows(channel: WeightsChannel | MemoryChannel | None) -> int:
    """Return how many rows of the training split a channel's generations are deployed on."""
    return channel.generations * channel.scenarios * getattr(channel, "pool", 1) if channel else 0


def alignment_rows(section: TestbedSection) -> tuple[int, int]:
    """Return the rows of the training split that alignment uses, from and to: those after the channels' deployments."""
    used = max(map(deployed_rows, (section.weights, section.memory)))
    return used, used + section.alignment.scenarios


def variants(section: TestbedSection, condition: str) -> dict[str, dict[str, Any]]:
    """Return the variants of the context channel: label -> testbed settings. Overridden settings are not swept."""
    overrides = section.overrides(condition)
    sweep = section.context.sweep if section.context else {}
    swept = {key: values for key, values in sweep.items() if key not in overrides}
    labelled = {}
    for values in itertools.product(*swept.values()):
        point = dict(zip(swept, values, strict=True))
        label = " ".join(value if isinstance(value, str) else f"{key}={value}" for key, value in point.items())
        labelled[label or "default"] = {**section.settings, **point, **overrides}
    return labelled


def deployment(
    section: TestbedSection, condition: str, channel: WeightsChannel | MemoryChannel | None = None
) -> dict[str, Any]:
    """Return the testbed settings under which an agent is deployed, and learns, by default in the weights channel."""
    channel = channel or section.weights
    assert channel
    return {**section.settings, **channel.deployment, **section.overrides(condition)}


def evaluation(section: TestbedSection, channel: WeightsChannel | MemoryChannel | None = None) -> dict[str, Any]:
    """Return the testbed settings of a channel's evaluation: equal for all conditions, so that only the weights, or the
    memory, differ. By default the channel is the weights.
    """
    channel = channel or section.weights
    own = channel.evaluation.settings if channel else {}
    return {**section.settings, "rounds": 1, **own}
