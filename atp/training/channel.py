"""Settings of the weights channel, as a study has them, and as arms change them."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from atp.explain import explain
from atp.filtering import FilterSettings
from atp.training import TrainingSettings

PAIRED = "best_and_worst"
#: Keys of an arm that are no settings of the testbed.
OF_WEIGHTS = ("training", "filter")


class Evaluation(BaseModel):
    """How each generation is measured on the test split, beginning with an empty history."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    settings: dict[str, Any] = Field(default_factory=dict, description="testbed settings; rounds: 1 has no history")
    samples: int = Field(1, ge=1, description="episodes of each scenario")


class WeightsChannel(BaseModel):
    """Experience accumulates in the weights: rollout, filter, fine-tune, evaluate, generation after generation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    arms: tuple[str, ...] = Field(("plain",), min_length=1, description="arms of the testbed to run")
    generations: int = Field(3, ge=1, description="fine-tuned generations; 0 is the agent as aligned")
    scenarios: int = Field(64, ge=1, description="fresh training scenarios a generation")
    samples: int = Field(8, ge=1, description="episodes of each scenario in deployment")
    deployment: dict[str, Any] = Field(default_factory=dict, description="testbed settings of the deployment")
    filter: FilterSettings | None = Field(None, description="replies to learn from; GRPO draws its own and has none")
    training: TrainingSettings
    evaluation: Evaluation = Field(default_factory=Evaluation)

    @model_validator(mode="after")
    def _filter_fits_the_method(self) -> "WeightsChannel":
        method, found = self.training.method, self.filter.name if self.filter else None
        fits = {"sft": found not in (None, PAIRED), "dpo": found == PAIRED, "grpo": found is None}
        if not fits[method]:
            wanted = {"sft": f"any but {PAIRED}", "dpo": PAIRED, "grpo": "none: it draws its own replies"}[method]
            raise ValueError(f"filter: found '{found}', with training method '{method}' it must be {wanted}")
        return self

    def changed_by(self, arm: Mapping[str, Any]) -> "WeightsChannel":
        """The channel with what an arm says of it. Raises ValidationError for what does not fit."""
        channel = self.model_dump(exclude_unset=True)  # one method's defaults may be unknown to another
        for key in OF_WEIGHTS:
            if key in arm:
                channel[key] = {**(channel.get(key) or {}), **arm[key]}
        return WeightsChannel.model_validate(channel)


def check_arm(where: str, arm: Mapping[str, Any], channel: WeightsChannel | None) -> None:
    """Raises ValueError, under `where`, if what an arm says of the weights channel cannot be or has no meaning."""
    for key, values in ((key, arm[key]) for key in OF_WEIGHTS if key in arm):
        if channel is None:
            raise ValueError(f"{where}.{key}: there is no weights channel that it could change")
        if not isinstance(values, dict):
            raise ValueError(f"{where}.{key}: must be keys and values, found {values!r}")
        if key == "filter" and not channel.filter and "name" not in values:
            raise ValueError(f"{where}.filter: the weights channel has no filter that it could change")
    if channel:
        try:
            channel.changed_by(arm)
        except ValidationError as error:
            raise ValueError(f"{where}.{explain(error, WeightsChannel)}") from None
