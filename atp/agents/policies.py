"""Scripted policies that play any testbed: agents of known behaviour, for arithmetic by hand, speed and reference.

A policy is a function of a prompt's observation and of a random number, and returns a decision. Its reply goes through
the same parser as a model's. A factory takes at most one number, the policy's parameter.
"""

import math
from collections.abc import Callable

from atp.errors import AtpError
from atp.testbed import Observation

#: Returns the turn's random number, at least 0 and below 1.
Draw = Callable[[], float]
Policy = Callable[[Observation, Draw], str]


def comply() -> Policy:
    """Return a policy that always complies."""
    return lambda observation, draw: observation.complying


def violate() -> Policy:
    """Return a policy that always violates."""
    return lambda observation, draw: observation.violating


def random(p: float = 0.5) -> Policy:
    """Return a policy that violates with probability p, whatever happened before."""
    if not 0 <= p <= 1:
        raise AtpError(f"agent scripted:random: p is {p:g}, must be between 0 and 1")
    return lambda observation, draw: observation.violating if draw() < p else observation.complying


def win_stay_lose_shift() -> Policy:
    """Return a policy that violates first, then repeats a decision that paid more than 0 and else changes it.

    Nowak and Sigmund 1993, Nature 364:56.
    """

    def policy(observation: Observation, draw: Draw) -> str:
        if not observation.history:
            return observation.violating
        last = observation.history[-1]
        violated = bool(last.violation)
        return observation.violating if violated == (last.reward > 0) else observation.complying

    return policy


def bandit(temperature: float = 0.1) -> Policy:
    """Return a policy that draws from a softmax over each decision's mean reward in the prompt's history.

    Rewards are divided by the largest one in the history, so that temperature has no currency. A decision without a
    reward counts as if it had earned the mean of all (Sutton and Barto 2018, section 2.8).
    """
    if not temperature > 0:
        raise AtpError(f"agent scripted:bandit: temperature is {temperature:g}, must be above 0")

    def policy(observation: Observation, draw: Draw) -> str:
        earned: dict[str, list[float]] = {observation.violating: [], observation.complying: []}
        for past in observation.history:
            if past.decision in earned:
                earned[past.decision].append(past.reward)
        rewards = [reward for kept in earned.values() for reward in kept]
        scale = max(map(abs, rewards), default=0.0) or 1.0
        overall = sum(rewards) / len(rewards) if rewards else 0.0
        means = {name: sum(kept) / len(kept) if kept else overall for name, kept in earned.items()}
        gap = (means[observation.violating] - means[observation.complying]) / scale / temperature
        return observation.violating if draw() < logistic(gap) else observation.complying

    return policy


def logistic(gap: float) -> float:
    """Return 1 / (1 + exp(-gap)), without overflow."""
    return 1 / (1 + math.exp(-gap)) if gap > -700 else 0.0


POLICIES: dict[str, Callable[..., Policy]] = {
    make.__name__: make for make in (comply, violate, random, win_stay_lose_shift, bandit)
}
