"""Supervised fine-tuning of a LoRA adapter on selected replies, by TRL.

Only the last assistant turn of each conversation is learned: it is the reply that the filter kept. The adapter goes on
from its parent's, so generation g holds all that was learned since deployment began.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from atp.agents import ModelSpec
from atp.artifacts import SELECTION, read_table
from atp.provenance import Stage
from atp.training.lora import LoraSettings, arguments, check_length, fit, load_trainable, make_adapter, rendered

if TYPE_CHECKING:
    from datasets import Dataset


class SftSettings(LoraSettings):
    """Settings of supervised fine-tuning with LoRA."""

    method: Literal["sft"] = "sft"


def finetune_stage(
    selection: Path,
    out: Path,
    model: ModelSpec,
    settings: dict[str, Any],
    seed: int,
    generation: int,
    parent: Path | None = None,
) -> None:
    """Train the adapter of `generation` on selection.parquet, from the parent generation's adapter or from none.

    Writes a PEFT folder with lineage.json: parent, selection, seed, settings and what the training measured.

    Raises:
        AtpError: unreadable selection, conversations over max_length, a loss that is not finite.
    """
    chosen = SftSettings(**settings)
    params = {"model": model.model_dump(mode="json"), "training": chosen.model_dump(), "seed": seed}
    params["generation"] = generation
    local = [Path(model.path)] if Path(model.path).is_dir() else []
    stage = Stage("finetune", __name__, params, [selection, *local, *([parent] if parent else [])])
    examples = read_table(selection, SELECTION, "selection").to_pylist()
    make_adapter(
        out, stage, lambda folder: train(examples, folder, model, chosen, seed, parent), examples=len(examples)
    )


def train(
    examples: list[dict[str, Any]],
    out: Path,
    model: ModelSpec,
    settings: SftSettings,
    seed: int,
    parent: Path | None,
) -> dict[str, float]:
    """Train on conversations and save the adapter; returns the training loss, steps and tokens seen."""
    from trl import SFTConfig, SFTTrainer

    network, tokenizer, lora = load_trainable(model, settings, parent)
    trainer = SFTTrainer(
        model=network,
        args=SFTConfig(**arguments(settings, out, seed), max_length=settings.max_length, completion_only_loss=True),
        train_dataset=_dataset(examples, tokenizer, model, settings),
        processing_class=tokenizer,
        peft_config=lora,
    )
    return fit(trainer, out)


def _dataset(examples: list[dict[str, Any]], tokenizer: Any, model: ModelSpec, settings: SftSettings) -> "Dataset":
    """Prompt and completion as the agent saw and wrote them."""
    from datasets import Dataset

    rows = []
    for example in examples:
        *prompt, answer = example["messages"]
        text, reply = rendered(tokenizer, model, prompt), answer["content"] + tokenizer.eos_token
        check_length(tokenizer, text + reply, settings, f"the conversation of scenario {example['scenario_id']}")
        rows.append({"prompt": text, "completion": reply})
    return Dataset.from_list(rows)
