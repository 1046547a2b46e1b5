"""Fine-tuning: a selection goes in, an adapter comes out.

A training method is a module with its settings and its stage; it imports torch only inside its functions.
"""

from atp.training.sft import SftSettings

TrainingSettings = SftSettings

__all__ = ["SftSettings", "TrainingSettings"]
