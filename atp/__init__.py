"""Does an aligned agent stay aligned once it learns from its own rewards?"""

import os

# Set before torch loads OpenMP: its threads spin while they wait, which takes the cores from other jobs and slows two
# threads on a busy machine down.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
