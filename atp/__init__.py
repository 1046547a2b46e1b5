"""Does an aligned agent stay aligned once it learns from its own rewards?"""

import os

# Set before torch loads OpenMP, whose threads otherwise spin while they wait and take the cores from other jobs. A
# short spin (of libgomp) decodes a small model faster on a quiet machine and hardly slower on a busy one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

__version__ = "0.2.0"
