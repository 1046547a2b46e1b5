"""Compute the sizes of a study's rollouts and trainings before anything runs, and the number of shards of a rollout."""

import math

from atp.models.spec import ModelSpec
from atp.rollout.engine import RolloutJob
from atp.scenarios.sources import DEFAULT_TEST
from atp.study.study import Study, TestbedSection
from atp.training import GrpoSettings, TrainingSettings
from atp.training.channel import WeightsChannel
from atp.training.examples import rehearsed

#: Batches per shard: about an hour with models of 8 billion parameters, so the start of a job takes little of it.
SHARD_BATCHES = 32
#: Rules that write the turns of whole rollouts.
WHOLE = ("rollout", "transplant", "deploy", "evaluate", "transfer", "memory_rollout", "memory_evaluation")


def episodes(job: RolloutJob, section: TestbedSection) -> int:
    """Return the episodes of a whole rollout. A release whose scenarios are not counted counts as TEST scenarios."""
    scenarios = job.limit[1] - job.limit[0] if job.limit else section.scenarios.test or DEFAULT_TEST
    return scenarios * job.samples * len(job.variants)


def examples(learning: WeightsChannel, questions: int) -> int:
    """Return the maximum number of examples of a generation: replies, pairs, or for GRPO questions.

    They include the pairs that a condition rehearses, unless those take the place of others.
    """
    selected = questions * (learning.filter.most_selected(learning.samples) if learning.filter else 1)
    training = learning.training
    if isinstance(training, GrpoSettings) or training.rehearsal_replaces:
        return selected
    return selected + rehearsed(selected, training.rehearsal, replaces=False)


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
