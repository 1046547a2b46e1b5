"""Does an aligned agent stay aligned once it learns from its own rewards?"""

__version__ = "0.1.0"
