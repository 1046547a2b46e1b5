"""The rules of the protocol that playing a testbed can check."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from atp.extend.episodes import Answer, BrokenRule, Player, place, stating
from atp.extend.values import mismatch
from atp.files.columns import from_row, to_arrow
from atp.scenarios.sources import source_settings
from atp.testbed import INVALID, Prompt, Reply, Scenario, Testbed, Turn

#: A reply that states no decision of any testbed.
NO_DECISION = "~"
#: {name}, but not a placeholder of LaTeX such as \boxed{answer}, and not JSON.
PLACEHOLDER = re.compile(r"(?<![\w\\])\{[A-Za-z_]\w*\}")
SPLITS = ("test", "train")
TOLERANCE = 1e-9


def make_scenarios(testbed: Testbed, source: Mapping[str, Any], count: int, seed: int) -> Sequence[Scenario]:
    """Return scenarios of both splits.

    Args:
        source: settings of the source of scenarios, next to the numbers of scenarios and the seed.
        count: scenarios of each split.

    Raises:
        BrokenRule: values that are no scenarios of the testbed.
        AtpError: unreadable files, or too few different instances.
    """
    values = {"train": count, "test": count, "seed": seed, **source}
    scenarios = source_settings(testbed, values).scenarios(_with_checks(testbed), Path())
    for scenario in scenarios:
        _check_scenario(testbed, scenario, getattr(scenario, "split", None))
    for split in SPLITS:
        if not any(scenario.split == split for scenario in scenarios):
            raise BrokenRule(f"{_place_of_scenarios(testbed)}: there are no scenarios with split '{split}'")
    return scenarios


def _with_checks(testbed: Testbed) -> Testbed:
    """Return a testbed whose `instantiate` is checked at once, before anything uses its scenarios."""
    if not (instantiate := testbed.instantiate):
        return testbed

    def checked(template: Any, split: str, rng: Random, **further: Any) -> Scenario:
        scenario = instantiate(template, split, rng, **further)
        _check_scenario(testbed, scenario, split)
        return scenario

    return replace(testbed, instantiate=checked)


def _check_scenario(testbed: Testbed, scenario: Any, split: str | None) -> None:
    where = _place_of_scenarios(testbed)
    if not isinstance(scenario, testbed.scenario):
        raise BrokenRule(f"{where} must return a {testbed.scenario.__name__}, found {scenario!r:.80}")
    if wrong := mismatch(scenario, testbed.scenario):
        raise BrokenRule(f"{where}, scenario '{scenario.scenario_id}': {wrong.removeprefix('.')}")
    if scenario.split not in SPLITS or scenario.split != split:
        raise BrokenRule(
            f"{where}, scenario '{scenario.scenario_id}': split is '{scenario.split}', must be that of the argument, "
            f"'{split}'"
        )


def _place_of_scenarios(testbed: Testbed) -> str:
    if not testbed.instantiate:
        return f"testbed '{testbed.name}'"
    return f"{place(testbed, testbed.instantiate)}: {getattr(testbed.instantiate, '__name__', 'instantiate')}"


def stored(testbed: Testbed, scenarios: Sequence[Scenario]) -> str:
    """Check that scenarios are the same after they were stored and read, and that their names differ."""
    rows = to_arrow(scenarios, testbed.scenario).to_pylist()
    pairs = zip(scenarios, rows, strict=True)
    changed = next((one for one, row in pairs if from_row(row, testbed.scenario) != one), None)
    if changed is not None:
        raise BrokenRule(f"scenario {changed.scenario_id} is another one after it was stored and read")
    ids = [scenario.scenario_id for scenario in scenarios]
    if len(set(ids)) < len(ids):
        raise BrokenRule("two scenarios have the same scenario_id; make it with atp.scenarios.scenario.stable_id")
    return f"such as {ids[0]}"


def same_scenarios(testbed: Testbed, scenarios: Sequence[Scenario], source: Mapping[str, Any], seed: int) -> None:
    """Check that the same seed makes the same scenarios, and that more of one split leave the other as it is."""
    count = sum(scenario.split == "test" for scenario in scenarios)
    if list(make_scenarios(testbed, source, count, seed)) != list(scenarios):
        raise BrokenRule(
            f"{_place_of_scenarios(testbed)}: two scenarios with the same seed differ: draw all chance from `rng`"
        )


def no_shared_prompt(player: Player, scenarios: Sequence[Scenario]) -> str:
    """Check that no scenario of one split begins as one of the other."""
    prompts: dict[str, set[str]] = {"train": set(), "test": set()}
    settings = player.settings()
    for scenario in scenarios:
        first: Any = next(player.testbed.play(scenario, settings, Random(0)))
        prompts[scenario.split] |= {str(prompt.messages) for prompt in first if isinstance(prompt, Prompt)}
    shared = prompts["train"] & prompts["test"]
    if shared:
        raise BrokenRule(f"{len(shared)} prompts occur in both splits, such as {min(shared)[:120]}")
    return f"{len(prompts['train'])} and {len(prompts['test'])} prompts"


def protocol(player: Player) -> str:
    """Check prompts and turns, and that `players` is the number of agents."""
    total = 0
    variants: tuple[dict[str, Any], ...] = ({}, {"rounds": 1})
    for values in variants:
        for scenario, settings, prompts, turns in player.episodes(**values):
            agents = {prompt.agent for prompt in prompts}
            players = player.testbed.players(scenario, settings)
            if len(agents) != players or isinstance(players, bool) or not isinstance(players, int):
                where, numbers = place(player.testbed, player.testbed.players), ", ".join(map(str, sorted(agents)))
                raise BrokenRule(f"{where}: players is {players!r}, but play asks the agents {numbers}")
            total += 0 if values else len(turns)
    return f"{total} turns of {len(player.scenarios)} episodes"


def decisions(player: Player) -> str:
    """Check that the reply which states a decision is read as this decision, at every prompt."""
    names: dict[str, None] = {}
    for _, _, prompts, _ in player.episodes():
        names |= dict.fromkeys(decision for prompt in prompts for decision in prompt.observation.answers)
    for decision in names:
        for _, _, prompts, turns in player.episodes(partial(stating, decision=decision)):
            _check_decision(player.testbed, decision, prompts, turns)
    return ", ".join(names)


def _check_decision(testbed: Testbed, decision: str, prompts: Sequence[Prompt], turns: Sequence[Turn]) -> None:
    """Raise BrokenRule unless turns of agents that could state a decision, and did, have it."""
    observations = {(prompt.round, prompt.agent): prompt.observation for prompt in prompts if not prompt.step}
    for turn in turns:
        observation = observations[turn.round, turn.agent]
        if decision not in observation.answers:
            continue
        problem = None
        if turn.decision != decision:
            problem = f"the reply that states '{decision}' was read as '{turn.decision}' ({turn.invalid_reason})"
        elif decision == observation.violating and not turn.violation:
            problem = f"'{decision}' is observation.violating, but its turn is not a violation"
        elif decision == observation.complying and turn.violation:
            problem = f"'{decision}' is the first decision that is not observation.violating, but a violation"
        elif observation.violations is not None and turn.violation != (decision in observation.violations):
            problem = (
                f"violation is {turn.violation} with decision '{decision}', which observation.violations contradicts"
            )
        if problem:
            raise BrokenRule(f"{place(testbed)}: {problem}; the reply is '{observation.answers[decision]:.80}'")


def invalid(player: Player) -> str:
    """Check that a reply without a decision is invalid and pays no more than any decision, whatever others decide."""
    settings, compared = player.settings(rounds=1), 0
    for number, scenario in enumerate(player.scenarios):
        first: Any = next(player.testbed.play(scenario, settings, Random(player.seed + number)))
        for prompt in first[:2] if isinstance(first[0], Prompt) else ():
            for others in prompt.observation.answers:
                compared += _compare_pay(player, number, settings, prompt, others)
    return f"{compared} comparisons"


def cut_off(player: Player) -> None:
    """Check that a reply which ended at the length limit, before its statement was complete, is no decision."""
    for answer in (comply, violate):

        def begin(prompt: Prompt, answer: Answer = answer) -> Reply:
            return Reply(str(answer(prompt))[:-1], finish_reason="length")

        for *_, turns in player.episodes(begin):
            for turn in turns:
                if turn.decision != INVALID:
                    raise BrokenRule(
                        f"{place(player.testbed)}: the reply '{turn.reply.text:.80}' was cut off (finish_reason "
                        f"'length'), but was read as '{turn.decision}', must be '{INVALID}': give the functions of "
                        "atp.parsing the Reply, not its text"
                    )


def _compare_pay(player: Player, number: int, settings: Any, asked: Prompt, others: str) -> int:
    """Compare what one agent earns by a reply without a decision and by each decision, the others' being fixed."""

    def turn_of(text: str | None) -> Turn:
        def answer(prompt: Prompt) -> str:
            if prompt.agent != asked.agent:
                return stating(prompt, others)
            return NO_DECISION if text is None else stating(prompt, text)

        scenario, seed = player.scenarios[number], player.seed + number
        _, turns = player.play(scenario, settings, seed, answer)
        return next(turn for turn in turns if (turn.round, turn.agent) == (asked.round, asked.agent))

    without = turn_of(None)
    if without.decision != INVALID:
        raise BrokenRule(
            f"{place(player.testbed)}: the reply '{NO_DECISION}' states no decision, but was read as "
            f"'{without.decision}', must be '{INVALID}'"
        )
    for decision in asked.observation.answers:
        valid = turn_of(decision)
        if without.reward > valid.reward + TOLERANCE:
            raise BrokenRule(
                f"{place(player.testbed)}: an invalid reply pays {without.reward:g}, more than '{decision}' with "
                f"{valid.reward:g}: models would learn to give no decision"
            )
    return len(asked.observation.answers)


def repeatable(player: Player) -> None:
    """Check that the same seed and replies give the same episode."""
    for one, other in zip(player.episodes(), player.episodes(), strict=True):
        asked = [[(prompt_key(prompt), prompt.messages) for prompt in episode[2]] for episode in (one, other)]
        if asked[0] != asked[1] or one[3] != other[3]:
            raise BrokenRule(
                f"{place(player.testbed)}: two episodes with the same seed and replies differ: draw all chance from "
                "`rng`"
            )


def finite(player: Player) -> str:
    """Check that all rewards are finite."""
    rewards = [turn.reward for *_, turns in player.episodes() for turn in turns]
    wrong = [reward for reward in rewards if not math.isfinite(reward)]
    if wrong:
        raise BrokenRule(f"{place(player.testbed)}: Turn.reward must be finite, found {wrong[0]}")
    return f"{min(rewards):g} to {max(rewards):g}"


def placeholders(player: Player) -> None:
    """Check that no text of a prompt or a feedback has a placeholder that was not filled in."""
    for *_, prompts, turns in player.episodes():
        texts = [message["content"] for prompt in prompts for message in prompt.messages]
        for text in [*texts, *(turn.feedback for turn in turns)]:
            if match := PLACEHOLDER.search(text):
                excerpt = text[max(0, match.start() - 40) : match.end() + 20]
                raise BrokenRule(f"{match[0]} is not filled in: {excerpt!r}")


def alignment(player: Player) -> str:
    """Check that alignment by GRPO pays compliance more than a violation, and an invalid reply no more than either."""
    where = place(player.testbed, player.testbed.alignment_reward)
    paid: dict[bool | None, list[float]] = {True: [], False: [], None: []}
    answers: tuple[Answer, ...] = (comply, violate, lambda prompt: NO_DECISION)
    for answer in answers:
        for *_, turns in player.episodes(answer, rounds=1):
            for turn in turns:
                paid[turn.violation].append(player.testbed.alignment_reward(turn))
    if not all(
        isinstance(reward, int | float) and math.isfinite(reward) for rewards in paid.values() for reward in rewards
    ):
        raise BrokenRule(f"{where}: alignment_reward must return finite numbers")
    least = min(paid[False], default=math.inf)
    for violation, name in ((True, "a violation"), (None, "an invalid reply")):
        most = max(paid[violation], default=-math.inf)
        if most >= least:
            raise BrokenRule(
                f"{where}: alignment_reward pays {name} {most:g}, must be less than for compliance, {least:g}"
            )
    return f"compliance {least:g}"


def prompt_key(prompt: Prompt) -> tuple[int, int, int]:
    """Return what identifies a prompt in an episode."""
    return prompt.round, prompt.agent, prompt.step


def comply(prompt: Prompt) -> str:
    """Return the complying reply."""
    return prompt.observation.answers[prompt.observation.complying]


def violate(prompt: Prompt) -> str:
    """Return the violating reply."""
    return prompt.observation.answers[prompt.observation.violating]
