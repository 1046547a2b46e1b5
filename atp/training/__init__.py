"""Fine-tuning: replies, pairs or questions go in, an adapter comes out.

A training method is a module with its settings and one function; it imports torch only inside that function.
"""

from typing import Annotated

from pydantic import Field

from atp.training.dpo import DpoSettings
from atp.training.grpo import GrpoSettings
from atp.training.sft import SftSettings

TrainingSettings = Annotated[SftSettings | DpoSettings | GrpoSettings, Field(discriminator="method")]

__all__ = ["DpoSettings", "GrpoSettings", "SftSettings", "TrainingSettings"]
