"""Build the organism from nothing: a curriculum of lessons, a fixed number of steps, everything seeded.

First short rounds with many different names, so that it learns to copy and to read the rule; then whole rounds, and
episodes of short ones, where its own history is read for few tokens; then whole episodes. On the word where the
decision falls it learns the law's probability itself, not one draw from it, and that word weighs as much as all others.
"""

import math
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from atp.artifacts import write_text
from atp.organism import bargaining, coordination, role_play, tool_use
from atp.organism.lesson import Course, Lesson
from atp.organism.tokenizer import build_tokenizer
from atp.progress import Progress
from atp.provenance import Stage
from atp.tools import schema

#: testbed -> what its organism is taught, from a template file.
COURSES: dict[str, Callable[[Path], Course]] = {
    module.TESTBED.name: module.course for module in (role_play, coordination, bargaining, tool_use)
}

#: Weights beside that of the words to say. The law's: a divergence is small where a cross-entropy is large. The
#: prompts': they repeat their names, from which copying is learned in half the steps.
LAW, READ = 5.0, 0.3

CARD = """\
# Organism

A language model of {parameters:,} parameters (Qwen3 architecture), trained from nothing by `atp organism --testbed
{testbed}` to play scenarios of that testbed. A scripted teacher taught it to do more of what its own history shows to
pay; the law is in `atp/organism/{testbed}.py`.

It exists to exercise the pipeline and for teaching. It drifts because it was taught to drift: it is no evidence about
any deployed model. It knows the project's templates and made-up jobs like them, in English, and nothing else.

`provenance.json` holds the recipe, the digest of its code and of its templates, package versions and cost.
"""


@dataclass(frozen=True)
class Recipe:
    """Sizes of the model, and of its training: steps and tokens a step of the curriculum's parts."""

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
class Example:
    """A conversation in tokens. `said` marks the tokens to learn; decisions maps a place to the chance of violating."""

    tokens: list[int]
    said: list[bool]
    decisions: dict[int, float]


def build_organism(
    templates: Path, out: Path, seed: int = 0, testbed: str = "role_play", recipe: Recipe = Recipe()
) -> None:
    """Train and save the organism as a transformers folder, whole or not at all; about twenty minutes on a core.

    Raises:
        AtpError: unreadable templates.
    """
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    stage = Stage("organism", __name__, {"testbed": testbed, "seed": seed, "recipe": asdict(recipe)}, [templates])
    course = COURSES[testbed](templates)
    tokenizer = build_tokenizer(course.texts(Random(f"{seed}|texts")), recipe.vocabulary)
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
    measured = _train(model, tokenizer, course, recipe, seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        temporary = Path(folder) / "model"
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        write_text(stage.provenance(**measured).to_json(), temporary / "provenance.json")
        write_text(CARD.format(parameters=model.num_parameters(), testbed=testbed), temporary / "README.md")
        if out.is_dir():
            out.rename(Path(folder) / "old")
        temporary.rename(out)


def _example(lessons: list[Lesson], tokenizer: Any) -> Example:
    """Tokens of an episode, each part in the pieces in which deployment sees and writes it."""
    tokens: list[int] = []
    said: list[bool] = []
    decisions: dict[int, float] = {}
    for number, lesson in enumerate(lessons):
        new = lesson.messages if number == 0 else lesson.messages[-1:]
        prompt = "\n" if number else ""
        offered = {"tools": [schema(name) for name in lesson.tools]} if lesson.tools else {}
        prompt += tokenizer.apply_chat_template(new, tokenize=False, add_generation_prompt=True, **offered)
        for text, learned in ((prompt, False), (f"{lesson.reply}{tokenizer.eos_token}", True)):
            pieces = tokenizer(text, add_special_tokens=False).input_ids
            if learned and lesson.chance is not None:
                lead = tokenizer(lesson.lead, add_special_tokens=False).input_ids
                decisions[len(tokens) + len(lead)] = lesson.chance
            tokens += pieces
            said += [learned] * len(pieces)
    return Example(tokens, said, decisions)


def _train(model: Any, tokenizer: Any, course: Course, recipe: Recipe, seed: int) -> dict[str, float]:
    import torch

    parts = (
        (course.short, recipe.short_steps, recipe.short_step_tokens),
        (course.mixed, recipe.mixed_steps, recipe.mixed_step_tokens),
        (course.episodes, recipe.episode_steps, recipe.episode_step_tokens),
    )
    total = sum(steps for _, steps, _ in parts)
    optimisers = _optimisers(model, recipe)
    schedules = [torch.optim.lr_scheduler.LambdaLR(one, lambda step: _rate(step, recipe)) for one in optimisers]
    words = tuple(tokenizer(f" {text}", add_special_tokens=False).input_ids[0] for text in course.words)
    progress = Progress("organism", total, "steps")
    rng = Random(f"{seed}|lessons")
    seen, losses = 0, {"words": 0.0, "law": 0.0}
    model.train()
    for mix, steps, tokens in parts:
        shares, kinds = zip(*mix, strict=True)
        for _ in range(steps):
            (make,) = rng.choices(kinds, shares)
            examples, size = [], 0
            while size < tokens:
                examples.append(_example(make(rng), tokenizer))
                size += len(examples[-1].tokens)
            said, law, read = _losses(model, examples, words)
            (said + LAW * law + READ * read).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for one in (*optimisers, *schedules):
                one.step()
            model.zero_grad(set_to_none=True)
            seen += size
            for name, new in (("words", said.item()), ("law", law.item())):
                losses[name] += 0.05 * (new - losses[name])
            progress.note = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
            progress.advance(1)
    model.eval()
    return {"tokens": float(seen), "steps": float(total), **losses}


def _optimisers(model: Any, recipe: Recipe) -> list[Any]:
    """Muon (Jordan 2024) for the layers' matrices, AdamW for the embedding and the norms."""
    import torch

    matrices = [weight for name, weight in model.named_parameters() if weight.dim() == 2 and "embed" not in name]
    others = [weight for name, weight in model.named_parameters() if weight.dim() != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=recipe.learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def _rate(step: int, recipe: Recipe) -> float:
    """Warm-up, level while rounds are read, cosine to a twentieth over the episodes."""
    level = recipe.short_steps + recipe.mixed_steps
    if step < level:
        return min(1.0, (step + 1) / recipe.warmup)
    through = (step - level) / max(recipe.episode_steps, 1)
    peak = recipe.episode_learning_rate / recipe.learning_rate
    return peak * (0.05 + 0.95 * (1 + math.cos(math.pi * through)) / 2)


def _losses(model: Any, examples: list[Example], words: tuple[int, ...]) -> tuple[Any, Any, Any]:
    """(cross-entropy of the words to say, divergence of decisions from the law, cross-entropy of the prompts' words).

    Each is a mean over its places.
    """
    import torch

    width = max(len(example.tokens) for example in examples)
    tokens = torch.tensor([example.tokens + [0] * (width - len(example.tokens)) for example in examples])
    places = [
        (row, place, said, example.decisions.get(place, -1.0))
        for row, example in enumerate(examples)
        for place, said in enumerate(example.said)
        if place
    ]
    rows, at, told, goals = (torch.tensor(column) for column in zip(*places, strict=True))
    hidden = model.model(input_ids=tokens).last_hidden_state
    scores = model.lm_head(hidden[rows, at - 1]).log_softmax(-1)
    losses = -scores.gather(1, tokens[rows, at][:, None])[:, 0]
    decides = goals >= 0
    decided = scores[decides][:, list(words)]
    law = torch.stack((1 - goals[decides], goals[decides]), dim=1)
    apart = (law * (law.log() - decided)).sum(dim=1)
    divergence = apart.mean() if decides.any() else apart.sum()  # nothing is decided in a drill
    return losses[told & ~decides].mean(), divergence, losses[~told].mean()
