"""How large the rollouts of a study are, before anything runs, and into how many shards each is split."""

import math
from typing import Literal

from atp.agents.spec import ModelSpec
from atp.config import Study, TestbedSection, variants
from atp.scenarios.stage import TEST

Kind = Literal["context", "deployment", "evaluation"]

#: Batches of a shard: with models of 8 billion parameters about an hour, beside which a job's start is short.
SHARD_BATCHES = 32


def episodes(section: TestbedSection, arm: str, kind: Kind) -> int:
    """Episodes of one rollout. A release is taken for as many scenarios as templates give: nobody counted it yet."""
    if kind == "deployment":
        assert section.weights
        return section.weights.scenarios * section.weights.samples
    test = section.scenarios.test or TEST
    if kind == "evaluation":
        assert section.weights
        return test * section.weights.evaluation.samples
    assert section.context
    return test * section.context.samples * len(variants(section, arm))


def shards(study: Study, spec: ModelSpec | None, count: int) -> int:
    """Shards of a rollout of `count` episodes. By itself only a model that needs a GPU is split."""
    if study.shards != "auto":
        return study.shards
    if spec is None or not spec.gpus:
        return 1
    return math.ceil(count / (SHARD_BATCHES * spec.batch))
