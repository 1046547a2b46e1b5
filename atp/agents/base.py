"""The protocol of an agent, and the class that a user's own agent may extend."""

from collections.abc import Sequence
from dataclasses import dataclass

from atp.testbed import Prompt, Reply


@dataclass(slots=True)
class Request:
    """A prompt for an agent.

    Args:
        conversation: number of the episode and player within the batch: requests that share it continue one
            conversation.
        seed: decides all of the reply's randomness, whatever else is in the batch.
    """

    conversation: int
    prompt: Prompt
    seed: int


class Agent:
    """Answers batches of requests. A subclass defines `answer`; `batch` is the number of players in a batch."""

    batch: int = 64

    def start(self) -> None:
        """Begin a batch of episodes and forget every earlier conversation."""

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        """Return one reply to each request, in their order."""
        raise NotImplementedError
