"""Does an aligned agent stay aligned once it learns from its own rewards?"""

import os

# Set before torch loads OpenMP, whose threads otherwise spin while they wait and take the cores from other jobs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.2.0"
