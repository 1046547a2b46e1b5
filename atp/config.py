"""The typed study: every room's settings gathered, checked before anything runs.

A study is a YAML file of config/studies; models are files of config/models. Bad input is one line that names the file,
the key, what was found and what is allowed.
"""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from atp.agents.scripted import SOCIAL, scripted
from atp.agents.spec import SCRIPTED, ModelSpec, check_folder, check_trainable
from atp.alignment.settings import Alignment
from atp.errors import AtpError
from atp.explain import explain
from atp.replay import MEMORY, check_memories
from atp.scenarios.stage import ScenarioSettings
from atp.testbeds import TESTBEDS
from atp.training import TrainingSettings
from atp.training.canary import PROMPTS
from atp.training.channel import OF_WEIGHTS, WeightsChannel, check_arm
from atp.training.trainer import NO_DEFENCE

Model = TypeVar("Model", bound=BaseModel)

PLAIN = "plain"
COORDINATION = "coordination"
NONE: Literal["none"] = "none"
#: What alignment makes, beside the arms' folders.
ALIGNED = ("adapter", "pairs")
#: What a training shares with the one that it goes on from.
SAME = ("tune", "rank", "alpha")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ContextChannel(_Section):
    """Experience accumulates in the conversation: R rounds of history on the test split."""

    arms: tuple[str, ...] = Field((PLAIN,), min_length=1, description="arms of the testbed to run")
    sweep: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = Field(
        default_factory=dict, description="testbed settings to vary: each combination is a variant"
    )
    samples: int = Field(1, ge=1, description="episodes of each scenario and variant")
    yardsticks: tuple[str, ...] = Field(
        (), description="scripted policies (scripted:POLICY) that play beside the models, without alignment"
    )

    @model_validator(mode="after")
    def _values_differ(self) -> "ContextChannel":
        for key, values in self.sweep.items():
            if any(values.count(value) > 1 for value in values):
                raise ValueError(f"sweep.{key}: {list(values)} names one twice")
        return self


class TestbedSection(_Section):
    """What a study does on one testbed."""

    scenarios: ScenarioSettings
    settings: dict[str, Any] = Field(default_factory=dict, description="testbed settings shared by all that follows")
    arms: dict[str, dict[str, Any]] = Field(
        default={PLAIN: {}},
        description="controls and defences: name -> testbed settings it imposes; under `training` and `filter` what it "
        "changes in the weights channel's; under `memory_of` whose histories it reads (model, alignment, arm)",
    )
    alignment: Alignment = Field(default_factory=Alignment)
    context: ContextChannel | None = None
    weights: WeightsChannel | None = None

    def imposed(self, arm: str) -> dict[str, Any]:
        """Testbed settings that an arm imposes."""
        return {key: value for key, value in self.arms[arm].items() if key not in (*OF_WEIGHTS, MEMORY)}

    def learning(self, arm: str) -> WeightsChannel:
        """The weights channel as an arm has it. Raises ValidationError for changes that do not fit."""
        assert self.weights
        return self.weights.changed_by(self.arms[arm])

    def trainings(self) -> dict[str, TrainingSettings]:
        """How each arm that runs in the weights channel is trained."""
        return {arm: self.learning(arm).training for arm in self.weights.arms} if self.weights else {}

    def needs_pairs(self, arm: str) -> bool:
        """Whether an arm's training is mixed with preference pairs."""
        return "replay" in self.learning(arm).training.defences


class Study(_Section):
    """A study: the cells to run, the channels, the sizes."""

    models: tuple[str, ...] = Field(min_length=1, description="names of config/models, or scripted:POLICY")
    alignments: tuple[Literal["none", "dpo", "grpo"], ...] = Field(
        (NONE,), min_length=1, description="how agents are prepared before deployment"
    )
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**32, strict=True)], ...] = Field(
        (0,), min_length=1, description="one line of evidence each"
    )
    shards: Annotated[int, Field(ge=1, le=10_000, strict=True)] | Literal["auto"] = Field(
        "auto", description="jobs that a rollout is split into; auto: by its size, where the model needs a GPU"
    )
    testbeds: dict[str, TestbedSection] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_exist(self) -> "Study":
        for key in ("models", "alignments", "seeds"):
            values = getattr(self, key)
            if len(set(values)) < len(values):
                raise ValueError(f"{key}: {list(values)} names one twice")
        for name, section in self.testbeds.items():
            for model in self.models:
                if model.startswith(SCRIPTED):
                    _check_policy("models", model, name)
            _check_yardsticks(name, section, self.models)
            _check_testbed(name, section, self.models)
            _check_alignment(f"testbeds.{name}", section, self)
            _check_readers(f"testbeds.{name}", section, self)
        return self

    @property
    def readers(self) -> set[str]:
        """Arms that read recorded histories."""
        return {arm for section in self.testbeds.values() for arm, keys in section.arms.items() if MEMORY in keys}


def players(study: Study, channel: ContextChannel | WeightsChannel) -> list[tuple[str, str]]:
    """(model, alignment) of those who play in a channel."""
    own = [(model, alignment) for model in study.models for alignment in study.alignments]
    return own + [(name, NONE) for name in getattr(channel, "yardsticks", ())]


def _check_readers(where: str, section: TestbedSection, study: Study) -> None:
    for arm in study.readers & section.arms.keys():
        if MEMORY not in section.arms[arm]:
            raise ValueError(f"{where}.arms.{arm}: on another testbed it has {MEMORY}, call one of them otherwise")
    played = {arm: variants(section, arm) for arm in section.context.arms} if section.context else {}
    who = players(study, section.context) if section.context else []
    check_memories(where, section.arms, played, section.weights.arms if section.weights else (), who)


def _check_yardsticks(testbed: str, section: TestbedSection, models: tuple[str, ...]) -> None:
    where, names = f"testbeds.{testbed}.context.yardsticks", section.context.yardsticks if section.context else ()
    for name in names:
        if not name.startswith(SCRIPTED):
            raise ValueError(f"{where}: '{name}' is no scripted policy, allowed is scripted:POLICY")
        if (*models, *names).count(name) > 1:
            raise ValueError(f"{where}: '{name}' is named twice, here or in models")
        _check_policy(where, name, testbed)


def _check_policy(where: str, name: str, testbed: str) -> None:
    policy = name.removeprefix(SCRIPTED)
    try:
        scripted(policy)
    except AtpError as error:
        raise ValueError(f"{where}: {error}") from None
    if _is_social(name) and testbed != COORDINATION:
        raise ValueError(f"{where}: '{name}' goes by what others decide, which testbed '{testbed}' does not show")


def _is_social(name: str) -> bool:
    return name.startswith(SCRIPTED) and name.removeprefix(SCRIPTED).partition(":")[0] in SOCIAL


def _check_alignment(where: str, section: TestbedSection, study: Study) -> None:
    prepared = [alignment for alignment in study.alignments if alignment != NONE]
    for model in section.alignment.models:
        if model not in study.models:
            raise ValueError(
                f"{where}.alignment.models: '{model}' is no model of the study ({', '.join(study.models)})"
            )
        for alignment in section.alignment.models[model]:
            alignment_training(section, alignment, model, where)
    for alignment in prepared:
        for model in study.models:
            if model.startswith(SCRIPTED):
                raise ValueError(f"alignments: '{model}' has no weights to align, allowed is {NONE}")
            aligned = alignment_training(section, alignment, model, where)
            for (arm, learning), key in itertools.product(section.trainings().items(), SAME):
                begun, gone_on = getattr(aligned, key), getattr(learning, key)
                if begun != gone_on:
                    raise ValueError(
                        f"{where}.weights.training.{key}: {gone_on}, must be {begun} as in alignment.{alignment}: "
                        f"generations of arm '{arm}' go on from what alignment trained"
                    )
    last, trainings = alignment_rows(section)[1], section.trainings()
    if (prepared or any(map(section.needs_pairs, trainings))) and section.scenarios.train < last:
        raise ValueError(
            f"{where}.scenarios.train: {section.scenarios.train}, must be at least {last}: preference pairs and "
            f"alignment take {section.alignment.scenarios} that the weights channel does not"
        )
    stopped = [arm for arm, training in trainings.items() if "most_rise" in training.defences]
    if stopped and section.scenarios.train < last + PROMPTS:
        raise ValueError(
            f"{where}.scenarios.train: {section.scenarios.train}, must be at least {last + PROMPTS}: most_rise in arm "
            f"'{stopped[0]}' asks {PROMPTS} that neither deployment nor alignment learns from"
        )


def alignment_training(section: TestbedSection, alignment: str, model: str, where: str = "") -> TrainingSettings:
    """Settings with which a model is aligned. Raises ValueError that names the key, under `where`."""
    shared: TrainingSettings = getattr(section.alignment, alignment)
    own = section.alignment.models.get(model, {}).get(alignment, {})  # type: ignore[call-overload]
    try:
        found = type(shared)(**{**shared.model_dump(), **own})
    except ValidationError as error:
        raise ValueError(f"{where}.alignment.models.{model}.{alignment}: {explain(error, type(shared))}") from None
    if found.defences:
        raise ValueError(f"{where}.alignment.{alignment}.{found.defences[0]}: {NO_DEFENCE}")
    return found


def alignment_rows(section: TestbedSection) -> tuple[int, int]:
    """Rows of the training split that alignment takes: those after the weights channel's."""
    used = section.weights.generations * section.weights.scenarios if section.weights else 0
    return used, used + section.alignment.scenarios


def _check_testbed(name: str, section: TestbedSection, models: tuple[str, ...]) -> None:
    where = f"testbeds.{name}"
    if name not in TESTBEDS:
        raise ValueError(f"testbeds: unknown testbed '{name}', known are {', '.join(TESTBEDS)}")
    for channel_name in ("context", "weights"):
        channel = getattr(section, channel_name)
        for arm in channel.arms if channel else ():
            if arm not in section.arms:
                raise ValueError(
                    f"{where}.{channel_name}.arms: unknown arm '{arm}', known are {', '.join(section.arms)}"
                )
        if channel and len(set(channel.arms)) < len(channel.arms):
            raise ValueError(f"{where}.{channel_name}.arms: {list(channel.arms)} names one twice")
    if section.arms.get(PLAIN):
        raise ValueError(
            f"{where}.arms.{PLAIN}: imposes {section.arms[PLAIN]}, must be empty: others are compared with it"
        )
    for arm in section.arms:
        _check_name(f"{where}.arms", arm)
        if arm.partition(".")[0] in ALIGNED:
            raise ValueError(f"{where}.arms: '{arm}' is the name of what alignment makes, call it otherwise")
        runs = [channel for channel in (section.context, section.weights) if channel and arm in channel.arms]
        if section.context and (section.context in runs or not runs):
            for label, settings in variants(section, arm).items():
                _check_settings(name, f"{where}, arm '{arm}', variant '{label}'", settings)
                social = [each for each in (*models, *section.context.yardsticks) if _is_social(each)]
                if social and section.context in runs and settings.get("peers") == "none":
                    raise ValueError(
                        f"{where}, arm '{arm}', variant '{label}': peers is none, '{social[0]}' goes by them"
                    )
        check_arm(f"{where}.arms.{arm}", section.arms[arm], section.weights)
        alone = section.arms[arm] and not section.arms[arm].keys() - {*OF_WEIGHTS}
        if alone and section.context and arm in section.context.arms:
            raise ValueError(f"{where}.context.arms: '{arm}' changes what the weights channel learns and nothing else")
        if section.weights and (section.weights in runs or not runs):
            _check_settings(name, f"{where}.weights.deployment, arm '{arm}'", deployment(section, arm))
    if section.weights:
        _check_settings(name, f"{where}.weights.evaluation.settings", evaluation(section))
        needed = section.weights.generations * section.weights.scenarios
        if section.scenarios.train < needed:
            raise ValueError(
                f"{where}.scenarios.train: {section.scenarios.train}, must be at least {needed}: "
                f"{section.weights.generations} generations of {section.weights.scenarios} fresh scenarios"
            )
        for model in models:
            if model.startswith(SCRIPTED):
                raise ValueError(f"{where}.weights: '{model}' has no weights to train, leave the channel out")


def _check_name(key: str, name: str) -> None:
    if not name or not all(char.isalnum() or char in "_-." for char in name) or name.startswith("."):
        raise ValueError(f"{key}: '{name}' names a folder, allowed are letters, digits, '_', '-' and '.'")


def _check_settings(testbed: str, where: str, settings: Mapping[str, Any]) -> None:
    try:
        TESTBEDS[testbed].settings(**settings)
    except ValidationError as error:
        raise ValueError(f"{where}: {explain(error, TESTBEDS[testbed].settings)}") from None


def variants(section: TestbedSection, arm: str) -> dict[str, dict[str, Any]]:
    """Variants of the context channel in an arm: label -> testbed settings. What the arm imposes is not swept."""
    imposed = section.imposed(arm)
    swept = (
        {key: values for key, values in section.context.sweep.items() if key not in imposed} if section.context else {}
    )
    found = {}
    for values in itertools.product(*swept.values()):
        point = dict(zip(swept, values, strict=True))
        label = " ".join(value if isinstance(value, str) else f"{key}={value}" for key, value in point.items())
        found[label or "default"] = {**section.settings, **point, **imposed}
    return found


def deployment(section: TestbedSection, arm: str) -> dict[str, Any]:
    """Testbed settings under which an arm's agent is deployed and learns in the weights channel."""
    assert section.weights
    return {**section.settings, **section.weights.deployment, **section.imposed(arm)}


def evaluation(section: TestbedSection) -> dict[str, Any]:
    """Testbed settings of the evaluation: the same for every arm, so that what differs is in the weights."""
    assert section.weights
    return {**section.settings, "rounds": 1, **section.weights.evaluation.settings}


def read_study(path: Path | str) -> Study:
    """A study file, checked.

    Raises:
        AtpError: no such file, not YAML, an unknown key, a wrong type or an impossible value.
    """
    return _read(Path(path), Study)


def check_files(path: Path | str, study: Study, root: Path) -> None:
    """Raises AtpError if a file that the study at `path` names does not lie under `root`, where paths begin."""
    for name, section in study.testbeds.items():
        settings = section.scenarios
        try:
            settings.check_testbed(name)
        except AtpError as error:
            raise AtpError(f"{path}: testbeds.{name}.{error}") from error
        files = {"path": settings.path, "templates": settings.templates}
        files |= {f"{kind}.path": file for kind, file in settings.set_files.items()}
        for key, file in files.items():
            if file and not (root / file).is_file():
                raise AtpError(f"{path}: testbeds.{name}.scenarios.{key}: no such file, found '{file}'")


def check_models(path: Path | str, study: Study, models: Mapping[str, ModelSpec | None], root: Path) -> None:
    """Look at the models of the study at `path` as far as can be done without loading them.

    Raises:
        AtpError: a folder, from `root`, that holds no whole model; a training that the model or its GPUs cannot do.
    """
    for name, spec in models.items():
        if spec is None:
            continue
        if not spec.organism:
            check_folder(spec, root)
        for where, training in _trainings(study, name):
            try:
                check_trainable(spec)
                training.held(max(1, spec.gpus))
            except AtpError as error:
                raise AtpError(f"{path}: {where} for model '{name}': {error}") from error
            if training.method == "grpo" and spec.sampling.temperature == 0:
                raise AtpError(f"{path}: {where}: GRPO needs replies that differ, model '{name}' has temperature 0")


def _trainings(study: Study, model: str) -> Iterator[tuple[str, TrainingSettings]]:
    """Where each training of a model is set, and how."""
    for testbed, section in study.testbeds.items():
        for alignment in study.alignments:
            if alignment != NONE:
                yield f"testbeds.{testbed}.alignment.{alignment}", alignment_training(section, alignment, model)
        for arm, training in section.trainings().items():
            yield f"testbeds.{testbed}.weights.training of arm '{arm}'", training


def played(study: Study) -> tuple[str, ...]:
    """Every model of a study, and the policies that play beside them."""
    beside = [name for section in study.testbeds.values() if section.context for name in section.context.yardsticks]
    return tuple(dict.fromkeys([*study.models, *beside]))


def read_models(names: tuple[str, ...], folder: Path | str) -> dict[str, ModelSpec | None]:
    """The model files of a study's models; None for scripted policies. Raises AtpError as `read_study` does."""
    found: dict[str, ModelSpec | None] = {}
    for name in names:
        if name.startswith(SCRIPTED):
            scripted(name.removeprefix(SCRIPTED))
            found[name] = None
            continue
        path = Path(folder) / f"{name}.yaml"
        if not path.is_file():
            known = sorted(file.stem for file in Path(folder).glob("*.yaml"))
            raise AtpError(f"model '{name}': no file {path}, known are {', '.join(known)} and scripted:POLICY")
        found[name] = _read(path, ModelSpec)
    return found


def _read(path: Path, kind: type[Model]) -> Model:
    if not path.is_file():
        raise AtpError(f"{path}: no such file")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise AtpError(f"{path}: no readable YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise AtpError(f"{path}: must be keys and values, found {type(values).__name__}")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise AtpError(f"{path}: {explain(error, kind)}") from error


def schemas() -> dict[str, dict[str, Any]]:
    """JSON schemas by name: `study`, `model`, each testbed's settings. Editors complete from config/schemas."""
    kinds: dict[str, type[BaseModel]] = {"study": Study, "model": ModelSpec}
    kinds |= {name: testbed.settings for name, testbed in TESTBEDS.items()}
    return {name: kind.model_json_schema() for name, kind in kinds.items()}


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key stands once: the last of two would silently win."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [key.value for key, _ in node.value]
    for key in keys:
        if keys.count(key) > 1:
            raise yaml.constructor.ConstructorError(None, None, f"key '{key}' stands twice", node.start_mark)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
