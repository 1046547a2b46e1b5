"""The text that a model reads for a prompt's messages, the same in rollouts and in training."""

from collections.abc import Sequence
from typing import Any

from atp.models.spec import ModelSpec
from atp.testbed import Message
from atp.tools import TOOLS, schema

#: Description of a tool for a chat template without tools; the calls are format (c) of `atp/parsing/tool_calls.py`.
TOOL_TEXT = (
    "You may call {name}: {description} To call it, write its {argument} in a block like this:\n```{name}\n...\n```"
)


def rendered(tokenizer: Any, model: ModelSpec, messages: Sequence[Message], tools: Sequence[str] = ()) -> str:
    """Return a prompt rendered with the chat template, up to the beginning of the agent's reply.

    For a chat template without tools, their descriptions are in the system message and their results are the user's
    messages. Contents must not become special tokens: an agent may write `<|im_end|>` letter by letter, and other
    agents are shown its reply. Such text gets a space after its first character.

    Args:
        tools: names of the tools that the agent may call.
    """
    offered: dict[str, Any] = {}
    if tools or any(message["role"] == "tool" for message in messages):
        if "tools" in str(tokenizer.chat_template):
            offered = {"tools": [schema(name) for name in tools] or None}
        else:
            messages = _with_tool_texts(messages, tools)
    text: str = tokenizer.apply_chat_template(
        [{**message, "content": _escape(message["content"], tokenizer.all_special_tokens)} for message in messages],
        tokenize=False,
        add_generation_prompt=True,
        **offered,
        **model.chat_template,
    )
    return text


def _with_tool_texts(messages: Sequence[Message], tools: Sequence[str]) -> list[Message]:
    first, *others = messages
    tool_texts = [TOOL_TEXT.format(**vars(TOOLS[name])) for name in tools]
    later = [
        {"role": "user", "content": f"The tool says:\n{message['content']}"} if message["role"] == "tool" else message
        for message in others
    ]
    return [{**first, "content": "\n\n".join([first["content"], *tool_texts])}, *later]


def _escape(text: str, special_tokens: Sequence[str]) -> str:
    for token in special_tokens:
        if token in text:
            text = text.replace(token, f"{token[:1]} {token[1:]}")
    return text
