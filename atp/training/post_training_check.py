"""Check an agent right after training: whether it still answers, whether it changed, and how far it moved.

The check asks prompts that no training uses, once each. A training whose check fails yields no agent. One model is in
memory at a time: the check keeps its output layer, and its last hidden states along the trained agent's replies.
"""

import gc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from atp.errors import AtpError
from atp.files.provenance import together
from atp.models.spec import ModelSpec
from atp.rollout.branching import Answer, Question, ask
from atp.rollout.seeds import sampling_seed
from atp.rollout.table import count_tokens
from atp.training.run import TrainingFiles, TrainingJob

#: Maximum number of prompts; number of positions whose distributions are in memory at once.
PROMPTS, POSITIONS = 64, 256


@dataclass(frozen=True)
class _Outcome:
    """An agent's answers, and its last hidden states along conversations, which are the tokens of a prompt and of a
    reply: of each, those at the positions that predict the reply's tokens, [tokens, width].
    """

    violations: list[bool | None]
    conversations: list[tuple[list[int], list[int]]]
    states: list[Any]
    output_layer: Any
    tokens: dict[str, float]

    def log_probabilities(self, states: Any) -> Any:
        """Return log-probabilities of the next token at temperature 1: [positions, vocabulary]."""
        return self.output_layer(states.to(self.output_layer.weight.device)).float().log_softmax(dim=-1)


def check_after_training(
    job: TrainingJob,
    questions: Sequence[Question],
    trained: Path,
    files: TrainingFiles,
    min_valid: float,
    must_differ: bool,
) -> dict[str, float]:
    """Ask the trained agent and the reference (generation 0) the same prompts, and compare them.

    Args:
        files: the parent from which the training started, and generation 0's weights; None is the model.
        min_valid: minimum proportion of valid replies.
        must_differ: whether the trained agent must differ from its parent.

    Returns:
        prompts, valid, violations: counts of the trained agent. reference_valid, reference_violations: counts of the
        reference. kl, kl_sd: mean and standard deviation over the prompts of the divergence of the trained agent from
        the reference in nats a reply: the exact KL divergence of the next token's distribution at temperature 1, summed
        over the positions of the first reply. And the tokens of all these prompts and replies.

    Raises:
        AtpError: too few valid replies, the same outputs as the parent's, or probabilities that are not finite.
    """
    questions, model, seed, parent = questions[:PROMPTS], job.model, job.cell.seed, files.parent
    reference = files.reference
    after = _evaluate(model, trained, questions, seed)
    valid = sum(violation is not None for violation in after.violations)
    if valid < min_valid * len(questions):
        raise AtpError(
            f"{trained}: after training {valid} of {len(questions)} replies to held-out prompts are valid, "
            f"training.validity requires {min_valid:.0%}; lower training.learning_rate or num_train_epochs"
        )
    before = _evaluate(model, reference, questions, seed, after.conversations)
    start = before if parent == reference else _evaluate(model, parent, (), seed, after.conversations)
    if must_differ and all(new.equal(old) for new, old in zip(after.states, start.states, strict=True)):
        raise AtpError(f"{trained}: training changed no output; raise training.learning_rate or num_train_epochs")
    divergences = [_divergence(after, before, reply) for reply in range(len(questions))]
    if not all(math.isfinite(each) for each in divergences):
        raise AtpError(f"{trained}: after training some probabilities are not finite; lower training.learning_rate")
    return {
        "prompts": float(len(questions)),
        "valid": float(valid),
        "violations": float(after.violations.count(True)),
        "reference_valid": float(len(questions) - before.violations.count(None)),
        "reference_violations": float(before.violations.count(True)),
        "kl": fmean(divergences),
        "kl_sd": stdev(divergences) if len(divergences) > 1 else 0.0,
        **together([after.tokens, before.tokens]),
    }


def _evaluate(
    model: ModelSpec,
    adapter: Path | None,
    questions: Sequence[Question],
    seed: int,
    conversations: Sequence[tuple[list[int], list[int]]] | None = None,
) -> _Outcome:
    """Ask an agent, and compute its hidden states along conversations; by default along its own first replies."""
    from atp.agents.local import load_local

    gc.collect()  # discarded trainers and networks refer to each other, so only this frees their memory
    agent = load_local(model, adapter)
    answers = _ask(agent, questions, seed)
    agent.start()  # frees the cache
    if conversations is None:
        prompts = [agent.prompt_text(answer.prompts[0]) for answer in answers]
        tokens = agent.tokenizer(prompts, add_special_tokens=False).input_ids
        conversations = [(prompt, [*answer.replies[0].tokens]) for prompt, answer in zip(tokens, answers, strict=True)]
    return _Outcome(
        violations=[answer.turn.violation for answer in answers],
        conversations=list(conversations),
        states=agent.hidden(conversations),
        output_layer=agent.output_layer,
        tokens=count_tokens(reply for answer in answers for reply in answer.replies),
    )


def _ask(agent: Any, questions: Sequence[Question], seed: int) -> list[Answer]:
    """Return one answer to each question, with sampling seeds that no rollout uses."""
    answers: list[Answer] = []
    for begin in range(0, len(questions), agent.batch):
        batch = questions[begin : begin + agent.batch]
        # "canary" is the check's former name. It decides the seeds, so it stays.
        names = [f"canary|{question.scenario_id}" for question in batch]

        def seed_of(number: int, step: int, names: Sequence[str] = names) -> int:
            return sampling_seed(seed, names[number], 0, 0, (1, 0, step))

        answers += ask(agent, batch, seed_of)
    return answers


def _divergence(agent: _Outcome, reference: _Outcome, reply: int) -> float:
    """Return the KL divergence of two agents in nats, summed over the positions of a reply and its end."""
    import torch

    states, reference_states = agent.states[reply], reference.states[reply]
    total = 0.0
    with torch.inference_mode():
        for begin in range(0, len(states), POSITIONS):
            part = slice(begin, begin + POSITIONS)
            new, old = agent.log_probabilities(states[part]), reference.log_probabilities(reference_states[part])
            total += (new.exp() * (new - old)).sum().item()
    return total
