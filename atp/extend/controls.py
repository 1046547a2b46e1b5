"""The rules that a testbed's controls must keep: what a prompt shows about earlier rounds, and what is paid."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from atp.extend.episodes import BrokenRule, Player, place
from atp.extend.rules import TOLERANCE, comply, prompt_key, violate
from atp.testbed import TESTED

#: Rounds of episodes in which an order can be seen.
MANY_ROUNDS: Mapping[str, Any] = {"rounds": 5, "window": 5}


def no_memory(player: Player, control: Mapping[str, Any]) -> None:
    """Check that no prompt shows an earlier round."""
    for *_, prompts, _ in player.episodes(**control):
        for prompt in prompts:
            roles = [message["role"] for message in prompt.messages]
            if prompt.observation.history or (prompt.step == 0 and "assistant" in roles):
                raise BrokenRule(
                    f"a prompt of round {prompt.round} shows earlier rounds: show those that `remembered` returns"
                )


def shuffled(player: Player, control: Mapping[str, Any]) -> str:
    """Check that prompts show the same rounds in another order, and that nothing else changes."""
    moved = 0
    episodes = (player.episodes(**MANY_ROUNDS), player.episodes(**{**MANY_ROUNDS, **control}))
    for (*_, ordered, turns), (*_, mixed, mixed_turns) in zip(*episodes, strict=True):
        if [turn.reward for turn in turns] != [turn.reward for turn in mixed_turns]:
            raise BrokenRule(
                "shuffling changes what is paid: make `order = shuffler(rng)` before the first draw from `rng`"
            )
        for one, other in zip(ordered, mixed, strict=False):
            if prompt_key(one) != prompt_key(other) or one.step:
                continue
            before, after = (sorted(map(str, prompt.observation.history)) for prompt in (one, other))
            if before != after:
                raise BrokenRule(f"a prompt of round {one.round} shows other rounds when they are shuffled")
            moved += one.messages != other.messages
    if not moved:
        raise BrokenRule("no prompt changes: pass a random source from `shuffler(rng)` to `remembered`")
    return f"{moved} prompts change"


def blind(player: Player, control: Mapping[str, Any]) -> None:
    """Check that prompts show earlier decisions without what they paid."""
    changed = False
    for (*_, seeing, turns), (*_, unseeing, same) in zip(player.episodes(), player.episodes(**control), strict=True):
        if [turn.reward for turn in turns] != [turn.reward for turn in same]:
            raise BrokenRule("what is paid changes: only prompts may")
        for prompt in unseeing:
            shown = [past for past in prompt.observation.history if past.reward]
            if shown:
                raise BrokenRule(
                    f"prompt of round {prompt.round} shows a reward of {shown[0].reward:g}, PastRound.reward must be 0"
                )
        paid = any(past.reward for prompt in seeing for past in prompt.observation.history)
        changed |= not paid or [prompt.messages for prompt in seeing] != [prompt.messages for prompt in unseeing]
    if not changed:
        raise BrokenRule("prompts are the same as without it: leave what was paid out of the feedback")


def unaudited(player: Player, control: Mapping[str, Any]) -> None:
    """Check that prompts which do not show the pay either are the same whether or not violations are caught."""
    supervision = player.testbed.controls.get("supervised")
    hidden = {"blind": True, **control}
    episodes = (player.episodes(violate, **hidden), player.episodes(violate, **{**(supervision or {}), **hidden}))
    for (*_, free, _), (*_, caught, _) in zip(*episodes, strict=True):
        for one, other in zip(free, caught, strict=False):
            if one.messages != other.messages:
                raise BrokenRule(
                    f"a prompt of round {other.round} shows that a violation was caught: leave it out of the feedback"
                )


def reset(player: Player, control: Mapping[str, Any]) -> None:
    """Check that the prompts after a reset show no round before it."""
    last_round = int(control.get("reset_after", 2)) + 1
    for *_, prompts, _ in player.episodes(rounds=last_round, **control):
        last = [prompt.observation.history for prompt in prompts if prompt.round == last_round and not prompt.step]
        if last and all(last):
            raise BrokenRule(f"all prompts of round {last_round} show rounds before the reset")


def reminder(player: Player, control: Mapping[str, Any]) -> None:
    """Check that prompts end with the rule."""
    for (*_, plain, _), (*_, reminded, _) in zip(player.episodes(), player.episodes(**control), strict=True):
        for one, other in zip(plain, reminded, strict=True):
            before, after = one.messages[-1]["content"], other.messages[-1]["content"]
            if one.step == 0 and not (after.startswith(before) and len(after) > len(before)):
                raise BrokenRule(f"a prompt of round {one.round} does not end with the rule: use `reminded`")


def neutral(player: Player, control: Mapping[str, Any]) -> str:
    """Check that prompts show as many rounds, none of which is the agent's own, and that nothing else changes."""
    replaced = 0
    episodes = (player.episodes(**MANY_ROUNDS), player.episodes(**{**MANY_ROUNDS, **control}))
    for (*_, own, turns), (*_, others, same) in zip(*episodes, strict=True):
        if [turn.reward for turn in turns] != [turn.reward for turn in same]:
            raise BrokenRule("what is paid changes: only prompts may")
        replies = {turn.reply.text for turn in turns}
        for one, other in zip(own, others, strict=True):
            if [message["role"] for message in one.messages] != [message["role"] for message in other.messages]:
                raise BrokenRule(f"a prompt of round {one.round} has other messages than with the agent's own history")
            shown = {message["content"] for message in other.messages if message["role"] == "assistant"}
            if shown & replies or (other.observation.history and not other.step):
                raise BrokenRule(f"a prompt of round {one.round} shows an earlier round of the agent's own")
            replaced += bool(shown)
    return f"{replaced} prompts with neutral rounds"


def supervised(player: Player, control: Mapping[str, Any]) -> str:
    """Check that every violation is caught."""
    caught = 0
    for *_, turns in player.episodes(violate, **control):
        for turn in turns:
            if turn.violation and turn.role != TESTED and not turn.caught:
                raise BrokenRule(f"a violation in round {turn.round} has Turn.caught {turn.caught}")
            caught += turn.caught is True
    for *_, turns in player.episodes(comply, **control):
        for turn in turns:
            if turn.caught and not turn.violation:
                raise BrokenRule(f"compliance in round {turn.round} has Turn.caught {turn.caught}")
    return f"{caught} violations caught"


def same_pay(player: Player, control: Mapping[str, Any]) -> None:
    """Check that an episode of violations pays as much as one of compliance."""
    episodes = (player.episodes(answer, **control) for answer in (comply, violate))
    for (*_, complying), (*_, violating) in zip(*episodes, strict=True):
        totals = [sum(turn.reward for turn in turns if turn.role != TESTED) for turns in (complying, violating)]
        if not math.isclose(*totals, rel_tol=1e-6, abs_tol=TOLERANCE):
            raise BrokenRule(f"an episode of violations pays {totals[1]:g}, one of compliance {totals[0]:g}")


#: Name of a control -> its test.
TESTS: dict[str, Callable[[Player, Mapping[str, Any]], str | None]] = {
    test.__name__: test
    for test in (no_memory, shuffled, blind, unaudited, reset, reminder, neutral, supervised, same_pay)
}


def check_control(player: Player, name: str, control: Mapping[str, Any]) -> str | None:
    """Check a control. Its errors name the place of the testbed's play."""
    player.settings(**control)
    try:
        return TESTS[name](player, control)
    except BrokenRule as error:
        raise BrokenRule(f"{place(player.testbed)}: {error}") from None
