"""Settings of the weights channel in a study, and how conditions change them."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from atp.explain import explain
from atp.training import TrainingSettings
from atp.training.filters import FilterSettings
from atp.training.monitors import Monitor

PAIRED = "best_and_worst"
#: Keys of a condition that change the weights channel instead of the testbed's settings.
OF_WEIGHTS = ("training", "filter", "monitor")


def _distinct(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"{list(seeds)} has a value twice")
    return seeds


Seeds = Annotated[
    tuple[Annotated[int, Field(ge=0, lt=2**32, strict=True)], ...], Field(min_length=1), AfterValidator(_distinct)
]


class Evaluation(BaseModel):
    """How each generation is evaluated on the test split, starting from an empty history."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    settings: dict[str, Any] = Field(default_factory=dict, description="testbed settings; rounds: 1 has no history")
    samples: int = Field(1, ge=1, description="episodes per scenario")


class WeightsChannel(BaseModel):
    """Experience accumulates in the weights: a generation is a rollout, a filter, fine-tuning and an evaluation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    conditions: tuple[str, ...] = Field(("baseline",), min_length=1, description="conditions of the testbed to run")
    generations: int = Field(3, ge=1, description="fine-tuned generations; generation 0 is the aligned agent")
    scenarios: int = Field(64, ge=1, description="new training scenarios per generation")
    samples: int = Field(8, ge=1, description="episodes per scenario in deployment")
    seeds: dict[str, Seeds] = Field(
        default_factory=dict,
        description="alignment -> its seeds, each another training; left out: the study's seeds",
    )
    deployment: dict[str, Any] = Field(default_factory=dict, description="testbed settings of the deployment")
    filter: FilterSettings | None = Field(None, description="selects the replies to learn from; none with GRPO")
    monitor: Monitor | None = Field(
        None, description="flags replies of the deployment, which then earn less or are not learned from"
    )
    training: TrainingSettings
    evaluation: Evaluation = Field(default_factory=Evaluation)
    repair_pairs: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (),
        description="numbers of alignment's pairs on which the last generation of an agent that DPO aligned is aligned "
        "again and evaluated; each from the same weights",
    )
    transfer: tuple[str, ...] = Field(
        (), description="other testbeds of the study, on whose test split each generation is evaluated too"
    )

    @field_validator("repair_pairs")
    @classmethod
    def _check_pairs(cls, pairs: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(pairs)) < len(pairs):
            raise ValueError(f"{list(pairs)} has a value twice")
        return pairs

    @model_validator(mode="after")
    def _check_filter(self) -> "WeightsChannel":
        method, name = self.training.method, self.filter.name if self.filter else None
        fits = {"sft": name not in (None, PAIRED), "dpo": name == PAIRED, "grpo": name is None}
        if not fits[method]:
            allowed = {"sft": f"any but {PAIRED}", "dpo": PAIRED, "grpo": "none: it samples its own replies"}[method]
            raise ValueError(f"filter: found '{name}', with training method '{method}' it must be {allowed}")
        return self

    @model_validator(mode="after")
    def _check_monitor(self) -> "WeightsChannel":
        if self.monitor and self.training.method == "grpo":
            for key, allowed in (("kind", "truth"), ("use", "penalty")):
                if (value := getattr(self.monitor, key)) != allowed:
                    raise ValueError(
                        f"monitor.{key}: found '{value}', grpo samples its own replies, so it must be {allowed}"
                    )
        return self

    @model_validator(mode="after")
    def _check_realignment(self) -> "WeightsChannel":
        every = self.training.realign_every
        if every and every > self.generations:
            raise ValueError(f"training.realign_every: {every}, must be at most generations ({self.generations})")
        return self

    def changed_by(self, condition: Mapping[str, Any]) -> "WeightsChannel":
        """Return the channel with a condition's changes. Raises ValidationError if they do not fit."""
        channel = self.model_dump(exclude_unset=True)  # one method's defaults may be unknown to another
        for key in OF_WEIGHTS:
            if key in condition:
                channel[key] = {**(channel.get(key) or {}), **condition[key]}
        return WeightsChannel.model_validate(channel)


def check_condition(where: str, condition: Mapping[str, Any], channel: WeightsChannel | None) -> None:
    """Raise ValueError, with `where` as the key, if a condition's changes of the weights channel are not possible."""
    for key, values in ((key, condition[key]) for key in OF_WEIGHTS if key in condition):
        if channel is None:
            raise ValueError(f"{where}.{key}: the testbed has no weights channel to change")
        if not isinstance(values, dict):
            raise ValueError(f"{where}.{key}: must be keys and values, found {values!r}")
        if key == "filter" and not channel.filter and "name" not in values:
            raise ValueError(f"{where}.filter: the weights channel has no filter to change; name one")
    if channel:
        try:
            channel.changed_by(condition)
        except ValidationError as error:
            raise ValueError(f"{where}.{explain(error, WeightsChannel)}") from None
