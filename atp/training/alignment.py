"""Settings of alignment before deployment, in a study."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from atp.training import DpoSettings, GrpoSettings
from atp.training.sft import SftSettings
from atp.training.trainer import NO_DEFENCE


class OwnConversations(SftSettings):
    """Supervised fine-tuning on conversations of your own, with the settings of `sft`."""

    data: str = Field(description="JSON lines or Parquet, with a list of role and content in `messages`")

    @property
    def training(self) -> SftSettings:
        """The settings without the data."""
        return SftSettings(**self.model_dump(exclude={"data"}, exclude_unset=True))

    @model_validator(mode="after")
    def _check_defences(self) -> "OwnConversations":
        if self.defences:
            raise ValueError(f"{self.defences[0]}: {NO_DEFENCE}")
        return self


class OwnAlignment(BaseModel):
    """An agent of your own at generation 0. Exactly one of the keys is given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    adapter: str | None = Field(None, description="LoRA adapter of the study's model: a folder, or a name on the hub")
    model: str | None = Field(
        None, description="checkpoint of the study's model with all weights: a folder, or a name on the hub"
    )
    sft: OwnConversations | None = Field(
        None,
        description="supervised fine-tuning on conversations of your own: `data` is a file of JSON lines or Parquet "
        "with `messages`, lists of role and content that end with the assistant's; the other keys are those of `sft`",
    )

    @model_validator(mode="after")
    def _check_one(self) -> "OwnAlignment":
        names = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(names) != 1:
            raise ValueError(f"found {', '.join(names) or 'none'}, must have exactly one of adapter, model, sft")
        return self


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
