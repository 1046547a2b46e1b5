"""Checks of a study that concern several of its sections, made before anything runs."""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from atp.agents.load import OWN, check_agent
from atp.agents.scripted import SCRIPTED
from atp.errors import AtpError
from atp.explain import explain
from atp.files.schemas import TRANSFER
from atp.measures.hypothesis import OF_ALIGNMENT, OF_CONDITION, OF_SERIES
from atp.memory.channel import MEMORY, check_memory_condition
from atp.memory.similarity import check_embedding
from atp.models.spec import ModelSpec, check_folder, check_trainable
from atp.registry import find_testbed
from atp.rollout.transplant import RECORDED_FROM, check_history_sources
from atp.rollout.yoked import PAYMENTS_FROM, check_pays
from atp.study.series import WHERE, series
from atp.study.study import (
    BASELINE,
    NONE,
    Study,
    TestbedSection,
    agents,
    alignment_rows,
    alignment_training,
    alignments_on,
    channel_seeds,
    deployed_rows,
    deployment,
    evaluation,
    is_aligned_here,
    players,
    variants,
)
from atp.training import TrainingSettings
from atp.training.channel import OF_WEIGHTS, check_condition
from atp.training.monitors import Monitor
from atp.training.post_training_check import PROMPTS

#: Names next to the folders of conditions that alignment uses.
ALIGNED = ("adapter", "pairs")
MAX_NAME_CHARS = 100
#: Settings that a training shares with the one whose weights it continues.
CONTINUED = ("use_peft", "lora_r", "lora_alpha")


def check_study(study: Study) -> None:
    """Raise ValueError, which names the key, if sections of a study do not fit each other."""
    for name, section in study.testbeds.items():
        where = f"testbeds.{name}"
        for model in study.models:
            _check_agent("models", model, name)
        _check_reference_policies(f"{where}.context.reference_policies", name, section, study.models)
        _check_channels(where, section)
        for condition in section.conditions:
            _check_condition(name, where, section, condition, study.models)
        if section.weights:
            _check_weights(name, where, section, study.models)
            _check_transfer(name, f"{where}.weights.transfer", section.weights.transfer, study)
        if section.memory:
            _check_memory(name, where, section, study)
        _check_alignment(name, where, section, study)
        _check_readers(where, section, study)
    _check_primary(study)


def _check_primary(study: Study) -> None:
    """Raise ValueError if a hypothesis is about something that the study does not run."""
    sections = study.testbeds.values()
    channels = [channel for section in sections for channel in section.channels.values()]
    known: dict[str, set[str]] = {
        "model": set(agents(study)),
        "testbed": set(study.testbeds),
        "alignment": set(study.alignments),
        "condition": {name for channel in channels for name in channel.conditions},
        "channel": {
            *(name for section in sections for name in section.channels),
            *(f"{TRANSFER}{name}" for name, each in study.testbeds.items() if each.weights and each.weights.transfer),
        },
    }
    for number, hypothesis in enumerate(study.primary):
        where = hypothesis.where
        for key, value in where.items():
            if key in known and value not in known[key]:
                allowed = ", ".join(sorted(known[key]))
                raise ValueError(f"primary.{number}.where.{key}: '{value}' is not run by the study, allowed: {allowed}")
        compared = [place for place in series(study) if _has_measure(hypothesis.measure, place[0])]
        keys = [key for key in WHERE if key in where and (key != "variant" or hypothesis.measure in OF_SERIES)]
        chosen = [place for place in compared if all(place[0][key] == where[key] for key in keys)]
        if not chosen:
            given = ", ".join(f"{key}: {value}" for key, value in where.items()) or "any keys"
            raise ValueError(f"primary.{number}.where: no series of the study has {hypothesis.measure} with {given}")
        if len(chosen) > 1 and hypothesis.measure in OF_SERIES:
            several = ", ".join(key for key in WHERE if len({place[key] for place, _ in chosen}) > 1)
            raise ValueError(f"primary.{number}.where: {len(chosen)} series match, must be 1; add {several}")
        seeds = {seed for _, own in chosen for seed in own}
        if unknown := sorted(set(hypothesis.seeds) - seeds):
            raise ValueError(f"primary.{number}.seeds: {unknown} are not run by the study, which has {sorted(seeds)}")


def _has_measure(measure: str, place: Mapping[str, str]) -> bool:
    """Return whether a series can have a measure: no agent or condition is compared with itself."""
    if measure.startswith(OF_ALIGNMENT):
        return place["alignment"] != NONE
    return not measure.startswith(OF_CONDITION) or place["condition"] != BASELINE


def _check_agent(key: str, name: str, testbed: str) -> None:
    try:
        check_agent(name, testbed)
    except AtpError as error:
        raise ValueError(f"{key}: {error}") from None


def _check_reference_policies(key: str, testbed: str, section: TestbedSection, models: tuple[str, ...]) -> None:
    names = section.context.reference_policies if section.context else ()
    for name in names:
        if not name.startswith(SCRIPTED):
            raise ValueError(f"{key}: '{name}' is not a scripted policy, allowed is {SCRIPTED}POLICY")
        if (*models, *names).count(name) > 1:
            raise ValueError(f"{key}: '{name}' occurs twice, here or in models")
        _check_agent(key, name, testbed)


def _check_channels(where: str, section: TestbedSection) -> None:
    for channel_name, channel in section.channels.items():
        key = f"{where}.{channel_name}.conditions"
        for condition in channel.conditions:
            if condition not in section.conditions:
                known = ", ".join(section.conditions)
                raise ValueError(f"{key}: unknown condition '{condition}', known are {known}")
        if len(set(channel.conditions)) < len(channel.conditions):
            raise ValueError(f"{key}: {list(channel.conditions)} has a name twice")
    if section.conditions.get(BASELINE):
        raise ValueError(
            f"{where}.conditions.{BASELINE}: overrides {section.conditions[BASELINE]}, must be empty: other conditions "
            "are compared with it"
        )


def _check_condition(
    testbed: str, where: str, section: TestbedSection, condition: str, models: tuple[str, ...]
) -> None:
    key = f"{where}.conditions"
    if not condition.strip(".") or not all(char.isalnum() or char in "_-." for char in condition):
        raise ValueError(f"{key}: '{condition}' names a folder, allowed are letters, digits, '_', '-' and '.'")
    if len(condition) > MAX_NAME_CHARS:
        raise ValueError(
            f"{key}: '{condition:.40}…' names a folder, it must not have more than {MAX_NAME_CHARS} characters"
        )
    if condition.startswith("."):
        raise ValueError(f"{key}: '{condition}' names a folder, it must not begin with '.'")
    if condition.partition(".")[0] in ALIGNED:
        raise ValueError(f"{key}: '{condition}' is a name that alignment uses, choose another one")
    channels = [channel for channel in section.channels.values() if condition in channel.conditions]
    if section.context and (section.context in channels or not channels):
        agents = (*models, *section.context.reference_policies) if section.context in channels else ()
        for label, settings in variants(section, condition).items():
            _check_settings(testbed, f"{where}, condition '{condition}', variant '{label}'", settings, agents)
    check_condition(f"{key}.{condition}", section.conditions[condition], section.weights)
    check_memory_condition(f"{key}.{condition}", testbed, section.conditions[condition], section.memory)
    keys = section.conditions[condition].keys()
    for name, channel in section.channels.items():
        others = {"context": {*OF_WEIGHTS, MEMORY}, "weights": {MEMORY}, MEMORY: {*OF_WEIGHTS}}[name]
        if keys and not keys - others and condition in channel.conditions:
            learns = "memory" if keys <= {MEMORY} else "weights"
            raise ValueError(f"{where}.{name}.conditions: '{condition}' changes only what the {learns} channel learns")
    if section.weights:
        own = "monitor" in section.conditions[condition]
        place = f"{key}.{condition}.monitor" if own else f"{where}.weights.monitor"
        _check_monitor(testbed, place, section.learning(condition).monitor)
    if section.weights and (section.weights in channels or not channels):
        _check_settings(testbed, f"{where}.weights.deployment, condition '{condition}'", deployment(section, condition))


def _check_monitor(testbed: str, key: str, monitor: Monitor | None) -> None:
    if monitor is None or monitor.model is None:
        return
    if find_testbed(testbed).judge_question is None:
        raise ValueError(f"{key}.kind: 'judge', testbed '{testbed}' defines no judge question; use kind: truth")
    _check_agent(f"{key}.model", monitor.model, testbed)


def _check_settings(testbed: str, where: str, settings: Mapping[str, Any], agents: tuple[str, ...] = ()) -> None:
    kind = find_testbed(testbed).settings
    try:
        checked = kind(**settings)
    except ValidationError as error:
        raise ValueError(f"{where}: {explain(error, kind)}") from None
    for agent in agents:
        if agent.startswith(SCRIPTED):
            try:
                checked.check_policy(agent.removeprefix(SCRIPTED).partition(":")[0])
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None


def _check_weights(testbed: str, where: str, section: TestbedSection, models: tuple[str, ...]) -> None:
    assert section.weights
    _check_settings(testbed, f"{where}.weights.evaluation.settings", evaluation(section))
    needed = section.weights.generations * section.weights.scenarios
    if section.scenarios.train < needed:
        raise ValueError(
            f"{where}.scenarios.train: {section.scenarios.train}, must be at least {needed}: "
            f"{section.weights.generations} generations of {section.weights.scenarios} fresh scenarios"
        )
    for model in models:
        if model.startswith((SCRIPTED, OWN)):
            raise ValueError(f"{where}.weights: '{model}' cannot be trained, leave the channel out")


def _check_memory(testbed: str, where: str, section: TestbedSection, study: Study) -> None:
    channel, key = section.memory, f"{where}.memory"
    assert channel
    _check_settings(testbed, f"{key}.evaluation.settings", evaluation(section, channel))
    check_memory_condition(f"{where}", testbed, {MEMORY: channel.model_dump(include={"shuffled_pay"})}, channel)
    for name in channel.conditions:
        changed = section.remembering(name)
        _check_settings(testbed, f"{key}.deployment, condition '{name}'", deployment(section, name, changed))
        if section.scenarios.train < (needed := deployed_rows(changed)):
            raise ValueError(
                f"{where}.scenarios.train: {section.scenarios.train}, must be at least {needed}: {changed.generations} "
                f"generations of {changed.scenarios * changed.pool} fresh scenarios in memory, condition '{name}'"
            )
        if changed.embedding:
            try:
                check_embedding(changed.embedding)
            except AtpError as error:
                raise ValueError(f"{key}.{error}") from None
        seeds = [channel_seeds(study, channel, alignment) for alignment in study.alignments]
        if changed.other_agent and (BASELINE not in channel.conditions or min(map(len, seeds)) < 2):
            raise ValueError(
                f"{key}.conditions: '{name}' reads the baseline's memory of the next seed, so the channel needs the "
                f"condition {BASELINE} and two seeds"
            )
    if channel.other_agent:
        raise ValueError(f"{key}.other_agent: is a control, set it under `memory` in a condition")


def _check_transfer(testbed: str, key: str, others: tuple[str, ...], study: Study) -> None:
    for other in others:
        if other == testbed:
            raise ValueError(f"{key}: '{other}' is the testbed of the training, which `evaluation` is for; remove it")
        if other not in study.testbeds:
            known = ", ".join(name for name in study.testbeds if name != testbed) or "none"
            raise ValueError(
                f"{key}: '{other}' is not a testbed of the study, which has {known}; add a section testbeds.{other} "
                "with its scenarios and settings"
            )
        _check_settings(other, f"testbeds.{other}.settings", evaluation(study.testbeds[other]))
    if len(set(others)) < len(others):
        raise ValueError(f"{key}: {list(others)} has a name twice")


def _check_alignment(testbed: str, where: str, section: TestbedSection, study: Study) -> None:
    methods = [alignment for alignment in alignments_on(study, testbed) if alignment != NONE]
    for model in section.alignment.models:
        if model not in study.models:
            raise ValueError(
                f"{where}.alignment.models: '{model}' is not a model of the study ({', '.join(study.models)})"
            )
        for method in section.alignment.models[model]:
            alignment_training(study, section, method, model, where)
    for alignment, model in itertools.product(methods, study.models):
        if model.startswith((SCRIPTED, OWN)):
            raise ValueError(f"alignments: '{model}' cannot be trained, allowed is {NONE}")
        if not is_aligned_here(alignment):
            continue
        aligned = alignment_training(study, section, alignment, model, where)
        for (condition, learning), key in itertools.product(section.trainings().items(), CONTINUED):
            first, later = getattr(aligned, key), getattr(learning, key)
            if first != later:
                raise ValueError(
                    f"{where}.weights.training.{key}: {later}, must be {first} as in alignment.{alignment}: "
                    f"generations of condition '{condition}' continue the weights that alignment trained"
                )
    for name, channel in section.channels.items():
        if unknown := set(getattr(channel, "seeds", ())) - set(study.alignments):
            known = ", ".join(study.alignments)
            raise ValueError(f"{where}.{name}.seeds: {sorted(unknown)} is no alignment of the study, which has {known}")
    last, trainings = alignment_rows(section)[1], section.trainings()
    if ({"dpo", "grpo"} & {*methods} or any(map(section.needs_pairs, trainings))) and section.scenarios.train < last:
        raise ValueError(
            f"{where}.scenarios.train: {section.scenarios.train}, must be at least {last}: preference pairs and "
            f"alignment use {section.alignment.scenarios} scenarios that the weights channel does not"
        )
    realigned = [name for name, training in trainings.items() if training.realign_every]
    if realigned and "dpo" not in study.alignments:
        own = section.conditions[realigned[0]].get("training", {})
        place = f"conditions.{realigned[0]}" if "realign_every" in own else "weights"
        raise ValueError(
            f"{where}.{place}.training.realign_every: needs alignment dpo, whose pairs and settings it uses, found "
            f"{', '.join(study.alignments)}"
        )
    repair = section.weights.repair_pairs if section.weights else ()
    if repair and "dpo" not in study.alignments:
        raise ValueError(f"{where}.weights.repair_pairs: needs alignment dpo, found {', '.join(study.alignments)}")
    if repair and max(repair) > section.alignment.scenarios:
        raise ValueError(
            f"{where}.weights.repair_pairs: {max(repair)}, must be at most alignment.scenarios "
            f"({section.alignment.scenarios})"
        )
    rolled_back = [name for name, training in trainings.items() if "max_violation_increase" in training.defences]
    if rolled_back and section.scenarios.train < last + PROMPTS:
        raise ValueError(
            f"{where}.scenarios.train: {section.scenarios.train}, must be at least {last + PROMPTS}: "
            f"max_violation_increase in condition '{rolled_back[0]}' needs {PROMPTS} prompts that nothing is trained on"
        )


def _check_readers(where: str, section: TestbedSection, study: Study) -> None:
    for condition in study.readers & section.conditions.keys():
        keys = section.conditions[condition]
        if keys.keys().isdisjoint(RECORDED_FROM):
            raise ValueError(
                f"{where}.conditions.{condition}: has {' or '.join(RECORDED_FROM)} on another testbed, rename one of "
                "them"
            )
        if PAYMENTS_FROM in keys:
            if section.context and section.context.samples < 2:
                raise ValueError(
                    f"{where}.context.samples: found {section.context.samples}, must be at least 2: condition "
                    f"'{condition}' is paid what the next sample earned ({PAYMENTS_FROM})"
                )
            try:
                check_pays(where.rpartition(".")[2])
            except ValueError as error:
                raise ValueError(f"{where}.conditions.{condition}.{PAYMENTS_FROM}: {error}") from None
    conditions = section.context.conditions if section.context else ()
    played = {condition: variants(section, condition) for condition in conditions}
    learning = section.weights.conditions if section.weights else ()
    agents = players(study, section.context) if section.context else []
    check_history_sources(where, section.conditions, played, learning, agents)


def check_files(path: Path | str, study: Study, root: Path) -> None:
    """Raise AtpError if a scenario file of the study at `path` is not under `root`, where its paths begin."""
    for name, section in study.testbeds.items():
        try:
            files = section.scenarios.files(find_testbed(name), root)
        except AtpError as error:
            raise AtpError(f"{path}: testbeds.{name}.{error}") from error
        for file in files:
            if not file.is_file():
                raise AtpError(f"{path}: testbeds.{name}.scenarios: no such file: '{file}'")


def check_models(path: Path | str, study: Study, models: Mapping[str, ModelSpec | None], root: Path) -> None:
    """Check the models of the study at `path` without loading them.

    Raises:
        AtpError: a folder, relative to `root`, without a whole model; a training that a model or its GPUs cannot do.
    """
    for name, spec in models.items():
        if spec is None:
            continue
        if not spec.organism:
            check_folder(spec, root)
        for testbed, section in study.testbeds.items():
            if spec.organism and name in study.models and section.weights and section.weights.transfer:
                raise AtpError(
                    f"{path}: testbeds.{testbed}.weights.transfer: '{name}' is a model organism, which is another "
                    "network on each testbed and plays no other one; use a model that plays them all, or remove the key"
                )
        for where, training in _trainings(study, name) if name in study.models else ():
            try:
                check_trainable(spec)
                training.check_processes(max(1, spec.gpus))
            except AtpError as error:
                raise AtpError(f"{path}: {where} for model '{name}': {error}") from error
            if training.method == "grpo" and spec.sampling.temperature == 0:
                raise AtpError(f"{path}: {where}: GRPO needs replies that differ, model '{name}' has temperature 0")


def _trainings(study: Study, model: str) -> Iterator[tuple[str, TrainingSettings]]:
    """Yield the key and settings of each training of a model."""
    for testbed, section in study.testbeds.items():
        for alignment in alignments_on(study, testbed):
            if is_aligned_here(alignment):
                own = alignment in study.own_alignments
                where = f"alignments.{alignment}" if own else f"testbeds.{testbed}.alignment.{alignment}"
                yield where, alignment_training(study, section, alignment, model)
        for condition, training in section.trainings().items():
            yield f"testbeds.{testbed}.weights.training of condition '{condition}'", training
