"""Compute the sizes of a study's rollouts and trainings before anything runs, and the number of shards of a rollout."""

import math
from typing import Any, Literal

from atp.models.spec import ModelSpec
from atp.registry import find_testbed
from atp.scenarios.sources import DEFAULT_TEST
from atp.study.study import Study, TestbedSection, deployment, evaluation, variants
from atp.training import GrpoSettings, TrainingSettings

Kind = Literal["context", "deployment", "evaluation"]

#: Batches per shard: about an hour with models of 8 billion parameters, so the start of a job takes little of it.
SHARD_BATCHES = 32


def episodes(section: TestbedSection, condition: str, kind: Kind) -> int:
    """Return the episodes of one rollout. A release whose scenarios are not counted counts as TEST scenarios."""
    per_variant, settings = _rollout(section, condition, kind)
    return per_variant * len(settings)


def decisions(testbed: str, section: TestbedSection, condition: str, kind: Kind) -> int:
    """Return the turns of one rollout, as far as settings decide them."""
    per_variant, settings = _rollout(section, condition, kind)
    return per_variant * sum(find_testbed(testbed).settings(**values).turns for values in settings)


def _rollout(section: TestbedSection, condition: str, kind: Kind) -> tuple[int, list[dict[str, Any]]]:
    """Return the episodes of each variant of a rollout, and the variants' testbed settings."""
    test = section.scenarios.test or DEFAULT_TEST
    if kind == "context":
        assert section.context
        return test * section.context.samples, list(variants(section, condition).values())
    assert section.weights
    if kind == "evaluation":
        return test * section.weights.evaluation.samples, [evaluation(section)]
    return section.weights.scenarios * section.weights.samples, [deployment(section, condition)]


def seen(testbed: str, section: TestbedSection, condition: str) -> int:
    """Return the decisions of a deployment that a filter sees: those that the agent can learn from."""
    assert section.weights
    return section.weights.samples * _questions(testbed, section, condition)


def examples(testbed: str, section: TestbedSection, condition: str) -> int:
    """Return the maximum number of examples of a generation: replies, pairs, or for GRPO questions.

    They include the pairs that a condition rehearses, as counted by `sample_rehearsal` in `atp.training.examples`.
    """
    learning = section.learning(condition)
    per_question = learning.filter.most_selected(learning.samples) if learning.filter else 1
    selected = per_question * _questions(testbed, section, condition)
    rehearsal: float = getattr(learning.training, "rehearsal", 0.0)
    return selected + round(selected * rehearsal / (1 - rehearsal))


def _questions(testbed: str, section: TestbedSection, condition: str) -> int:
    """Return the questions of a deployment; each has as many samples as its scenario."""
    assert section.weights
    return section.weights.scenarios * find_testbed(testbed).settings(**deployment(section, condition)).learnable_turns


def steps(training: TrainingSettings, count: int, gpus: int) -> int:
    """Return the steps of a training on `count` examples, as TRL counts them. GRPO skips an incomplete last batch."""
    batch, limit = training.effective_batch(max(1, gpus)), training.further.get("max_steps", -1)
    if limit > 0:
        return limit
    if isinstance(training, GrpoSettings):
        replies = training.generation_batch(max(1, gpus))
        samplings = max(1, count * training.num_generations // replies)
        passes = training.further.get("num_iterations", 1)
        return math.ceil(training.num_train_epochs * (samplings * passes * replies // batch))
    return math.ceil(training.num_train_epochs * math.ceil(count / batch))


def shards(study: Study, spec: ModelSpec | None, count: int) -> int:
    """Return the shards of a rollout of `count` episodes. By default only rollouts on a GPU are split."""
    if study.shards != "auto":
        return study.shards
    if spec is None or not spec.gpus:
        return 1
    return math.ceil(count / (SHARD_BATCHES * spec.batch))
