"""Settings of alignment before deployment, in a study."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from atp.training import DpoSettings, GrpoSettings


class Alignment(BaseModel):
    """How agents are aligned before deployment, on training scenarios that deployment does not use."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    scenarios: int = Field(64, ge=1, description="training scenarios, the next ones after the weights channel's")
    retries: int = Field(8, ge=1, description="dpo: maximum number of attempts for each side of a pair")
    dpo: DpoSettings = Field(default_factory=DpoSettings, description="settings of DPO on preference pairs")
    grpo: GrpoSettings = Field(default_factory=GrpoSettings, description="settings of GRPO that rewards compliance")
    models: dict[str, dict[Literal["dpo", "grpo"], dict[str, Any]]] = Field(
        default_factory=dict, description="settings that differ for a model: model -> method -> settings"
    )
