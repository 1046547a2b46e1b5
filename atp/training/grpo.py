"""Group relative policy optimisation (Shao et al. 2024, arXiv 2402.03300), by TRL. Uses questions and rewards only.

TRL generates the replies, with vLLM if that is the model's engine. Where a reply may call tools, atp's engine generates
it instead, and the loss leaves out the tools' results. All sample as the model's file says: of the model's
generation_config only the ends of a reply count.
"""

import logging
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any, Literal

from pydantic import Field

from atp.errors import AtpError
from atp.models.engines import check_vllm, resolve_engine
from atp.models.spec import ModelSpec
from atp.rollout.branching import Question, ask
from atp.rollout.seeds import sampling_seed
from atp.testbed import Reply, Turn
from atp.training.monitors import Monitor, count_flags
from atp.training.trainer import Loaded, TrainerSettings, check_length, create_config

log = logging.getLogger("atp")


class GrpoSettings(TrainerSettings):
    """Settings of GRPO."""

    method: Literal["grpo"] = "grpo"
    # TRL's default is 0, no pull towards the reference; the paper trained with 0.04.
    beta: float = Field(0.04, ge=0, description="weight of the KL divergence from the reference")
    num_generations: int = Field(8, ge=2, description="replies sampled per prompt")
    max_completion_length: int | None = Field(
        None, ge=1, description="maximum reply length in tokens; default: the model's max_new_tokens"
    )
    shuffled_rewards: bool = Field(
        False, description="control: the valid replies of a group exchange their rewards at random"
    )
    # TRL's default is dapo; "grpo" is the published loss, which averages over each reply's tokens first.
    loss_type: Literal["bnpo", "cispo", "dapo", "dr_grpo", "grpo", "luspo", "sapo", "vespo"] = Field(
        "grpo", description="how the tokens' losses are aggregated"
    )

    def generation_batch(self, processes: int) -> int:
        """Return the number of replies that are sampled at once over all processes, as TRL computes it."""
        steps = self.further.get("steps_per_generation") or self.gradient_accumulation_steps
        batch: int = self.per_device_train_batch_size * steps * processes
        return self.further.get("generation_batch_size") or batch

    def check_processes(self, processes: int) -> None:
        """Raise AtpError if the replies sampled at once are not whole groups of num_generations."""
        batch = self.generation_batch(processes)
        if batch % self.num_generations:
            raise AtpError(
                f"training.per_device_train_batch_size: {batch} replies at once (per_device_train_batch_size x "
                f"gradient_accumulation_steps x {processes} GPUs) must be a multiple of num_generations, "
                f"{self.num_generations}"
            )
        if self.shuffled_rewards and self.per_device_train_batch_size % self.num_generations:
            raise AtpError(
                f"training.per_device_train_batch_size: {self.per_device_train_batch_size}, with shuffled_rewards it "
                f"must be a multiple of num_generations, {self.num_generations}: a GPU needs whole groups"
            )


@dataclass(frozen=True)
class Rewards:
    """What replies earn: the reward of the turn that a reply leads to, after the penalty of a monitor."""

    of_turn: Callable[[Turn], float]
    monitor: Monitor | None = None

    def of(self, turns: Sequence[Turn], questions: Sequence[int], random: Random) -> tuple[list[float], dict[str, int]]:
        """Return the rewards of replies to numbered questions, and the monitor's counts."""
        values = [self.of_turn(turn) for turn in turns]
        if self.monitor is None:
            return values, {}
        decisions = [(turn.violation, random.random()) for turn in turns]
        flagged = [violation is not None and self.monitor.flags(violation, chance) for violation, chance in decisions]
        valid = [
            (violation, flag) for (violation, _), flag in zip(decisions, flagged, strict=True) if violation is not None
        ]
        counts = count_flags([violation for violation, _ in valid], [flag for _, flag in valid])
        return self.monitor.penalise(values, flagged, questions), counts


def grpo_trainer(
    questions: Sequence[Question],
    reward: Rewards,
    loaded: Loaded,
    out: Path,
    settings: GrpoSettings,
    seed: int,
) -> Any:
    """Return a trainer on questions; its checkpoints go into `out`.

    Args:
        reward: what replies earn.

    Raises:
        AtpError: a model that is sampled at temperature 0; a prompt that with the longest reply exceeds max_length;
            incomplete groups of replies; tools with a model whose weights are sharded; settings that TRL rejects.
    """
    from datasets import Dataset
    from trl import GRPOConfig

    tokenizer, model = loaded.tokenizer, loaded.model
    if model.sampling.temperature == 0:
        raise AtpError("GRPO needs replies that differ: sampling.temperature of the model is 0, must be above 0")
    settings.check_processes(int(os.environ.get("WORLD_SIZE", "1")))
    longest = settings.max_completion_length or model.sampling.max_new_tokens
    for number, question in enumerate(questions):
        length = len(loaded.prompt_tokens(question.prompt.messages, question.prompt.tools)) + longest
        check_length(length, settings, f"prompt {number} with a reply of {longest} tokens")
    with_tools = any(question.prompt.tools for question in questions)
    for tool in {tool for question in questions for tool in question.prompt.tools}:
        loaded.chat.check_continuation(tool)
    if with_tools and not settings.use_peft and model.gpus > 1:
        raise AtpError("GRPO with tools needs the whole model on every GPU: with use_peft: false, gpus must be 1")

    prompts = [loaded.chat.prompt(question.prompt.messages, question.prompt.tools) for question in questions]
    stop = loaded.chat.stop_tokens(loaded.network.generation_config)
    loaded.network.generation_config.eos_token_id = sorted(stop)  # TRL ends replies at these

    def read(prompt: str, tokens: list[int]) -> Reply:
        finished = bool(tokens) and tokens[-1] in stop
        text = loaded.chat.read(prompt, tokens, finished)
        return Reply(text, finish_reason="stop" if finished else "length")

    def rewards(completion_ids: list[list[int]], number: list[int], **others: Any) -> list[float]:
        turns = others.get("turn")
        if turns is None:
            replies = [read(prompts[row], tokens) for row, tokens in zip(number, completion_ids, strict=True)]
            turns = [questions[row].judge(reply) for row, reply in zip(number, replies, strict=True)]
        draw = f"{seed}|{others['trainer_state'].global_step}"
        values, counts = reward.of(turns, number, Random(f"monitor|{draw}|{os.environ.get('RANK', '0')}"))
        for name, count in counts.items():
            others["log_metric"](name, float(count))
        if settings.shuffled_rewards:
            _shuffle_valid(values, turns, number, Random(draw))
        return values

    config = create_config(
        GRPOConfig,
        model,
        settings,
        out,
        seed,
        beta=settings.beta,
        loss_type=settings.loss_type,
        num_generations=settings.num_generations,
        max_completion_length=longest,
        temperature=model.sampling.temperature,
        top_p=model.sampling.top_p,
        top_k=model.sampling.top_k,
        **(vllm_fields(settings, stop) if _samples_with_vllm(model, with_tools) else {}),
    )
    try:
        return _trainer_class()(
            model=loaded.network,
            reward_funcs=rewards,
            args=config,
            train_dataset=Dataset.from_dict({"prompt": prompts, "number": list(range(len(prompts)))}),
            processing_class=tokenizer,
            peft_config=loaded.lora,
            rollout_func=_rollout_function(questions, prompts, model, longest, seed) if with_tools else None,
        )
    except (ImportError, NotImplementedError, ValueError) as error:
        raise AtpError(f"training: trl.GRPOTrainer rejects the settings: {' '.join(str(error).split())}") from error


def vllm_fields(settings: GrpoSettings, stop: Collection[int]) -> dict[str, Any]:
    """Return the fields of TRL's config with which vLLM samples replies, in the process that trains.

    Args:
        stop: the tokens that end a reply.
    """
    return {
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_enable_sleep_mode": True,  # its memory is free during an optimiser step
        "vllm_max_model_length": settings.max_length,  # the default reserves memory for the model's whole context
        "generation_kwargs": {"stop_token_ids": sorted(stop)},
    }


def _samples_with_vllm(model: ModelSpec, with_tools: bool) -> bool:
    """Return whether vLLM samples the replies: it must be the model's engine, and in this Python, on a GPU."""
    from atp.models.load import on_gpu

    if resolve_engine(model, in_process=True).engine != "vllm":
        return False
    check_vllm(model)
    missing = {
        "a reply may call tools": with_tools,
        "there is no GPU": not on_gpu(model),
        "vLLM is not in this Python": find_spec("vllm") is None,
    }
    reasons = [reason for reason, applies in missing.items() if applies]
    if reasons:
        log.warning("%s: GRPO samples replies with transformers, because %s", model.path, reasons[0])
    return not reasons


def _shuffle_valid(values: list[float], turns: Sequence[Turn], questions: Sequence[int], random: Random) -> None:
    """Let the valid replies to each question exchange their rewards."""
    for question in dict.fromkeys(questions):
        rows = [row for row, turn in enumerate(turns) if questions[row] == question and turn.violation is not None]
        for row, value in zip(rows, random.sample([values[row] for row in rows], len(rows)), strict=True):
            values[row] = value


def _rollout_function(
    questions: Sequence[Question], prompts: Sequence[str], model: ModelSpec, longest: int, seed: int
) -> Any:
    """Return the function that TRL calls to answer prompts, which it identifies by their texts."""
    sampling = model.sampling.model_copy(update={"max_new_tokens": longest})
    spec = model.model_copy(update={"sampling": sampling})
    rows = {prompt: number for number, prompt in enumerate(prompts)}

    def generate(prompts: list[str], trainer: Any) -> dict[str, Any]:
        from atp.training.continuation import ContinuingAgent

        network = trainer.accelerator.unwrap_model(trainer.model)
        was_training = network.training
        agent = ContinuingAgent(network.eval(), trainer.processing_class, spec)
        step, process = trainer.state.global_step, trainer.accelerator.process_index
        batched = [questions[rows[prompt]] for prompt in prompts]
        columns: dict[str, list[Any]] = {name: [] for name in ("prompt_ids", "completion_ids", "env_mask", "turn")}
        for begin in range(0, len(batched), agent.batch):
            batch = batched[begin : begin + agent.batch]
            names = [f"grpo|{step}|{process}|{begin + at}" for at in range(len(batch))]

            def seed_of(at: int, later: int, names: Sequence[str] = names) -> int:
                return sampling_seed(seed, names[at], 0, 0, (1, 0, later))

            columns["turn"] += [answer.turn for answer in ask(agent, batch, seed_of)]
            for at in range(len(batch)):
                conversation = agent.conversations[at]
                columns["prompt_ids"].append(conversation.prompt)
                columns["completion_ids"].append(conversation.completion)
                columns["env_mask"].append(conversation.own)
        network.train(was_training)
        return {**columns, "logprobs": None}

    return generate


def _trainer_class() -> Any:
    """Return a subclass of GRPOTrainer that reads prompts and samples replies as rollouts do."""
    from transformers import GenerationConfig
    from trl import GRPOTrainer

    class Trainer(GRPOTrainer):  # type: ignore[misc]
        def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
            tokenizer: Any = self.processing_class
            return tokenizer(prompts, add_special_tokens=False).input_ids, None, {}

        def _generate_single_turn(self, *arguments: Any, **options: Any) -> Any:
            network = self.accelerator.unwrap_model(self.model)
            network = getattr(network, "get_base_model", lambda: network)()
            kept, network.generation_config = network.generation_config, GenerationConfig()
            try:
                return super()._generate_single_turn(*arguments, **options)
            finally:
                network.generation_config = kept  # it is saved with the weights

    return Trainer
