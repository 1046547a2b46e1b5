"""How local agents decide: they draw guided answers, and weigh the answer that a free reply states.

Both engines find the same decision points; each computes the probabilities of the next token in its own way.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import exp
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from atp.agents.base import Request
from atp.agents.likelihood import BranchPoints, branch_points, find_equal, find_statement, violation_probability
from atp.errors import AtpError
from atp.models.chat import Chat
from atp.models.spec import ModelSpec
from atp.parsing.replies import THOUGHT_MARKS, closes_thought, opened_thought, opening_mark
from atp.testbed import Reply

if TYPE_CHECKING:
    from atp.agents.local import LocalAgent

#: Tokens before a continuation that are tokenized with it, so that it gets the tokens that it has behind them.
ANCHOR_TOKENS = 4
#: Tokens within which a thought begins, and in which a closing mark is searched.
MARK_TOKENS = 16


class Reader(Protocol):
    """What a question needs of an agent."""

    spec: ModelSpec
    tokenizer: Any
    chat: Chat


#: The model has a choice where its most likely token has a smaller probability than this, between tokens that have at
#: least the smallest one.
MAX_CERTAINTY, MIN_FORK = 0.95, 0.01


@dataclass(slots=True)
class Row:
    """A request that is being answered.

    `number` is its row in the cache, `cached` the number of the prompt's tokens that need no computation, and
    `uniforms` has the random number of each new token, and the one of a guided answer. `stated` and `p_violation` are
    those of its reply. `fork` is the first place in the reply where the model had a choice, and `likely` has the
    probabilities of the most likely tokens there.
    """

    number: int
    request: Request
    prompt: list[int]
    cached: int
    uniforms: np.ndarray
    written: list[int] = field(default_factory=list)
    finish: str = ""
    stated: str | None = None
    p_violation: float | None = None
    fork: int | None = None
    likely: dict[int, float] = field(default_factory=dict)

    def reply(self, text: str) -> Reply:
        """Return the reply, whose text was read from its tokens."""
        return Reply(
            text=text,
            prompt_tokens=len(self.prompt),
            cached_tokens=self.cached,
            completion_tokens=len(self.written),
            finish_reason="stop" if self.finish == "stop" else "length",
            tokens=tuple(self.written),
            stated=self.stated,
            p_violation=self.p_violation,
        )


@dataclass(frozen=True)
class DecisionPoint:
    """A row, the tokens before its answer, and the tokens of each decision's answer.

    `decision` is the one that a free reply states; None where an answer is to be drawn.
    """

    row: Row
    context: list[int]
    answers: Mapping[str, list[int]]
    decision: str | None = None

    @cached_property
    def points(self) -> BranchPoints:
        """The places where the answers part."""
        return branch_points(self.answers)

    def combine(self, shares: Sequence[Sequence[float]]) -> dict[str, float]:
        """Return the probability of each decision, from those of the next tokens at each of `points`."""
        probabilities = dict.fromkeys(self.answers, 1.0)
        for branches, values in zip(self.points.values(), shares, strict=True):
            for value, decisions in zip(values, branches.values(), strict=True):
                for decision in decisions:
                    probabilities[decision] *= value
        return probabilities

    def settle(self, probabilities: Mapping[str, float]) -> None:
        """Set the decision and the probability of a violation; draw the answer with the request's seed if need be."""
        row, decision = self.row, self.decision
        if decision is None:
            decision, total = max(probabilities, key=lambda each: probabilities[each]), 0.0
            for each, probability in probabilities.items():
                total += probability
                if row.uniforms[-1] < total:
                    decision = each
                    break
            row.written, row.finish = row.written + self.answers[decision], "stop"
        row.stated = decision
        row.p_violation = violation_probability(probabilities, row.request.prompt.observation.violations or ())


def check_guided(spec: ModelSpec, requests: Sequence[Request]) -> None:
    """Raise AtpError if guided answers are asked for and a prompt's answers are not all that there are."""
    for request in requests:
        if request.prompt.observation.violations is None:
            examples = ", ".join(repr(answer) for answer in request.prompt.observation.answers.values()) or "none"
            raise AtpError(
                f"{spec.path}: answers: guided needs a testbed with a list of all answers, this one has only examples "
                f"({examples:.120}); use answers: free"
            )


def ends_thought(agent: Reader, row: Row) -> bool:
    """Return whether a guided reply is at the end of its thought, or begins without one."""
    text = agent.tokenizer.decode(row.written[-MARK_TOKENS:], skip_special_tokens=False)
    if closes_thought(text):
        return True
    if len(row.written) > MARK_TOKENS or _opened(agent, row):
        return False
    beginning = text.lstrip().lower()
    return not any(mark.startswith(beginning) or beginning.startswith(mark) for mark in THOUGHT_MARKS)


def guided_decision(agent: Reader, row: Row) -> DecisionPoint:
    """Return the question that ends a guided reply, whose row keeps its thought. Raises AtpError for equal answers."""
    thought, texts = _guided_texts(agent, row)
    sequences = _continuations(agent.tokenizer, row.prompt + thought, list(texts.values()))
    answers = dict(zip(texts, sequences, strict=True))
    if equal := find_equal(answers):
        one, other = (row.request.prompt.observation.answers[decision] for decision in equal)
        raise AtpError(
            f"{agent.spec.path}: answers: guided: the tokenizer gives the answers {one!r:.60} and {other!r:.60} "
            "the same tokens; use other labels or answers: free"
        )
    row.written = thought
    return DecisionPoint(row, row.prompt + thought, answers)


def stated_decision(agent: Reader, row: Row) -> DecisionPoint | None:
    """Return the question that a free reply answers, if it states its decision in a known form."""
    observation = row.request.prompt.observation
    if observation.violations is None:
        return None
    text = agent.tokenizer.decode(row.written, skip_special_tokens=False)
    statement = find_statement(text, observation.answers)
    if statement is None:
        return None
    length = _tokens_before(agent.tokenizer, row.written, statement.start)
    before = agent.tokenizer.decode(row.written[:length], skip_special_tokens=False)
    context = row.prompt + row.written[:length]
    texts = [text[len(before) : statement.start] + each for each in statement.texts.values()]
    sequences = _continuations(agent.tokenizer, context, texts)
    answers = dict(zip(statement.texts, sequences, strict=True))
    if not text.startswith(before) or find_equal(answers):
        return None
    return DecisionPoint(row, context, answers, statement.decision)


def decide(agent: "LocalAgent", rows: Sequence[Row]) -> None:
    """End guided replies with their answers, and weigh the answers of free ones."""
    find = guided_decision if agent.guided else stated_decision
    decisions = [decision for row in rows if (decision := find(agent, row))]
    for decision, probabilities in zip(decisions, _probabilities(agent, decisions), strict=True):
        decision.settle(probabilities)
    if agent.spec.forks:
        _follow_forks(agent, [decision.row for decision in decisions if _fork_before_label(decision)])


def note_forks(agent: "LocalAgent", rows: Sequence[Row], logits: torch.Tensor) -> None:
    """Note in rows without a fork whether the model has a choice of the next token, and the tokens of the choice."""
    if agent.spec.sampling.temperature == 0:
        return
    likely = agent.scores(logits).softmax(dim=-1).topk(agent.spec.forks + 1)
    for row, tokens, shares in zip(rows, likely.indices.tolist(), likely.values.tolist(), strict=True):
        if row.fork is None and shares[0] < MAX_CERTAINTY:
            row.fork = len(row.written)
            row.likely = {token: share for token, share in zip(tokens, shares, strict=True) if share >= MIN_FORK}


def _fork_before_label(decision: DecisionPoint) -> bool:
    row = decision.row
    return row.fork is not None and row.fork < len(decision.context) - len(row.prompt)


def _follow_forks(agent: "LocalAgent", rows: Sequence[Row]) -> None:
    """Average the probability of a violation over the likely tokens of each reply's fork, with one continuation each.

    Whether there is a fork depends on the tokens before it alone, so the mean stays the rate. A continuation that
    states no decision does not count, as an invalid reply does not.
    """
    branches = [[row] for row in rows]
    others = [[token for token in row.likely if token != row.written[row.fork or 0]] for row in rows]
    for rank in range(agent.spec.forks):
        at = [number for number, tokens in enumerate(others) if rank < len(tokens) and tokens[rank] not in agent.stop]
        starts = [[*rows[number].written[: rows[number].fork], others[number][rank]] for number in at]
        new = [agent.branch(rows[number], start, rank + 1) for number, start in zip(at, starts, strict=True)]
        agent.resume(new)
        decisions = [decision for row in new if (decision := stated_decision(agent, row))]
        for decision, probabilities in zip(decisions, _probabilities(agent, decisions), strict=True):
            decision.settle(probabilities)
        for number, row in zip(at, new, strict=True):
            branches[number].append(row)
    for row, replies in zip(rows, branches, strict=True):
        weights = [row.likely.get(reply.written[row.fork or 0], 0.0) for reply in replies]
        weighted = [(weight, reply.p_violation) for weight, reply in zip(weights, replies, strict=True)]
        stated = [(weight, probability) for weight, probability in weighted if weight and probability is not None]
        if stated:
            row.p_violation = sum(weight * p for weight, p in stated) / sum(weight for weight, _ in stated)


def _guided_texts(agent: Reader, row: Row) -> tuple[list[int], dict[str, str]]:
    """Return the tokens of a guided reply's thought, and decision -> the text with which the reply ends."""
    observation, chat = row.request.prompt.observation, agent.chat
    thought = row.written[:-1] if row.finish == "stop" else row.written
    text = agent.tokenizer.decode(thought, skip_special_tokens=False)
    if mark := _opened(agent, row) or opening_mark(text):
        closing = "" if closes_thought(text) else f"\n{THOUGHT_MARKS[mark.lower()]}"
        end = chat.turn_end.rstrip()
        return thought, {decision: f"{closing}\n\n{each}{end}" for decision, each in observation.answers.items()}
    messages, tools = row.request.prompt.messages, row.request.prompt.tools
    return [], {
        decision: (each + chat.turn_end if chat.writes_plainly else chat.completion(messages, tools, each)).rstrip()
        for decision, each in observation.answers.items()
    }


def _opened(agent: Reader, row: Row) -> str:
    """Return the mark with which a prompt opens the reply's thought, or an empty string."""
    return opened_thought(agent.tokenizer.decode(row.prompt[-MARK_TOKENS:], skip_special_tokens=False))


def _tokens_before(tokenizer: Any, tokens: Sequence[int], end: int) -> int:
    """Return how many tokens a reply has whose text ends at a character, or before it."""

    def length(count: int) -> int:
        return len(tokenizer.decode(tokens[:count], skip_special_tokens=False))

    return bisect_right(range(len(tokens) + 1), end, key=length) - 1


def _continuations(tokenizer: Any, context: Sequence[int], texts: Sequence[str]) -> list[list[int]]:
    """Return the tokens of texts that follow a context."""
    anchor = tokenizer.decode(context[-ANCHOR_TOKENS:], skip_special_tokens=False)
    start, *wholes = tokenizer([anchor, *(anchor + text for text in texts)], add_special_tokens=False).input_ids
    if all(whole[: len(start)] == start for whole in wholes):
        return [whole[len(start) :] for whole in wholes]
    alone: list[list[int]] = tokenizer(list(texts), add_special_tokens=False).input_ids
    return alone


def _probabilities(agent: "LocalAgent", decisions: Sequence[DecisionPoint]) -> list[dict[str, float]]:
    """Return the probability of each decision, with one step on the cache for each place where answers part."""
    paths = [list(decision.points) for decision in decisions]
    shares: list[list[list[float]]] = [[] for _ in decisions]
    for step in range(max(map(len, paths), default=0)):
        still = [number for number in range(len(decisions)) if step < len(paths[number])]
        contexts = {decisions[at].row.number: [*decisions[at].context, *paths[at][step]] for at in still}
        for at, logits in zip(still, agent.compute(contexts), strict=True):
            shares[at].append(_normalise(agent, logits, list(decisions[at].points[paths[at][step]])))
    return [decision.combine(each) for decision, each in zip(decisions, shares, strict=True)]


def _normalise(agent: "LocalAgent", logits: torch.Tensor, tokens: list[int]) -> list[float]:
    """Return the probabilities with which the agent samples tokens, among these tokens."""
    if agent.spec.sampling.temperature > 0:
        scores = agent.scores(logits[None])[0, tokens]
        if torch.isfinite(scores).any():  # else top_k or top_p exclude all of them
            return normalise(scores.tolist(), 1)
    return normalise(logits[tokens].tolist(), agent.spec.sampling.temperature)


def normalise(scores: Sequence[float], temperature: float) -> list[float]:
    """Return the softmax of scores at a temperature; at 0 all of it is the first largest one's."""
    if temperature == 0:
        best = max(range(len(scores)), key=lambda place: scores[place])
        return [float(place == best) for place in range(len(scores))]
    weights = [exp((score - max(scores)) / temperature) for score in scores]
    return [weight / sum(weights) for weight in weights]
