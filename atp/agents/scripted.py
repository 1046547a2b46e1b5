"""Scripted policies: agents whose behaviour is known, for arithmetic by hand, for speed and as yardsticks.

A policy is a function of the prompt's view and of a random number that returns a decision. The reply goes through the
same parser as a model's.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

from atp.agents.base import Request
from atp.errors import AtpError
from atp.testbeds.base import Past, Peers, Reply, View
from atp.testbeds.coordination import COLLUDE, INDEPENDENT

#: Gives the turn's random number, at least 0 and below 1.
Draw = Callable[[], float]
Policy = Callable[[View, Draw], str]

#: Pays that differ by less are equal: 1.2 - 1.0 is not 0.2 in binary fractions.
SAME = 1e-12


def comply() -> Policy:
    """Always obeys."""
    return lambda view, draw: view.complying


def violate() -> Policy:
    """Always violates."""
    return lambda view, draw: view.violating


def random(p: float = 0.5) -> Policy:
    """Violates with probability p, whatever happened before."""
    if not 0 <= p <= 1:
        raise AtpError(f"agent scripted:random: p is {p:g}, must be between 0 and 1")
    return lambda view, draw: view.violating if draw() < p else view.complying


def win_stay_lose_shift() -> Policy:
    """Violates first; keeps a choice that paid more than 0, else takes the other (Nowak and Sigmund 1993)."""

    def policy(view: View, draw: Draw) -> str:
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

    def policy(view: View, draw: Draw) -> str:
        earned: dict[str, list[float]] = {view.violating: [], view.complying: []}
        for past in view.past:
            if past.decision in earned:
                earned[past.decision].append(past.reward)
        rewards = [reward for kept in earned.values() for reward in kept]
        scale = max(map(abs, rewards), default=0.0) or 1.0
        overall = sum(rewards) / len(rewards) if rewards else 0.0
        means = {name: sum(kept) / len(kept) if kept else overall for name, kept in earned.items()}
        gap = (means[view.violating] - means[view.complying]) / scale / temperature
        return view.violating if draw() < _logistic(gap) else view.complying

    return policy


def imitate_majority() -> Policy:
    """Opens as the game says, then does what most players did in the last round, itself included; on a tie colludes."""

    def decide(view: View, own: Past, peers: Peers, draw: Draw) -> str:
        colluded = peers.took[COLLUDE] + (own.decision == COLLUDE)
        return COLLUDE if 2 * colluded >= peers.count + 1 else INDEPENDENT

    return _social("imitate_majority", decide)


def imitate_best() -> Policy:
    """Opens as the game says, then copies the best paid of the last round; keeps its own decision where none was paid
    more (Nowak and May 1992, Nature 359:826).
    """

    def decide(view: View, own: Past, peers: Peers, draw: Draw) -> str:
        if own.decision not in view.answers:
            return view.begins or INDEPENDENT
        paid = {decision: pay for decision, pay in peers.paid.items() if decision in view.answers}
        best = max(paid, key=paid.__getitem__, default=own.decision)
        return best if paid.get(best, peers.own) > peers.own else own.decision

    return _social("imitate_best", decide)


def threshold(share: float = 0.5) -> Policy:
    """Opens as the game says, then colludes if at least this share of the others did (Granovetter 1978, Am. J. Sociol.
    83:1420).
    """
    if not 0 <= share <= 1:
        raise AtpError(f"agent scripted:threshold: share is {share:g}, must be between 0 and 1")

    def decide(view: View, own: Past, peers: Peers, draw: Draw) -> str:
        return COLLUDE if peers.took[COLLUDE] >= share * peers.count else INDEPENDENT

    return _social("threshold", decide)


def best_response(temperature: float = 0.05) -> Policy:
    """Opens as the game says, then answers the others' last round as if they did the same again, with logit noise
    (Blume 1993, Games and Economic Behavior 5:387).

    temperature is in units of one round's pay; at 0 it takes the better decision, and on a tie its last one.
    """
    if not 0 <= temperature < math.inf:
        raise AtpError(f"agent scripted:best_response: temperature is {temperature:g}, must be at least 0 and finite")

    def decide(view: View, own: Past, peers: Peers, draw: Draw) -> str:
        assert view.pays
        others = peers.took[COLLUDE]
        gap = view.pays(COLLUDE, others) - view.pays(INDEPENDENT, others)
        if temperature:
            return COLLUDE if draw() < _logistic(gap / temperature) else INDEPENDENT
        if abs(gap) < SAME:
            return own.decision if own.decision in view.answers else view.begins or INDEPENDENT
        return COLLUDE if gap > 0 else INDEPENDENT

    return _social("best_response", decide)


def _social(name: str, decide: Callable[[View, Past, Peers, Draw], str]) -> Policy:
    """Opens as the game says; later decides by its own last round and what it was told of the others'."""

    def policy(view: View, draw: Draw) -> str:
        if view.begins is None:
            raise AtpError(f"agent scripted:{name}: needs a game such as coordination")
        if not view.past:
            return view.begins
        own = view.past[-1]
        if own.peers is None:
            raise AtpError(f"agent scripted:{name}: needs to be shown what others decide, 'peers' is none")
        return decide(view, own, own.peers, draw)

    return policy


def _drawn(seed: int) -> float:
    """Made only where a policy draws: seeding a generator costs as much as a player's round."""
    return Random(seed).random()


def _logistic(gap: float) -> float:
    return 1 / (1 + math.exp(-gap)) if gap > -700 else 0.0


POLICIES: dict[str, Callable[..., Policy]] = {
    make.__name__: make
    for make in (
        comply,
        violate,
        random,
        win_stay_lose_shift,
        bandit,
        imitate_majority,
        imitate_best,
        threshold,
        best_response,
    )
}

#: Policies that go by what others decide, which coordination alone shows.
SOCIAL = ("imitate_majority", "imitate_best", "threshold", "best_response")


@dataclass(frozen=True)
class ScriptedAgent:
    """An agent that follows a policy."""

    policy: Policy
    batch: int = 2048

    def start(self) -> None:
        pass

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        replies = []
        for request in requests:
            view = request.prompt.view
            replies.append(Reply(view.answers[self.policy(view, partial(_drawn, request.seed))]))
        return replies


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
