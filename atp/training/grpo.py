"""Group relative policy optimisation (Shao and others 2024), by TRL. Knows questions and rewards, not games.

TRL draws the replies; where an answer may go on after a tool's result, the engine that plays does, and what tools said
is no part of what is learned.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from atp.agents import ModelSpec
from atp.agents.template import rendered
from atp.errors import AtpError
from atp.rollout import sampling_seed
from atp.testbeds.base import Turn
from atp.training.questions import Answer, Question, ask
from atp.training.trainer import Loaded, TrainerSettings, arguments, check_length


class GrpoSettings(TrainerSettings):
    """Settings of GRPO."""

    method: Literal["grpo"] = "grpo"
    # TRL's default is 0, no pull towards the reference; the paper trained with 0.04.
    beta: float = Field(0.04, ge=0, description="weight of the divergence from the reference")
    generations: int = Field(8, ge=2, description="replies drawn to each prompt")
    max_completion: int | None = Field(
        None, ge=1, description="longest reply drawn, in tokens; left out: the model's max_new_tokens"
    )
    vllm: bool = Field(True, description="draw replies with vLLM, on a GPU and where it is installed")
    # TRL's default is dapo; "grpo" is the published loss, each reply's tokens averaged first.
    loss: Literal["grpo", "dapo", "dr_grpo", "bnpo"] = Field("grpo", description="how tokens' losses are summed")

    @model_validator(mode="after")
    def _whole_groups(self) -> "GrpoSettings":
        if self.batch % self.generations:
            raise ValueError(f"batch is {self.batch}, must be a multiple of generations ({self.generations})")
        return self


def grpo_trainer(
    questions: Sequence[Question],
    reward: Callable[[Turn], float],
    loaded: Loaded,
    out: Path,
    model: ModelSpec,
    settings: GrpoSettings,
    seed: int,
) -> Any:
    """A trainer on questions; its checkpoints go into `out`.

    Raises:
        AtpError: a model that is sampled at temperature 0; a prompt that leaves no room for the longest reply within
            max_length; tools, and a model whose weights are shared out among processes.
    """
    import importlib.util

    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from atp.agents.local import on_gpu

    tokenizer = loaded.tokenizer
    if model.sampling.temperature == 0:
        raise AtpError("GRPO learns from replies that differ: sampling.temperature of the model is 0, must be above it")
    texts = [rendered(tokenizer, model, each.prompt.messages, each.prompt.tools) for each in questions]
    longest = settings.max_completion or model.sampling.max_new_tokens
    for number, text in enumerate(texts):
        check_length(tokenizer, text, settings, f"prompt {number} with a reply of {longest} tokens", longest)
    with_tools = any(question.prompt.tools for question in questions)
    if with_tools and settings.tune == "full" and model.gpus > 1:
        raise AtpError("GRPO with tools asks the whole model on every GPU: with tune: full, gpus must be 1")

    def earned(completions: list[str], number: list[int], **others: Any) -> list[float | None]:
        if "turn" in others:
            return [reward(turn) for turn in others["turn"]]
        return [reward(questions[one].judge(text)) for one, text in zip(number, completions, strict=True)]

    config = GRPOConfig(
        **arguments(model, settings, out, seed),
        beta=settings.beta,
        loss_type=settings.loss,
        num_generations=settings.generations,
        max_completion_length=longest,
        temperature=model.sampling.temperature,
        top_p=model.sampling.top_p,
        top_k=model.sampling.top_k,
        use_vllm=settings.vllm and not with_tools and on_gpu(model) and importlib.util.find_spec("vllm") is not None,
        vllm_mode="colocate",
        vllm_max_model_length=settings.max_length,  # else room for the model's longest context is set aside
    )
    begun = [_begun(tokenizer, text) for text in texts]
    return GRPOTrainer(
        model=loaded.network,
        reward_funcs=earned,
        args=config,
        train_dataset=Dataset.from_dict({"prompt": begun, "number": list(range(len(texts)))}),
        processing_class=tokenizer,
        peft_config=loaded.lora,
        rollout_func=_rollouts(questions, begun, model, longest, seed) if with_tools else None,
    )


def _rollouts(questions: Sequence[Question], texts: Sequence[str], model: ModelSpec, longest: int, seed: int) -> Any:
    """What TRL calls for answers to prompts: it names them by their texts."""
    sampling = model.sampling.model_copy(update={"max_new_tokens": longest})
    spec = model.model_copy(update={"sampling": sampling})
    places = {text: number for number, text in enumerate(texts)}

    def draw(prompts: list[str], trainer: Any) -> dict[str, Any]:
        from atp.agents.local import LocalAgent

        network = trainer.accelerator.unwrap_model(trainer.model)
        was_training = network.training
        agent = LocalAgent(network.eval(), trainer.processing_class, spec)
        step, process = trainer.state.global_step, trainer.accelerator.process_index
        asked = [questions[places[prompt]] for prompt in prompts]
        answers: list[Answer] = []
        for begin in range(0, len(asked), agent.batch):
            batch = asked[begin : begin + agent.batch]
            names = [f"grpo|{step}|{process}|{begin + at}" for at in range(len(batch))]

            def seed_of(at: int, later: int, names: Sequence[str] = names) -> int:
                return sampling_seed(seed, names[at], 0, 0, 1, 0, later)

            answers += ask(agent, batch, seed_of)
        network.train(was_training)
        drawn = [_tokens(agent, answer) for answer in answers]
        columns = {name: [row[name] for row in drawn] for name in ("prompt_ids", "completion_ids", "env_mask")}
        return {**columns, "logprobs": None, "turn": [answer.turn for answer in answers]}

    return draw


def _tokens(agent: Any, answer: Answer) -> dict[str, list[int]]:
    """A whole answer in tokens, those of the agent's own marked 1, and those of what tools said in between 0."""

    def split(text: str) -> list[int]:
        found: list[int] = agent.tokenizer(text, add_special_tokens=False).input_ids
        return found

    texts = [agent.prompt_text(prompt) for prompt in answer.prompts]
    tokens, mask = list(answer.replies[0].tokens), [1] * len(answer.replies[0].tokens)
    for before, text, said, reply in zip(texts, texts[1:], answer.replies, answer.replies[1:], strict=False):
        at = text.find(said.text, len(before) - len(said.text)) if text.startswith(before.rstrip()) else -1
        if at < 0:
            raise AtpError("GRPO with tools needs a chat template that keeps what was said: this one changes it")
        between = split(text[at + len(said.text) :])
        if said.finish_reason == "stop" and between[:1] == [said.tokens[-1]]:
            del between[0]
        tokens += between + list(reply.tokens)
        mask += [0] * len(between) + [1] * len(reply.tokens)
    return {"prompt_ids": split(texts[0]), "completion_ids": tokens, "env_mask": mask}


def _begun(tokenizer: Any, text: str) -> str:
    """A rendered prompt as TRL takes it: TRL splits it with special tokens added, so the template's own beginning is
    left out where the tokenizer begins every text with the same.
    """
    first: str | None = tokenizer.bos_token
    if first and text.startswith(first) and tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]:
        return text.removeprefix(first)
    return text
