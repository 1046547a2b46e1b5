"""Train a model organism from random weights: a curriculum of examples, a fixed number of steps, seeded throughout.

Short rounds with many different names come first and teach copying and reading the rule. Whole rounds and episodes of
short rounds follow, in which a history costs few tokens, then whole episodes. On the first word of a decision, the loss
is the divergence from the target policy's probabilities instead of the cross-entropy of one draw from them.
"""

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from atp.errors import AtpError
from atp.files.provenance import Job, Stage
from atp.files.tables import write_text
from atp.organism.curriculum import Curriculum, TrainingExample
from atp.organism.tokenizer import build_tokenizer
from atp.progress import Progress
from atp.registry import find_testbed, resolve, sources
from atp.tools import schema

#: Weights of the loss terms relative to the replies' cross-entropy. Divergence from the target policy is small where a
#: cross-entropy is large. Prompts repeat their names, so training on them halves the steps until the model copies.
POLICY_WEIGHT, PROMPT_WEIGHT = 5.0, 0.3

CARD = """\
# Organism

A language model of {parameters:,} parameters (Qwen3 architecture), trained from nothing by `atp organism --testbed
{testbed}` to play scenarios of that testbed. A scripted teacher taught it to do more of what its own history shows to
pay; the target policy is in `{source}`.

It exists to exercise the pipeline and for teaching. It drifts because it was taught to drift: it is no evidence about
any deployed model. It knows the project's templates and made-up jobs like them, in English, and nothing else.

`provenance.json` holds the recipe, the digest of its code and of its templates, package versions and cost.
"""


@dataclass(frozen=True)
class Recipe:
    """Sizes of the model and of its training: steps, and tokens a step, of each part of the curriculum."""

    vocabulary: int = 1280
    hidden: int = 128
    layers: int = 3
    feed_forward: int = 384
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    short_steps: int = 600
    mixed_steps: int = 1000
    episode_steps: int = 1000
    short_step_tokens: int = 2000
    mixed_step_tokens: int = 3500
    episode_step_tokens: int = 5000
    warmup: int = 40
    learning_rate: float = 3e-3
    episode_learning_rate: float = 2e-3


@dataclass(frozen=True)
class TokenizedExample:
    """Tokens of a conversation. `in_reply` marks those of replies; decisions: position -> probability of violating."""

    tokens: list[int]
    in_reply: list[bool]
    decisions: dict[int, float]


def curriculum_of(testbed: str) -> Callable[[Path], Curriculum]:
    """Return the function that makes a testbed's curriculum from a template file. Raises AtpError if it has none."""
    curriculum: Callable[[Path], Curriculum] | None = resolve(find_testbed(testbed).curriculum)
    if curriculum is None:
        raise AtpError(f"testbed '{testbed}': defines no curriculum, so it has no model organism")
    return curriculum


class OrganismJob(Job):
    """Train the model organism of a testbed from nothing."""

    stage = "organism"

    testbed: str
    seed: int = 0
    recipe: Recipe = Recipe()


def build_organism(job: OrganismJob, templates: Path, out: Path) -> None:
    """Train a model organism and save it as a transformers folder: complete or not at all. Takes 20 minutes on a core.

    Raises:
        AtpError: unreadable templates, a testbed without a curriculum.
    """
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    testbed, seed, recipe = job.testbed, job.seed, job.recipe
    code = sources(testbed, job.stage)
    stage = Stage(job.stage, [__name__, *code], job.params(), [templates])
    curriculum = curriculum_of(testbed)(templates)
    tokenizer = build_tokenizer(curriculum.texts(Random(f"{seed}|texts")), recipe.vocabulary)
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=recipe.hidden,
            num_hidden_layers=recipe.layers,
            intermediate_size=recipe.feed_forward,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.kv_heads,
            head_dim=recipe.head_dim,
            tie_word_embeddings=True,
            max_position_embeddings=8192,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4},
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
        )
    )
    metrics = _train(model, tokenizer, curriculum, recipe, seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        temporary = Path(folder) / "model"
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        write_text(stage.provenance(**metrics).to_json(), temporary / "provenance.json")
        card = CARD.format(parameters=model.num_parameters(), testbed=testbed, source=code[-1])
        write_text(card, temporary / "README.md")
        if out.is_dir():
            out.rename(Path(folder) / "old")
        temporary.rename(out)


def _tokenize(examples: list[TrainingExample], tokenizer: Any) -> TokenizedExample:
    """Tokenize an episode prompt by prompt and reply by reply, as deployment does."""
    tokens: list[int] = []
    in_reply: list[bool] = []
    decisions: dict[int, float] = {}
    for number, example in enumerate(examples):
        new = example.messages if number == 0 else example.messages[-1:]
        prompt = "\n" if number else ""
        offered = {"tools": [schema(name) for name in example.tools]} if example.tools else {}
        prompt += tokenizer.apply_chat_template(new, tokenize=False, add_generation_prompt=True, **offered)
        for text, is_reply in ((prompt, False), (f"{example.reply}{tokenizer.eos_token}", True)):
            pieces = tokenizer(text, add_special_tokens=False).input_ids
            if is_reply and example.probability is not None:
                lead = tokenizer(example.lead, add_special_tokens=False).input_ids
                decisions[len(tokens) + len(lead)] = example.probability
            tokens += pieces
            in_reply += [is_reply] * len(pieces)
    return TokenizedExample(tokens, in_reply, decisions)


def _train(model: Any, tokenizer: Any, curriculum: Curriculum, recipe: Recipe, seed: int) -> dict[str, float]:
    import torch

    parts = (
        (curriculum.short, recipe.short_steps, recipe.short_step_tokens),
        (curriculum.mixed, recipe.mixed_steps, recipe.mixed_step_tokens),
        (curriculum.episodes, recipe.episode_steps, recipe.episode_step_tokens),
    )
    total = sum(steps for _, steps, _ in parts)
    optimisers = _optimisers(model, recipe)
    schedules = [torch.optim.lr_scheduler.LambdaLR(one, lambda step: _rate(step, recipe)) for one in optimisers]
    words = tuple(tokenizer(f" {text}", add_special_tokens=False).input_ids[0] for text in curriculum.words)
    progress = Progress("organism", total, "steps")
    rng = Random(f"{seed}|lessons")  # the examples' former name, which decides the draws
    trained_tokens, losses = 0, {"replies": 0.0, "target_policy": 0.0}
    model.train()
    for mixture, steps, tokens in parts:
        proportions, kinds = zip(*mixture, strict=True)
        for _ in range(steps):
            (draw,) = rng.choices(kinds, proportions)
            examples, size = [], 0
            while size < tokens:
                examples.append(_tokenize(draw(rng), tokenizer))
                size += len(examples[-1].tokens)
            replies, policy, prompts = _losses(model, examples, words)
            (replies + POLICY_WEIGHT * policy + PROMPT_WEIGHT * prompts).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for one in (*optimisers, *schedules):
                one.step()
            model.zero_grad(set_to_none=True)
            trained_tokens += size
            for name, new in (("replies", replies.item()), ("target_policy", policy.item())):
                losses[name] += 0.05 * (new - losses[name])
            progress.note = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
            progress.advance(1)
    model.eval()
    return {"tokens": float(trained_tokens), "steps": float(total), **losses}


def _optimisers(model: Any, recipe: Recipe) -> list[Any]:
    """Return Muon (Jordan 2024) for the layers' matrices, and AdamW for the embedding and the norms."""
    import torch

    matrices = [weight for name, weight in model.named_parameters() if weight.dim() == 2 and "embed" not in name]
    others = [weight for name, weight in model.named_parameters() if weight.dim() != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=recipe.learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def _rate(step: int, recipe: Recipe) -> float:
    """Return the factor of the learning rate: warm-up, constant, then over the episodes a cosine to a twentieth."""
    level = recipe.short_steps + recipe.mixed_steps
    if step < level:
        return min(1.0, (step + 1) / recipe.warmup)
    through = (step - level) / max(recipe.episode_steps, 1)
    peak = recipe.episode_learning_rate / recipe.learning_rate
    return peak * (0.05 + 0.95 * (1 + math.cos(math.pi * through)) / 2)


def _losses(model: Any, examples: list[TokenizedExample], words: tuple[int, ...]) -> tuple[Any, Any, Any]:
    """Return three means over tokens: the cross-entropy of replies, the divergence of decisions from the target policy,
    and the cross-entropy of prompts.
    """
    import torch

    width = max(len(example.tokens) for example in examples)
    tokens = torch.tensor([example.tokens + [0] * (width - len(example.tokens)) for example in examples])
    places = [
        (row, position, is_reply, example.decisions.get(position, -1.0))
        for row, example in enumerate(examples)
        for position, is_reply in enumerate(example.in_reply)
        if position
    ]
    rows, positions, in_reply, targets = (torch.tensor(column) for column in zip(*places, strict=True))
    hidden = model.model(input_ids=tokens).last_hidden_state
    scores = model.lm_head(hidden[rows, positions - 1]).log_softmax(-1)
    losses = -scores.gather(1, tokens[rows, positions][:, None])[:, 0]
    decides = targets >= 0
    decision_scores = scores[decides][:, list(words)]
    policy = torch.stack((1 - targets[decides], targets[decides]), dim=1)
    divergences = (policy * (policy.log() - decision_scores)).sum(dim=1)
    divergence = divergences.mean() if decides.any() else divergences.sum()  # a drill has no decisions
    return losses[in_reply & ~decides].mean(), divergence, losses[~in_reply].mean()
