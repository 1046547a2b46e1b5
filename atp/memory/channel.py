"""Settings of the memory channel in a study, and how conditions change them."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError

from atp.explain import explain
from atp.memory.recall import Recall
from atp.rollout.yoked import check_pays
from atp.training.channel import Evaluation, Seeds

#: Key of a condition that changes the memory channel instead of the testbed's settings.
MEMORY = "memory"
OTHER_AGENT = "other_agent"


class MemoryChannel(Recall):
    """Experience accumulates in a memory: a generation is a rollout that is remembered, and an evaluation."""

    conditions: tuple[str, ...] = Field(("baseline",), min_length=1, description="conditions of the testbed to run")
    generations: int = Field(3, ge=1, description="generations with a memory; generation 0 has none yet")
    scenarios: int = Field(8, ge=1, description="new training scenarios per generation, and agent of a pool")
    samples: int = Field(1, ge=1, description="episodes per scenario in deployment")
    seeds: dict[str, Seeds] = Field(
        default_factory=dict,
        description="alignment -> its seeds, each another memory; left out: the study's seeds",
    )
    pool: int = Field(
        1,
        ge=1,
        description="agents that share one memory; each is deployed on scenarios of its own and meets no other",
    )
    deployment: dict[str, Any] = Field(default_factory=dict, description="testbed settings of the deployment")
    evaluation: Evaluation = Field(default_factory=Evaluation)
    shuffled_pay: bool = Field(
        False, description="control: the pays of a generation's episodes change places in the memory"
    )
    compliant_only: bool = Field(False, description="control: only episodes without a violation are remembered")
    other_agent: bool = Field(
        False, description="control: evaluated with the baseline's memory of the next seed; nothing is deployed"
    )

    @property
    def recall(self) -> Recall:
        """What prompts show of the memory."""
        return Recall(**self.model_dump(include=set(Recall.model_fields)))

    def changed_by(self, condition: Mapping[str, Any]) -> "MemoryChannel":
        """Return the channel with a condition's changes. Raises ValidationError if they do not fit."""
        return type(self).model_validate({**self.model_dump(exclude_unset=True), **condition.get(MEMORY, {})})


#: Settings that all conditions share, because their generations are compared with each other.
SHARED = ("conditions", "generations", "seeds", "evaluation")


def check_memory_condition(
    where: str, testbed: str, condition: Mapping[str, Any], channel: MemoryChannel | None
) -> None:
    """Raise ValueError, with `where` as the key, if a condition's changes of the memory channel are not possible."""
    if MEMORY not in condition:
        return
    values, key = condition[MEMORY], f"{where}.{MEMORY}"
    if channel is None:
        raise ValueError(f"{key}: the testbed has no memory channel to change")
    if not isinstance(values, dict):
        raise ValueError(f"{key}: must be keys and values, found {values!r}")
    if shared := [name for name in SHARED if name in values]:
        raise ValueError(f"{key}.{shared[0]}: is the same for all conditions, set it in the testbed's `memory`")
    if values.get(OTHER_AGENT) and len(values) > 1:
        raise ValueError(f"{key}: with {OTHER_AGENT} the memory is the baseline's, remove the other keys")
    try:
        changed = channel.changed_by(condition)
    except ValidationError as error:
        raise ValueError(f"{key}.{explain(error, MemoryChannel)}") from None
    if changed.shuffled_pay:
        try:
            check_pays(testbed)
        except ValueError as error:
            raise ValueError(f"{key}.shuffled_pay: {error}") from None
