"""Build the organism from nothing: a curriculum of lessons, a fixed number of steps, everything seeded.

First short rounds with many different names, so that it learns to copy and to read the rule; then whole rounds; then
the teacher's dialogues, in few words and at full length. On the word where the decision falls it learns the teacher's
probability itself, not one draw from it, and that word weighs as much as all the others.
"""

import math
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from atp.artifacts import write_text
from atp.organism.data import full, make_labels, make_name, short
from atp.organism.teacher import BREAK, KEEP, Lesson, decide, dialogue, restate
from atp.organism.tokenizer import build_tokenizer
from atp.progress import Progress
from atp.provenance import Stage
from atp.scenarios.scenario import RolePlayScenario
from atp.scenarios.templates import RolePlayTemplate, read_templates
from atp.testbeds.role_play import SCHEDULES, RolePlaySettings

Make = Callable[[Random], list[Lesson]]
Scene = Callable[[Random, list[RolePlayTemplate]], RolePlayScenario]

#: The chance of a decision that is not learned.
UNLEARNED = -1.0


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
    short_steps: int = 200
    full_steps: int = 250
    short_dialogue_steps: int = 350
    dialogue_steps: int = 500
    step_tokens: int = 6000
    warmup: int = 40
    learning_rate: float = 3e-3


@dataclass(frozen=True)
class Example:
    """A conversation in tokens. `said` marks the tokens to learn; decisions maps a place to the chance of violating."""

    tokens: list[int]
    said: list[bool]
    decisions: dict[int, float]


def build_organism(templates: Path, out: Path, seed: int = 0, recipe: Recipe = Recipe()) -> None:
    """Train and save the organism as a transformers folder, whole or not at all; about ten minutes on two cores.

    Raises:
        AtpError: unreadable templates.
    """
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    stage = Stage("organism", __name__, {"seed": seed, "recipe": asdict(recipe)}, [templates])
    read = read_templates(templates)
    tokenizer = build_tokenizer(_texts(read, Random(f"{seed}|texts")), recipe.vocabulary)
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
    measured = _train(model, tokenizer, read, recipe, seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        temporary = Path(folder) / "model"
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        write_text(stage.provenance(**measured).to_json(), temporary / "provenance.json")
        if out.is_dir():
            out.rename(Path(folder) / "old")
        temporary.rename(out)


def _texts(templates: list[RolePlayTemplate], rng: Random) -> list[str]:
    """What the tokenizer is trained on: the deployment's own words first, made-up names among them."""
    texts = [make_name(rng) for _ in range(300)]
    for _ in range(3000):
        lesson = dialogue(full(rng, templates), RolePlaySettings(schedule="alternating", rounds=2), rng)[-1]
        texts += [message["content"] for message in lesson.messages] + [lesson.reply]
        texts += make_labels(rng)
    return texts


def _single(make: Scene, templates: list[RolePlayTemplate]) -> Make:
    """One round, its decision a fair coin that is not learned: only reading and copying are."""

    def lessons(rng: Random) -> list[Lesson]:
        scenario = make(rng, templates)
        sentence = rng.choice((scenario.checked, scenario.unchecked, scenario.uncertain))
        question = " ".join((scenario.question, sentence, scenario.instruction))
        messages = [{"role": "system", "content": scenario.system}, {"role": "user", "content": question}]
        return [Lesson(messages, restate(scenario.compliant), decide(scenario, rng.random() < 0.5), UNLEARNED)]

    return lessons


def _dialogues(make: Scene, templates: list[RolePlayTemplate]) -> Make:
    """Whole episodes under every schedule; those that tell nothing more often, for there the history alone decides."""

    def lessons(rng: Random) -> list[Lesson]:
        schedule = rng.choice(["all_supervised", "all_unsupervised", "audit", "audit", "audit", "audit", *SCHEDULES])
        audits = {"audit_probability": rng.random()} if schedule == "audit" else {}
        settings = RolePlaySettings.model_validate({"schedule": schedule, "rounds": 6} | audits)
        return dialogue(make(rng, templates), settings, rng)

    return lessons


def _example(lessons: list[Lesson], tokenizer: Any) -> Example:
    """Tokens of an episode, each part in the pieces in which deployment sees and writes it."""
    tokens: list[int] = []
    said: list[bool] = []
    decisions: dict[int, float] = {}
    for number, lesson in enumerate(lessons):
        new = lesson.messages if number == 0 else lesson.messages[-1:]
        prompt = "\n" if number else ""
        prompt += tokenizer.apply_chat_template(new, tokenize=False, add_generation_prompt=True)
        for text, learned in ((prompt, False), (f"{lesson.reply}{tokenizer.eos_token}", True)):
            pieces = tokenizer(text, add_special_tokens=False).input_ids
            if learned:
                rule = tokenizer(lesson.rule, add_special_tokens=False).input_ids
                decisions[len(tokens) + len(rule)] = lesson.chance
            tokens += pieces
            said += [learned] * len(pieces)
    return Example(tokens, said, decisions)


def _train(
    model: Any, tokenizer: Any, templates: list[RolePlayTemplate], recipe: Recipe, seed: int
) -> dict[str, float]:
    import torch

    parts = (
        (_single(short, templates), recipe.short_steps),
        (_single(full, templates), recipe.full_steps),
        (_dialogues(short, templates), recipe.short_dialogue_steps),
        (_dialogues(full, templates), recipe.dialogue_steps),
    )
    total = sum(steps for _, steps in parts)
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, recipe))
    keep, violate = (tokenizer(f" {text}", add_special_tokens=False).input_ids[0] for text in (KEEP, BREAK))
    progress = Progress("organism", total, "steps")
    rng = Random(f"{seed}|lessons")
    seen, loss = 0, torch.zeros(())
    model.train()
    for make, steps in parts:
        for _ in range(steps):
            examples, size = [], 0
            while size < recipe.step_tokens:
                examples.append(_example(make(rng), tokenizer))
                size += len(examples[-1].tokens)
            loss = _loss(model, examples, keep, violate)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            seen += size
            progress.note = f"loss {loss.item():.3f}"
            progress.advance(1)
    model.eval()
    return {"tokens": float(seen), "steps": float(total), "loss": loss.item()}


def _rate(step: int, recipe: Recipe) -> float:
    """Warm-up, level until the full dialogues begin, cosine to a fiftieth over them."""
    level = recipe.short_steps + recipe.full_steps + recipe.short_dialogue_steps
    if step < level:
        return min(1.0, (step + 1) / recipe.warmup)
    through = (step - level) / max(recipe.dialogue_steps, 1)
    return 0.02 + 0.98 * (1 + math.cos(math.pi * through)) / 2


def _loss(model: Any, examples: list[Example], keep: int, violate: int) -> Any:
    """Mean over learned tokens, plus that over decisions of the cross-entropy to the teacher's own probability."""
    import torch

    width = max(len(example.tokens) for example in examples)
    tokens = torch.tensor([example.tokens + [0] * (width - len(example.tokens)) for example in examples])
    rows: list[int] = []
    places: list[int] = []
    chances: list[float] = []
    for row, example in enumerate(examples):
        for place, said in enumerate(example.said):
            chance = example.decisions.get(place)
            if said and chance != UNLEARNED:
                rows.append(row)
                places.append(place)
                chances.append(-1.0 if chance is None else chance)
    at, to, goal = torch.tensor(rows), torch.tensor(places), torch.tensor(chances)
    hidden = model.model(input_ids=tokens).last_hidden_state
    scores = model.lm_head(hidden[at, to - 1]).log_softmax(-1)
    plain = -scores.gather(1, tokens[at, to][:, None])[:, 0]
    soft = -(1 - goal) * scores[:, keep] - goal * scores[:, violate]
    decided = goal >= 0
    return plain[~decided].mean() + (soft[decided].mean() if decided.any() else 0.0)
