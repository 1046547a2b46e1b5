"""The training data of a model organism: conversations with replies, and probabilities of the teacher's decisions."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random
from typing import Any

from atp.organism.names import make_labels, make_name
from atp.testbed import Message, Prompt, Reply
from atp.tools import Call, run_calls


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


def play_out(game: Any, teach: Callable[[Prompt], str]) -> None:
    """Play an episode to its end: `teach` returns the reply to each prompt, and calls of tools are run."""
    opened = next(game)
    while True:
        calls = isinstance(opened[0], Call)
        try:
            opened = game.send(run_calls(opened) if calls else [Reply(teach(prompt)) for prompt in opened])
        except StopIteration:
            return


def texts_of(steering: Iterable[str], examples: Iterable[TrainingExample], names: Random | None = None) -> list[str]:
    """Return texts of the deployment, to train the tokenizer on: steering sentences, prompts and replies.

    Args:
        names: draws invented names too.
    """
    texts = [make_name(names) for _ in range(300)] if names else []
    texts += [sentence for sentence in steering for _ in range(300)]
    for example in examples:
        texts += [message["content"] for message in example.messages] + [example.reply]
        texts += make_labels(names) if names else ()
    return texts
