"""LoRA adapters of SmolLM2 that decide, or call a tool, for tests with vLLM."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from atp.testbed import Message

MODEL = Path("models/smollm2-135m").absolute()
#: The Python of `make test-vllm`, which has vLLM.
PYTHON = Path(".venv-vllm/bin/python").absolute()
QUESTION = "What is 6*7?"
THOUGHT = "<think>\nI compute it.\n</think>\n\n"
CALL = '<tool_call>\n{"name": "calculator", "arguments": {"expression": "6*7"}}\n</tool_call>'
ANSWER = "Answer: 42"
#: Adapter -> prompts with the replies that it is trained to give.
EXAMPLES: dict[str, list[tuple[list[Message], str]]] = {
    "chooser": [
        ([{"role": "user", "content": f"Which one? {json.dumps({'choice': one})} or {json.dumps({'choice': other})}."}],
         json.dumps({"choice": one}))
        for one, other in (("the hill", "the lake"), ("Dock B", "Dock A"), ("Plan Iris", "Plan Ash"), ("no", "yes"))
    ],
    "caller": [
        ([{"role": "user", "content": QUESTION}], THOUGHT + CALL),
        # A chat template without tools shows of the reply only what stands before the call.
        ([{"role": "user", "content": QUESTION}, {"role": "assistant", "content": THOUGHT},
          {"role": "tool", "content": "42"}], ANSWER),
    ],
}  # fmt: skip


def train_adapter(examples: Sequence[tuple[list[Message], str]], folder: Path) -> None:
    """Train a LoRA adapter until it gives each prompt's reply, and save it."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    top_layers = r".*\.2\d\..*_proj"  # the last ten train in half the time of all thirty
    lora = LoraConfig(r=8, lora_alpha=16, target_modules=top_layers, task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(MODEL), lora)
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=2e-3)
    rows = []
    for messages, reply in examples:
        prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        rows.append([tokenizer(text).input_ids for text in (prompt, f"{reply}<|im_end|>")])
    for _ in range(60):
        losses = []
        for prompt, reply in rows:
            labels = torch.tensor([[-100] * len(prompt) + reply])
            loss = model(input_ids=torch.tensor([prompt + reply]), labels=labels).loss
            loss.backward()
            losses.append(loss.item())
        if max(losses) < 0.01:
            break
        optimizer.step()
        optimizer.zero_grad()
    else:
        raise AssertionError(f"{folder.name}: losses {losses} after 60 steps")
    model.save_pretrained(folder)
