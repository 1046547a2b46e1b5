"""What a trained agent does right after training: does it still answer, has it changed, how far has it gone?

It is asked the held-out prompts once each. A stage whose canary fails has made nothing.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from atp.agents import ModelSpec, Request
from atp.errors import AtpError
from atp.rollout import sampling_seed
from atp.testbeds.base import Reply
from atp.training.questions import Question

#: Held-out prompts asked at most; positions whose distributions are held at once.
PROMPTS, POSITIONS = 64, 256


def canary(
    questions: Sequence[Question],
    model: ModelSpec,
    trained: Path,
    parent: Path | None,
    reference: Path | None,
    floor: float,
    seed: int,
) -> dict[str, float]:
    """Ask the trained agent and the reference (generation 0), and compare them.

    Args:
        parent: what the training began from; None is the model itself.
        floor: least share of valid replies.

    Returns:
        prompts, valid, violations: counts of the trained agent; reference_valid, reference_violations: of the
        reference. kl, kl_sd: mean and standard deviation over the prompts of the divergence of the trained agent from
        the reference in nats a reply: summed over the positions of its reply, the exact divergence between both
        distributions of the next token at temperature 1.

    Raises:
        AtpError: valid replies below the floor, or outputs that are the parent's.
    """
    from atp.agents.local import load_local

    questions = questions[:PROMPTS]
    agent = load_local(model, trained)
    replies = _ask(agent, questions, seed)
    turns = [question.judge(reply.text) for question, reply in zip(questions, replies, strict=True)]
    valid = sum(turn.violation is not None for turn in turns)
    if valid < floor * len(questions):
        raise AtpError(
            f"{trained}: after training {valid} of {len(questions)} replies to held-out prompts are valid, "
            f"training.validity asks for {floor:.0%}; train more gently (learning_rate, epochs)"
        )
    texts = [
        (agent.prompt_text(question.prompt.messages), reply.text)
        for question, reply in zip(questions, replies, strict=True)
    ]
    first = load_local(model, reference)
    start = first if parent == reference else load_local(model, parent)
    if all(_same(agent, start, *text) for text in texts):
        raise AtpError(f"{trained}: training changed no output; raise learning_rate or epochs")
    before = _ask(first, questions, seed)
    held = [question.judge(reply.text).violation for question, reply in zip(questions, before, strict=True)]
    apart = [_divergence(agent, first, *text) for text in texts]
    if not all(math.isfinite(each) for each in apart):
        raise AtpError(f"{trained}: after training some probabilities are not finite; lower training.learning_rate")
    return {
        "prompts": float(len(questions)),
        "valid": float(valid),
        "violations": float(sum(turn.violation is True for turn in turns)),
        "reference_valid": float(sum(violation is not None for violation in held)),
        "reference_violations": float(sum(violation is True for violation in held)),
        "kl": fmean(apart),
        "kl_sd": stdev(apart) if len(apart) > 1 else 0.0,
    }


def _ask(agent: Any, questions: Sequence[Question], seed: int) -> list[Reply]:
    """One reply to each question; the seeds are those of no rollout."""
    replies: list[Reply] = []
    for begin in range(0, len(questions), agent.batch):
        batch = questions[begin : begin + agent.batch]
        agent.start()
        replies += agent.answer(
            [
                Request(number, question.prompt, sampling_seed(seed, f"canary|{question.scenario_id}", 0, 0, 1, 0))
                for number, question in enumerate(batch)
            ]
        )
    return replies


def _same(one: Any, other: Any, prompt: str, reply: str) -> bool:
    import torch

    return torch.equal(one.hidden(prompt, reply), other.hidden(prompt, reply))


def _divergence(agent: Any, reference: Any, prompt: str, reply: str) -> float:
    """Nats between two agents over one reply, its end included."""
    import torch

    total = 0.0
    mine, theirs = agent.hidden(prompt, reply), reference.hidden(prompt, reply)
    with torch.inference_mode():
        for begin in range(0, len(mine), POSITIONS):
            part = slice(begin, begin + POSITIONS)
            new, old = (each.scores(states[part]) for each, states in ((agent, mine), (reference, theirs)))
            total += (new.exp() * (new - old)).sum().item()
    return total
