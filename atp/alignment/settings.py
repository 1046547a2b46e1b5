"""Settings of alignment before deployment, as a study has them."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from atp.training import DpoSettings, GrpoSettings


class Alignment(BaseModel):
    """How agents are prepared before deployment, on training scenarios that deployment does not use."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    scenarios: int = Field(64, ge=1, description="training scenarios, after those of the weights channel")
    retries: int = Field(8, ge=1, description="for dpo: how often each side of a pair is asked at most")
    dpo: DpoSettings = Field(default_factory=DpoSettings, description="settings of DPO on the pairs")
    grpo: GrpoSettings = Field(default_factory=GrpoSettings, description="settings of GRPO that pays for compliance")
    models: dict[str, dict[Literal["dpo", "grpo"], dict[str, Any]]] = Field(
        default_factory=dict, description="settings that a model needs otherwise: model -> method -> settings"
    )
