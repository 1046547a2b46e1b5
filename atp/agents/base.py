"""The protocol of an agent, and the class that a user's own agent may extend."""

import asyncio
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
    """Answers batches of requests. A subclass defines `answer`.

    `batch` is the number of players in a batch, `max_tokens` the number of tokens after which a rollout stops.
    """

    batch: int = 64
    max_tokens: int | None = None

    def start(self) -> None:
        """Begin a batch of episodes and forget every earlier conversation."""

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        """Return one reply to each request, in their order."""
        raise NotImplementedError


class ConcurrentAgent(Agent):
    """Answers each request when it can, up to `batch` at once. A subclass defines `reply`."""

    async def reply(self, request: Request) -> Reply:
        """Return the reply to a request."""
        raise NotImplementedError

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        """Return one reply to each request, in their order."""

        async def reply_to_all() -> list[Reply]:
            return await asyncio.gather(*map(self.reply, requests))

        return asyncio.run(reply_to_all())
