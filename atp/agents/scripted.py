"""Scripted policies: agents whose behaviour is known, for arithmetic by hand, for speed and as yardsticks.

A policy is a function of the prompt's view and a generator that returns a decision. The reply goes through the same
parser as a model's.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from atp.agents.base import Request
from atp.errors import AtpError
from atp.testbeds.base import Reply, View

Policy = Callable[[View, Random], str]


def comply() -> Policy:
    """Always obeys."""
    return lambda view, rng: view.complying


def violate() -> Policy:
    """Always violates."""
    return lambda view, rng: view.violating


def random(p: float = 0.5) -> Policy:
    """Violates with probability p, whatever happened before."""
    if not 0 <= p <= 1:
        raise AtpError(f"agent scripted:random: p is {p:g}, must be between 0 and 1")
    return lambda view, rng: view.violating if rng.random() < p else view.complying


def win_stay_lose_shift() -> Policy:
    """Violates first; keeps a choice that paid more than 0, else takes the other (Nowak and Sigmund 1993)."""

    def policy(view: View, rng: Random) -> str:
        if not view.past:
            return view.violating
        last = view.past[-1]
        violated = bool(last.violation)
        return view.violating if violated == (last.reward > 0) else view.complying

    return policy


def bandit(temperature: float = 0.1) -> Policy:
    """Softmax over the mean reward each choice has earned in the window (Sutton and Barto 2018, section 2.8).

    Rewards are taken relative to the largest one seen, so that temperature has no currency; a choice not yet tried
    counts as if it had earned the mean of all.
    """
    if not temperature > 0:
        raise AtpError(f"agent scripted:bandit: temperature is {temperature:g}, must be above 0")

    def policy(view: View, rng: Random) -> str:
        earned: dict[str, list[float]] = {view.violating: [], view.complying: []}
        for past in view.past:
            if past.decision in earned:
                earned[past.decision].append(past.reward)
        rewards = [reward for kept in earned.values() for reward in kept]
        scale = max(map(abs, rewards), default=0.0) or 1.0
        overall = sum(rewards) / len(rewards) if rewards else 0.0
        means = {name: sum(kept) / len(kept) if kept else overall for name, kept in earned.items()}
        gap = (means[view.violating] - means[view.complying]) / scale / temperature
        chance = 1 / (1 + math.exp(-gap)) if gap > -700 else 0.0
        return view.violating if rng.random() < chance else view.complying

    return policy


POLICIES: dict[str, Callable[..., Policy]] = {
    make.__name__: make for make in (comply, violate, random, win_stay_lose_shift, bandit)
}


@dataclass(frozen=True)
class ScriptedAgent:
    """An agent that follows a policy."""

    policy: Policy
    batch: int = 2048

    def start(self) -> None:
        pass

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        return [
            Reply(text=request.prompt.view.answers[self.policy(request.prompt.view, Random(request.seed))])
            for request in requests
        ]


def scripted(spec: str) -> ScriptedAgent:
    """Agent of `NAME` or `NAME:NUMBER`, the policy's one parameter.

    Raises:
        AtpError: unknown policy, or a parameter that it does not take.
    """
    name, _, value = spec.partition(":")
    if name not in POLICIES:
        raise AtpError(f"agent scripted:{spec}: unknown policy '{name}', known are {', '.join(POLICIES)}")
    try:
        return ScriptedAgent(POLICIES[name](float(value)) if value else POLICIES[name]())
    except (TypeError, ValueError):
        raise AtpError(f"agent scripted:{spec}: '{value}' is no parameter of policy '{name}'") from None
