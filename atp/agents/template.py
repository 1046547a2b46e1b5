"""A prompt's messages as the text that a model reads, the same in play and in training."""

from collections.abc import Sequence
from typing import Any

from atp.agents.spec import ModelSpec
from atp.testbeds.base import Message
from atp.tools import TOOLS, schema

#: How a tool is offered where the chat template has no place for it: form (c) of `atp/testbeds/calls.py`.
IN_WORDS = (
    "You may call {name}: {description} To call it, write its {argument} in a block like this:\n```{name}\n...\n```"
)


def rendered(tokenizer: Any, model: ModelSpec, messages: Sequence[Message], tools: Sequence[str] = ()) -> str:
    """A prompt through the chat template, up to where the agent's reply begins.

    Tools are offered as the template has it; where it has no place for them, in the system's words, and what they say
    comes as a user's message. What was said must not pass for the template's own marks: an agent may write `<|im_end|>`
    letter by letter, and its peers are shown what it wrote. In contents such a mark gets a space after its first
    character.
    """
    offered: dict[str, Any] = {}
    if tools or any(message["role"] == "tool" for message in messages):
        if "tools" in str(tokenizer.chat_template):
            offered = {"tools": [schema(name) for name in tools] or None}
        else:
            messages = _in_words(messages, tools)
    text: str = tokenizer.apply_chat_template(
        [{**message, "content": _inert(message["content"], tokenizer.all_special_tokens)} for message in messages],
        tokenize=False,
        add_generation_prompt=True,
        **offered,
        **model.chat_template,
    )
    return text


def _in_words(messages: Sequence[Message], tools: Sequence[str]) -> list[Message]:
    first, *others = messages
    words = [IN_WORDS.format(**vars(TOOLS[name])) for name in tools]
    told = [
        {"role": "user", "content": f"The tool says:\n{message['content']}"} if message["role"] == "tool" else message
        for message in others
    ]
    return [{**first, "content": "\n\n".join([first["content"], *words])}, *told]


def _inert(text: str, marks: Sequence[str]) -> str:
    for mark in marks:
        if mark in text:
            text = text.replace(mark, f"{mark[:1]} {mark[1:]}")
    return text
