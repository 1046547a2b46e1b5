"""The agent that answers GRPO's questions with tools: its later replies continue its earlier ones' own tokens.

A chat template may render an earlier reply differently from how the agent wrote it; Qwen3's changes its white space.
The loss is computed on the tokens that were sampled, so they must also be what the next reply is sampled after.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from atp.agents.base import Request
from atp.agents.local import LocalAgent
from atp.errors import AtpError
from atp.testbed import Prompt, Reply
from atp.training.trainer import REPLY_END


@dataclass
class Conversation:
    """The tokens of a conversation: its first prompt, then replies and tools' results.

    `own` is 1 for the tokens of `completion` that the agent wrote, and 0 for the others.
    """

    prompt: list[int]
    completion: list[int] = field(default_factory=list)
    own: list[int] = field(default_factory=list)
    cut_off: bool = False

    def append(self, tokens: Sequence[int], own: bool) -> None:
        self.completion += tokens
        self.own += [int(own)] * len(tokens)


class ContinuingAgent(LocalAgent):
    """A local agent that keeps the tokens of each conversation."""

    def start(self) -> None:
        super().start()
        self.conversations: dict[int, Conversation] = {}

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        replies = super().answer(requests)
        for request, reply in zip(requests, replies, strict=True):
            conversation = self.conversations[request.conversation]
            conversation.append(reply.tokens, own=True)
            conversation.cut_off = reply.finish_reason == "length"
        return replies

    def _tokens(self, requests: Sequence[Request]) -> list[list[int]]:
        new = [request for request in requests if request.conversation not in self.conversations]
        for request in requests:
            if request.conversation in self.conversations:
                conversation = self.conversations[request.conversation]
                conversation.append(self._after_reply(request.prompt, conversation.cut_off), own=False)
        if new:
            for request, tokens in zip(new, super()._tokens(new), strict=True):
                self.conversations[request.conversation] = Conversation(tokens)
        known = [self.conversations[request.conversation] for request in requests]
        return [conversation.prompt + conversation.completion for conversation in known]

    def _after_reply(self, prompt: Prompt, cut_off: bool) -> list[int]:
        """Return the tokens that a prompt adds after the agent's last reply, whose end only a cut-off reply lacks."""
        messages = list(prompt.messages)
        last = max(place for place, message in enumerate(messages) if message["role"] == "assistant")
        messages[last] = {**messages[last], "content": messages[last]["content"] + REPLY_END}
        _, found, text = self.prompt_text(replace(prompt, messages=messages)).rpartition(REPLY_END)
        if not found:
            raise AtpError("GRPO with tools needs a chat template that shows earlier replies; the model's does not")
        tokens: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        end = next((place for place, token in enumerate(tokens) if token in self.stop), None)
        return tokens if end is None else tokens[end + (not cut_off) :]
