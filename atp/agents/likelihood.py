"""The probability of each of a testbed's answers at the place where a reply decides (docs/measures.md).

Answers compete token by token: where their tokens part, the probabilities of the next token are normalised among the
answers' own, and an answer's probability is the product over these places. Tokens that all remaining answers share cost
nothing, so neither a label's length nor its number of tokens matters.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, takewhile
from math import exp

from atp.parsing.replies import find_answer

#: Most signs between the words of an answer: quotes, colons, spaces, line breaks.
MAX_SIGNS = 12
#: Characters of the reply behind its label that are kept, in which a label ends that is the beginning of another one.
MAX_REST_CHARS = 16

#: Tokens that all remaining answers share -> next token -> the decisions that continue with it.
BranchPoints = dict[tuple[int, ...], dict[int, list[str]]]


@dataclass(frozen=True)
class Statement:
    """Where a reply states its decision.

    Args:
        decision: the decision that it states.
        start: index of the label's first character in the reply.
        texts: decision -> the reply's text from `start` on, with this decision's label in place of its own.
    """

    decision: str
    start: int
    texts: Mapping[str, str]


def find_statement(text: str, answers: Mapping[str, str]) -> Statement | None:
    """Return the first statement of a decision in a reply, outside its thought.

    A statement consists of the words that all answers begin with, such as `choice`, and a label: the part in which the
    answers differ. None if there is no statement of this form, or if statements have different labels.

    Args:
        text: the reply as the model wrote it.
        answers: decision -> a reply that states it.
    """
    begin = find_answer(text)
    pattern, labels = _form(tuple(answers.values()))
    matches = [*pattern.finditer(text[begin:])]
    if len({match["label"].casefold() for match in matches}) != 1:
        return None
    match = matches[0]
    stated, rest = match["label"], text[begin + match.end() :][:MAX_REST_CHARS]
    for spell in (str, str.lower, str.upper):
        spelled = dict(zip(answers, map(spell, labels), strict=True))
        for decision, label in spelled.items():
            if label == stated:
                texts = {each: label + rest for each, label in spelled.items()}
                return Statement(decision, begin + match.start("label"), texts)
    return None


@lru_cache(maxsize=4096)
def _form(answers: tuple[str, ...]) -> tuple[re.Pattern[str], list[str]]:
    """Return a pattern of the words before a label and the label, and each answer's label."""
    before = re.sub(r"\w+\Z", "", _common_start(answers))
    ends = [answer[len(before) :][::-1] for answer in answers]
    after = re.sub(r"\w+\Z", "", _common_start(ends))
    shared = re.match(r"[\w\s]*", after[::-1])  # labels such as "North Road" and "South Road" are stated whole
    labels = [end[len(after) :][::-1] + (shared[0] if shared else "") for end in ends]
    signs = rf"\W{{1,{MAX_SIGNS}}}"
    words = [rf"{re.escape(word)}{signs}" for word in re.findall(r"\w+", before)]
    label = "|".join(map(re.escape, sorted(labels, key=len, reverse=True)))
    opening = "".join([r"(?<!\w)", *words]) if words else r"\A\W*"
    return re.compile(rf"{opening}(?P<label>{label})(?=[ \t]*(?:[^\w\s]|\n|\Z))", re.IGNORECASE), labels


def _common_start(texts: Sequence[str]) -> str:
    """Return the longest text with which all texts begin."""
    return "".join(signs[0] for signs in takewhile(lambda signs: len({*signs}) == 1, zip(*texts, strict=False)))


def find_equal(answers: Mapping[str, Sequence[int]]) -> tuple[str, str] | None:
    """Return two decisions that tokens cannot tell apart: one answer's are the beginning of the other's."""
    ordered = sorted(answers, key=lambda decision: (*answers[decision],))
    for one, other in pairwise(ordered):
        if [*answers[other][: len(answers[one])]] == [*answers[one]]:
            return one, other
    return None


def branch_points(answers: Mapping[str, Sequence[int]]) -> BranchPoints:
    """Return the places where answers part.

    Args:
        answers: decision -> tokens, none of which are the beginning of another answer's.
    """
    points: BranchPoints = {}
    for decision, tokens in answers.items():
        for place, token in enumerate(tokens):
            points.setdefault((*tokens[:place],), {}).setdefault(token, []).append(decision)
    return {path: branches for path, branches in points.items() if len(branches) > 1}


def weigh_tokens(
    tokens: Sequence[tuple[str, Mapping[str, float]]], answers: Mapping[str, str], temperature: float
) -> tuple[str, dict[str, float]] | None:
    """Return the decision that a reply states and the probability of each one, from the most likely tokens' alone.

    The probabilities are those at the first token that differs between labels. None if the reply states no decision in
    a known form, or if a label's token is not among the most likely ones there.

    Args:
        tokens: of the reply: its text, and the log-probabilities at temperature 1 of the most likely tokens there.
        answers: decision -> a reply that states it.
        temperature: of the agent's sampling. `top_p` and `top_k` cannot be applied.
    """
    text = "".join(token for token, _ in tokens)
    statement = find_statement(text, answers)
    if statement is None:
        return None
    replies = {decision: text[: statement.start] + rest for decision, rest in statement.texts.items()}
    start = 0
    for token, likely in tokens:
        rests = {decision: reply[start:] for decision, reply in replies.items()}
        start += len(token)
        if start <= statement.start or all(rest.startswith(token) for rest in rests.values()):
            continue
        scores: dict[str, list[float]] = {decision: [] for decision in answers}
        for other, logprob in likely.items():
            matches = [decision for decision, rest in rests.items() if other and rest.startswith(other)]
            if len(matches) == 1:
                scores[matches[0]].append(logprob)
        if not all(scores.values()):
            return None
        best = {decision: max(logprobs) for decision, logprobs in scores.items()}
        top = max(best.values())
        if temperature == 0:
            weights = {decision: float(score == top) for decision, score in best.items()}
        else:
            weights = {decision: exp((score - top) / temperature) for decision, score in best.items()}
        total = sum(weights.values())
        return statement.decision, {decision: weight / total for decision, weight in weights.items()}
    return None


def violation_probability(probabilities: Mapping[str, float], violations: Collection[str]) -> float:
    """Return the probability of the decisions that are violations."""
    return sum((probabilities[decision] for decision in probabilities if decision in violations), 0.0)
