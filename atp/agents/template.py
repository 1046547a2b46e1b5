"""A prompt's messages as the text that a model reads, the same in play and in training."""

from collections.abc import Sequence
from typing import Any

from atp.agents.spec import ModelSpec
from atp.testbeds.base import Message


def rendered(tokenizer: Any, model: ModelSpec, messages: Sequence[Message]) -> str:
    """A prompt through the chat template, up to where the agent's reply begins.

    What was said must not pass for the template's own marks: an agent may write `<|im_end|>` letter by letter, and its
    peers are shown what it wrote. In contents such a mark gets a space after its first character.
    """
    text: str = tokenizer.apply_chat_template(
        [{**message, "content": _inert(message["content"], tokenizer.all_special_tokens)} for message in messages],
        tokenize=False,
        add_generation_prompt=True,
        **model.chat_template,
    )
    return text


def _inert(text: str, marks: Sequence[str]) -> str:
    for mark in marks:
        if mark in text:
            text = text.replace(mark, f"{mark[:1]} {mark[1:]}")
    return text
