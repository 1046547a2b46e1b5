"""Supervised fine-tuning of a LoRA adapter on selected replies, by TRL.

Only the last assistant turn of each conversation is learned: it is the reply that the filter kept. The adapter goes on
from its parent's, so generation g holds all that was learned since deployment began.
"""

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from atp.agents import ModelSpec
from atp.artifacts import SELECTION, read_table, write_text
from atp.errors import AtpError
from atp.provenance import Stage

if TYPE_CHECKING:
    from datasets import Dataset


class SftSettings(BaseModel):
    """Settings of supervised fine-tuning with LoRA."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["sft"] = "sft"
    rank: int = Field(8, ge=1, description="rank of the LoRA matrices")
    alpha: int = Field(16, ge=1, description="scale of the LoRA update, divided by rank")
    learning_rate: float = Field(2e-4, gt=0, description="constant learning rate of AdamW")
    epochs: float = Field(1.0, gt=0, description="passes over the selection")
    batch: int = Field(8, ge=1, description="conversations a step")
    max_length: int = Field(2048, ge=16, description="longest conversation, in tokens; longer ones are refused")


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
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        temporary = Path(folder) / "adapter"
        measured = train(examples, temporary, model, chosen, seed, parent)
        lineage = stage.provenance(**measured, examples=len(examples))
        write_text(lineage.to_json(), temporary / "lineage.json")
        if out.exists():
            shutil.rmtree(out)
        temporary.rename(out)


def train(
    examples: list[dict[str, Any]],
    out: Path,
    model: ModelSpec,
    settings: SftSettings,
    seed: int,
    parent: Path | None,
) -> dict[str, float]:
    """Train on conversations and save the adapter; returns the training loss, steps and tokens seen."""
    import torch
    from peft import LoraConfig, PeftModel
    from trl import SFTConfig, SFTTrainer

    from atp.agents.local import load_model, load_tokenizer

    tokenizer = load_tokenizer(model)
    network: Any = load_model(model)
    lora = None
    if parent is None:
        lora = LoraConfig(
            r=settings.rank, lora_alpha=settings.alpha, target_modules="all-linear", task_type="CAUSAL_LM"
        )
    else:
        network = PeftModel.from_pretrained(network, parent, is_trainable=True)
    gpu = torch.cuda.is_available()
    config = SFTConfig(
        output_dir=str(out / "trainer"),
        per_device_train_batch_size=settings.batch,
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant",
        max_length=settings.max_length,
        completion_only_loss=True,
        bf16=gpu,
        use_cpu=not gpu,
        gradient_checkpointing=gpu,
        save_strategy="no",
        report_to="none",
        logging_steps=1,
        seed=seed,
        data_seed=seed,
        disable_tqdm=True,
        dataset_num_proc=None,
    )
    trainer = SFTTrainer(
        model=network,
        args=config,
        train_dataset=_dataset(examples, tokenizer, model, settings.max_length),
        processing_class=tokenizer,
        peft_config=lora,
    )
    result = trainer.train()
    loss = float(result.training_loss)
    if not torch.isfinite(torch.tensor(loss)):
        raise AtpError(f"finetune: the training loss is {loss}; lower training.learning_rate")
    adapted: Any = trainer.model
    adapted.save_pretrained(out)
    shutil.rmtree(out / "trainer", ignore_errors=True)
    return {"loss": loss, "steps": float(result.global_step), "tokens": float(trainer.state.num_input_tokens_seen)}


def _dataset(examples: list[dict[str, Any]], tokenizer: Any, model: ModelSpec, max_length: int) -> "Dataset":
    """Prompt and completion as the agent saw and wrote them, in tokens, so that training and play render alike."""
    from datasets import Dataset

    rows = []
    for example in examples:
        *prompt, answer = example["messages"]
        text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True, **model.chat_template)
        rows.append({"prompt": text, "completion": answer["content"] + tokenizer.eos_token})
        length = len(tokenizer(text + rows[-1]["completion"], add_special_tokens=False).input_ids)
        if length > max_length:
            raise AtpError(
                f"finetune: the conversation of scenario {example['scenario_id']} has {length} tokens, "
                f"training.max_length allows {max_length}"
            )
    return Dataset.from_list(rows)
