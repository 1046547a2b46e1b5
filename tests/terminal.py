"""What `atp ARGUMENTS` does in a test: its exit code and what it prints (fixture `atp`)."""

from collections.abc import Callable
from typing import NamedTuple


class Result(NamedTuple):
    code: int
    out: str
    error: str


Atp = Callable[..., Result]
