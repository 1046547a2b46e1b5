"""The training data of a model organism: conversations with replies, and probabilities of the teacher's decisions."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from atp.testbed import Message


@dataclass(frozen=True)
class TrainingExample:
    """One prompt and the teacher's reply: `lead` restates what the prompt says, `decision` states the decision.

    decision begins with one of the curriculum's two words. probability is that of the second one, a violation; it is
    None for a reply without a decision. tools names the tools that the prompt offers.
    """

    messages: list[Message]
    lead: str
    decision: str
    probability: float | None
    tools: tuple[str, ...] = ()

    @property
    def reply(self) -> str:
        return f"{self.lead} {self.decision}"


#: Draws one conversation: its examples in order, whose prompts begin with the previous prompt and reply.
Draw = Callable[[Random], list[TrainingExample]]
#: Kinds of conversations, each with its proportion.
Mixture = tuple[tuple[float, Draw], ...]


@dataclass(frozen=True)
class Curriculum:
    """The training of a testbed's organism: short prompts, then whole prompts and short episodes, then whole episodes.

    words begin a decision, the complying one first. texts draws the texts that the tokenizer is trained on.
    """

    words: tuple[str, str]
    texts: Callable[[Random], list[str]]
    short: Mixture
    mixed: Mixture
    episodes: Mixture
