"""What a trained agent does right after training: does it still answer, has it changed, how far has it gone?

It is asked prompts that it does not learn from, once each. A stage whose canary fails has made nothing. One model is in
memory at a time: what is kept of each are its last hidden states along the trained agent's replies, and its output
layer.
"""

import gc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from atp.agents import ModelSpec
from atp.errors import AtpError
from atp.provenance import together
from atp.rollout import sampling_seed, tokens
from atp.training.questions import Answer, Question, ask

#: Held-out prompts asked at most; positions whose distributions are held at once.
PROMPTS, POSITIONS = 64, 256


@dataclass(frozen=True)
class _Heard:
    """What an agent's replies meant, and its last hidden states along texts: of each, those that predict a token of
    the reply or its end, [tokens + 1, width].
    """

    violations: list[bool | None]
    texts: list[tuple[str, str]]
    states: list[Any]
    output_layer: Any
    tokens: dict[str, float]

    def log_probabilities(self, states: Any) -> Any:
        """Of the next token at temperature 1: [positions, vocabulary]."""
        return self.output_layer(states.to(self.output_layer.weight.device)).float().log_softmax(dim=-1)


def canary(
    questions: Sequence[Question],
    model: ModelSpec,
    trained: Path,
    parent: Path | None,
    reference: Path | None,
    floor: float,
    seed: int,
    must_differ: bool,
) -> dict[str, float]:
    """Ask the trained agent and the reference (generation 0), and compare them.

    Args:
        parent: what the training began from; None is the model itself.
        floor: least share of valid replies.
        must_differ: from its parent.

    Returns:
        prompts, valid, violations: counts of the trained agent; reference_valid, reference_violations: of the
        reference. kl, kl_sd: mean and standard deviation over the prompts of the divergence of the trained agent from
        the reference in nats a reply: summed over the positions of its first reply to each prompt, the exact
        divergence between both distributions of the next token at temperature 1. And the tokens that asking took.

    Raises:
        AtpError: valid replies below the floor, or outputs that are the parent's.
    """
    questions = questions[:PROMPTS]
    after = _hear(model, trained, questions, seed)
    valid = sum(violation is not None for violation in after.violations)
    if valid < floor * len(questions):
        raise AtpError(
            f"{trained}: after training {valid} of {len(questions)} replies to held-out prompts are valid, "
            f"training.validity asks for {floor:.0%}; train more gently (learning_rate, epochs)"
        )
    before = _hear(model, reference, questions, seed, after.texts)
    start = before if parent == reference else _hear(model, parent, (), seed, after.texts)
    if must_differ and all(new.equal(old) for new, old in zip(after.states, start.states, strict=True)):
        raise AtpError(f"{trained}: training changed no output; raise learning_rate or epochs")
    apart = [_divergence(after, before, reply) for reply in range(len(questions))]
    if not all(math.isfinite(each) for each in apart):
        raise AtpError(f"{trained}: after training some probabilities are not finite; lower training.learning_rate")
    return {
        "prompts": float(len(questions)),
        "valid": float(valid),
        "violations": float(after.violations.count(True)),
        "reference_valid": float(len(questions) - before.violations.count(None)),
        "reference_violations": float(before.violations.count(True)),
        "kl": fmean(apart),
        "kl_sd": stdev(apart) if len(apart) > 1 else 0.0,
        **together([after.tokens, before.tokens]),
    }


def _hear(
    model: ModelSpec,
    adapter: Path | None,
    questions: Sequence[Question],
    seed: int,
    texts: Sequence[tuple[str, str]] | None = None,
) -> _Heard:
    """Ask an agent, then follow its states along texts (prompt, reply); along its own replies where none are given."""
    from atp.agents.local import load_local

    gc.collect()  # trainers and networks that are done with hold each other
    agent = load_local(model, adapter)
    answers = _ask(agent, questions, seed)
    agent.start()  # lets go of the cache
    if texts is None:
        texts = [(agent.prompt_text(answer.prompts[0]), answer.replies[0].text) for answer in answers]
    return _Heard(
        violations=[answer.turn.violation for answer in answers],
        texts=list(texts),
        states=[agent.hidden(*text).cpu() for text in texts],
        output_layer=agent.output_layer,
        tokens=tokens(reply for answer in answers for reply in answer.replies),
    )


def _ask(agent: Any, questions: Sequence[Question], seed: int) -> list[Answer]:
    """One answer to each question; the seeds are those of no rollout."""
    answers: list[Answer] = []
    for begin in range(0, len(questions), agent.batch):
        batch = questions[begin : begin + agent.batch]
        names = [f"canary|{question.scenario_id}" for question in batch]

        def seed_of(number: int, step: int, names: Sequence[str] = names) -> int:
            return sampling_seed(seed, names[number], 0, 0, 1, 0, step)

        answers += ask(agent, batch, seed_of)
    return answers


def _divergence(agent: _Heard, reference: _Heard, reply: int) -> float:
    """Nats between two agents over one reply, its end included."""
    import torch

    mine, theirs = agent.states[reply], reference.states[reply]
    total = 0.0
    with torch.inference_mode():
        for begin in range(0, len(mine), POSITIONS):
            part = slice(begin, begin + POSITIONS)
            new, old = agent.log_probabilities(mine[part]), reference.log_probabilities(theirs[part])
            total += (new.exp() * (new - old)).sum().item()
    return total
