"""Neutral rounds: as long as an agent's own earlier rounds and in the same format, but about something else.

They are the control that separates the content of a history from its presence: more turns, a longer prompt, answers in
the required format.
"""

import json
from itertools import cycle, islice
from typing import NamedTuple

from atp.parsing.choices import answer_format

#: Pairs of words whose order in the alphabet a neutral round asks for; half of the time the second comes first.
_PAIRS = (
    ("maple", "willow"),
    ("river", "canyon"),
    ("copper", "silver"),
    ("violin", "guitar"),
    ("basil", "thyme"),
    ("tulip", "daisy"),
)
#: Sentences that make texts longer.
_SENTENCES = (
    "The lake is calm in the early morning.",
    "A narrow path leads along the northern shore.",
    "Most of the birds arrive in the spring.",
    "In autumn the leaves turn yellow and red.",
    "The old bridge has seven arches of stone.",
    "Clouds gather over the hills towards the evening.",
)


class ShownRound(NamedTuple):
    """The texts of an earlier round as a prompt shows it."""

    question: str
    reply: str
    feedback: str


def neutral_round(number: int, own: ShownRound) -> ShownRound:
    """Return the neutral round with a number, whose texts have about as many words as those of an agent's own round."""
    one, other = _PAIRS[number % len(_PAIRS)]
    answer = min(one, other)
    task = f"Which word comes first in the alphabet, {one} or {other}? {answer_format(one, other)}"
    texts = (task, json.dumps({"choice": answer}), f"You chose {answer}.")
    return ShownRound(*(_lengthen(text, len(each.split()), number) for text, each in zip(texts, own, strict=True)))


def _lengthen(text: str, words: int, first: int) -> str:
    """Return a text after as many sentences as bring it closest to a number of words."""
    length = len(_SENTENCES[0].split())
    count = max(0, round((words - len(text.split())) / length))
    return " ".join([*islice(cycle(_SENTENCES), first % len(_SENTENCES), first % len(_SENTENCES) + count), text])
