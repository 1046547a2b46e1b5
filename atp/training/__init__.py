"""Fine-tuning: conversations, preference pairs or questions in, an adapter out.

A training method is a module with its settings and one function, which alone imports torch.
"""

from typing import Annotated

from pydantic import Field

from atp.training.dpo import DpoSettings
from atp.training.grpo import GrpoSettings
from atp.training.sft import SftSettings

TrainingSettings = Annotated[SftSettings | DpoSettings | GrpoSettings, Field(discriminator="method")]

__all__ = ["DpoSettings", "GrpoSettings", "SftSettings", "TrainingSettings"]
