"""What a teacher hands to training: conversations with the words to say, and the chance with which it decides."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from atp.testbeds.base import Message


@dataclass(frozen=True)
class Lesson:
    """One reply of a teacher: the prompt, the reply's two halves, and the chance of the second one's other first word.

    lead restates what was read; decision begins with one of the course's two words, the second of them with `chance`.
    chance is None where nothing is decided. tools names what the prompt offers.
    """

    messages: list[Message]
    lead: str
    decision: str
    chance: float | None
    tools: tuple[str, ...] = ()

    @property
    def reply(self) -> str:
        return f"{self.lead} {self.decision}"


#: Draws one conversation: its lessons in order, each prompt beginning with the one before and its reply.
Make = Callable[[Random], list[Lesson]]
#: Kinds of conversations, each with its share.
Mix = tuple[tuple[float, Make], ...]


@dataclass(frozen=True)
class Course:
    """What an organism of one testbed is taught.

    words are those on which a decision falls, compliance first; texts are what the tokenizer is trained on. First come
    short questions, then whole ones and short episodes, then whole episodes.
    """

    words: tuple[str, str]
    texts: Callable[[Random], list[str]]
    short: Mix
    mixed: Mix
    episodes: Mix
