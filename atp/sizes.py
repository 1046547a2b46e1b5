"""How large the rollouts and trainings of a study are, before anything runs, and how many shards a rollout has."""

import math
from typing import Any, Literal

from atp.agents.spec import ModelSpec
from atp.config import Study, TestbedSection, deployment, evaluation, variants
from atp.filtering import PositiveAdvantage, Threshold, TopK
from atp.scenarios.stage import TEST
from atp.testbeds import TESTBEDS
from atp.training import GrpoSettings, TrainingSettings

Kind = Literal["context", "deployment", "evaluation"]

#: Batches of a shard: with models of 8 billion parameters about an hour, beside which a job's start is short.
SHARD_BATCHES = 32


def episodes(section: TestbedSection, arm: str, kind: Kind) -> int:
    """Episodes of one rollout. A release is taken for as many scenarios as templates give: nobody counted it yet."""
    each, played = _rollout(section, arm, kind)
    return each * len(played)


def decisions(testbed: str, section: TestbedSection, arm: str, kind: Kind) -> int:
    """Turns of one rollout, as far as settings tell."""
    each, played = _rollout(section, arm, kind)
    return each * sum(TESTBEDS[testbed].settings(**values).turns for values in played)


def _rollout(section: TestbedSection, arm: str, kind: Kind) -> tuple[int, list[dict[str, Any]]]:
    """Episodes of each variant of a rollout, and the variants' testbed settings."""
    test = section.scenarios.test or TEST
    if kind == "context":
        assert section.context
        return test * section.context.samples, list(variants(section, arm).values())
    assert section.weights
    if kind == "evaluation":
        return test * section.weights.evaluation.samples, [evaluation(section)]
    return section.weights.scenarios * section.weights.samples, [deployment(section, arm)]


def seen(testbed: str, section: TestbedSection, arm: str) -> int:
    """Decisions of a deployment that a filter sees: not those that only tested the agent."""
    assert section.weights
    return section.weights.samples * _questions(testbed, section, arm)


def examples(testbed: str, section: TestbedSection, arm: str) -> int:
    """What a generation learns from, if its filter keeps all that it can: replies, pairs, or for GRPO questions; and
    beside them the pairs that an arm replays, as `replayed` in `atp/training/examples.py` counts them.
    """
    learning = section.learning(arm)
    match learning.filter:
        case TopK() as chosen:
            each = min(chosen.k, learning.samples)
        case Threshold() | PositiveAdvantage():
            each = learning.samples
        case _:
            each = 1
    kept, share = each * _questions(testbed, section, arm), getattr(learning.training, "replay", 0.0)
    return kept + round(kept * share / (1 - share))


def _questions(testbed: str, section: TestbedSection, arm: str) -> int:
    """Questions of a deployment, each of which has as many samples as its scenarios."""
    assert section.weights
    return section.weights.scenarios * TESTBEDS[testbed].settings(**deployment(section, arm)).lived


def steps(training: TrainingSettings, count: int) -> int:
    """Steps of a training on so many examples, as the trainers count them: GRPO leaves out what fills no whole step."""
    if isinstance(training, GrpoSettings):
        return math.ceil(training.epochs * max(1, count * training.generations // training.batch))
    return math.ceil(training.epochs * math.ceil(count / training.batch))


def shards(study: Study, spec: ModelSpec | None, count: int) -> int:
    """Shards of a rollout of `count` episodes. By itself only a model that needs a GPU is split."""
    if study.shards != "auto":
        return study.shards
    if spec is None or not spec.gpus:
        return 1
    return math.ceil(count / (SHARD_BATCHES * spec.batch))
