"""The agent that answers GRPO's questions with tools: its later replies continue its earlier ones' own tokens.

A chat template may render an earlier reply differently from how the agent wrote it; Qwen3's changes its white space.
The loss is computed on the tokens that were sampled, so they must also be what the next reply is sampled after.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from atp.agents.base import Request
from atp.agents.local import LocalAgent
from atp.testbed import Prompt, Reply


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

    def _tokens(self, requests: Sequence[Request], texts: Sequence[str]) -> list[list[int]]:
        known = [request.conversation in self.conversations for request in requests]
        new = [(request, text) for request, text, old in zip(requests, texts, known, strict=True) if not old]
        for request, old in zip(requests, known, strict=True):
            if old:
                self._continue(self.conversations[request.conversation], request.prompt)
        first = super()._tokens([request for request, _ in new], [text for _, text in new]) if new else []
        for (request, _), tokens in zip(new, first, strict=True):
            self.conversations[request.conversation] = Conversation(tokens)
        conversations = [self.conversations[request.conversation] for request in requests]
        return [conversation.prompt + conversation.completion for conversation in conversations]

    def _continue(self, conversation: Conversation, prompt: Prompt) -> None:
        """Append what a prompt adds after the agent's last reply, whose end only a cut-off reply lacks."""
        added = self.chat.continuation(prompt.messages, prompt.tools)
        if conversation.cut_off:
            added = self.chat.turn_end + added
        conversation.append(self.tokenizer(added, add_special_tokens=False).input_ids, own=False)
