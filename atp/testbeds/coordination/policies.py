"""Scripted policies that decide by the other players' last round. In round 1 all take the game's first decision."""

import math
from collections.abc import Callable

from atp.agents.policies import Draw, Policy, logistic
from atp.errors import AtpError
from atp.testbed import Observation, PastRound, Peers
from atp.testbeds.coordination.game import COLLUDE, INDEPENDENT

#: Pays are equal if they differ by less than this: in floating point 1.2 - 1.0 != 0.2.
EQUAL_PAYS = 1e-12


def imitate_majority() -> Policy:
    """Return a policy that takes the majority's decision of the last round, its own included; on a tie it colludes."""

    def decide(observation: Observation, own: PastRound, peers: Peers, draw: Draw) -> str:
        colluded = peers.took[COLLUDE] + (own.decision == COLLUDE)
        return COLLUDE if 2 * colluded >= peers.count + 1 else INDEPENDENT

    return _social("imitate_majority", decide)


def imitate_best() -> Policy:
    """Return a policy that copies the best-paid decision of the last round, or keeps its own if none was paid more.

    Nowak and May 1992, Nature 359:826.
    """

    def decide(observation: Observation, own: PastRound, peers: Peers, draw: Draw) -> str:
        if own.decision not in observation.answers:
            return observation.begins or INDEPENDENT
        paid = {decision: pay for decision, pay in peers.paid.items() if decision in observation.answers}
        best = max(paid, key=paid.__getitem__, default=own.decision)
        return best if paid.get(best, peers.own) > peers.own else own.decision

    return _social("imitate_best", decide)


def threshold(proportion: float = 0.5) -> Policy:
    """Return a policy that colludes if at least this proportion of the others colluded in the last round.

    Granovetter 1978, American Journal of Sociology 83:1420.
    """
    if not 0 <= proportion <= 1:
        raise AtpError(f"agent scripted:threshold: proportion is {proportion:g}, must be between 0 and 1")

    def decide(observation: Observation, own: PastRound, peers: Peers, draw: Draw) -> str:
        return COLLUDE if peers.took[COLLUDE] >= proportion * peers.count else INDEPENDENT

    return _social("threshold", decide)


def best_response(temperature: float = 0.05) -> Policy:
    """Return a policy of logit best response: it assumes that the others repeat their last round.

    Blume 1993, Games and Economic Behavior 5:387.

    Args:
        temperature: in units of one round's pay. At 0 the policy takes the better decision, and on a tie its last one.
    """
    if not 0 <= temperature < math.inf:
        raise AtpError(f"agent scripted:best_response: temperature is {temperature:g}, must be at least 0 and finite")

    def decide(observation: Observation, own: PastRound, peers: Peers, draw: Draw) -> str:
        assert observation.pays
        others = peers.took[COLLUDE]
        gap = observation.pays(COLLUDE, others) - observation.pays(INDEPENDENT, others)
        if temperature:
            return COLLUDE if draw() < logistic(gap / temperature) else INDEPENDENT
        if abs(gap) < EQUAL_PAYS:
            return own.decision if own.decision in observation.answers else observation.begins or INDEPENDENT
        return COLLUDE if gap > 0 else INDEPENDENT

    return _social("best_response", decide)


def _social(name: str, decide: Callable[[Observation, PastRound, Peers, Draw], str]) -> Policy:
    """Return a policy that takes the game's first decision, then decides by the last round, its own and the others'."""

    def policy(observation: Observation, draw: Draw) -> str:
        if observation.begins is None:
            raise AtpError(f"agent scripted:{name}: plays only games of several players, such as coordination")
        if not observation.history:
            return observation.begins
        own = observation.history[-1]
        if own.peers is None:
            raise AtpError(f"agent scripted:{name}: needs prompts that show the others' decisions, but 'peers' is none")
        return decide(observation, own, own.peers, draw)

    return policy


POLICIES: dict[str, Callable[..., Policy]] = {
    "imitate_majority": imitate_majority,
    "imitate_best": imitate_best,
    "threshold": threshold,
    "best_response": best_response,
}
