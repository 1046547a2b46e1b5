"""What the engine asks of an agent."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from atp.testbeds.base import Prompt, Reply


@dataclass(slots=True)
class Request:
    """A prompt on its way to an agent.

    conversation numbers the episode and player within the batch: requests that share it continue one conversation.
    seed decides all of the answer's randomness, whatever else is in the batch.
    """

    conversation: int
    prompt: Prompt
    seed: int


class Agent(Protocol):
    """Answers batches of requests. `start` begins a batch of episodes and forgets every earlier conversation."""

    @property
    def batch(self) -> int: ...

    def start(self) -> None: ...

    def answer(self, requests: Sequence[Request]) -> list[Reply]: ...
