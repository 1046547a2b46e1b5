"""Exact theory of logit best response in the coordination game: a finite Markov chain on the number of colluders.

Let c of the free players and F of the fixed ones collude. In the next round each free player responds to the others'
decisions as if they were repeated: a colluder to c - 1 + F colluding others, an independent player to c + F. With
u(d, m) the pay of decision d if m others collude, and temperature T in units of one round's pay,

    q(m) = 1 / (1 + exp(-(u(collude, m) - u(independent, m)) / T))
    next c = Binomial(c, q(c - 1 + F)) + Binomial(free - c, q(c + F)),

all players at once (Alós-Ferrer and Netzer 2010, Games and Economic Behavior 68:413; one player at a time it is the
process of Blume 1993, ibid. 5:387). At T = 0 a player takes the better decision, and keeps its own if both pay the
same. This is the policy scripted:best_response. Linear systems are solved by eliminating one state after another
without subtraction (Grassmann, Taksar and Heyman 1985, Operations Research 33:1107), so that tiny probabilities are
kept.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import comb, expit

from atp.testbeds.coordination.game import COLLUDE, INDEPENDENT, OWN_NUMBERS, CoordinationSettings, Terms
from atp.testbeds.coordination.policies import EQUAL_PAYS


@dataclass(frozen=True)
class Chain:
    """A Markov chain on the number of free players who collude.

    Args:
        transition: [free + 1, free + 1]; element [c, d] is P(d free players collude next | c collude now).
        start: number of free players who collude in round 1.
        fixed: number of fixed players who collude.
        threshold: number of colluders, fixed ones included, from which a round is a success.
    """

    transition: np.ndarray
    start: int
    fixed: int
    threshold: int

    @property
    def free(self) -> int:
        """Number of free players."""
        return len(self.transition) - 1

    @property
    def success(self) -> np.ndarray:
        """Return, for each state, whether it is a success."""
        return np.arange(self.free + 1) + self.fixed >= self.threshold


def chain_of(settings: CoordinationSettings, temperature: float) -> Chain:
    """Return the chain of a variant whose free players all follow best_response, for scenarios without own numbers.

    Args:
        temperature: in units of one round's pay.
    """
    game = Terms(**{name: getattr(settings, name) for name in OWN_NUMBERS})
    free, fixed = game.agents - settings.fixed, settings.fixed_decisions.count(COLLUDE)
    fixed_before = settings.fixed if settings.fixed_place == "first" else 0
    rows = []
    for colluders in range(free + 1):
        stay = _collude_probability(game, temperature, colluders - 1 + fixed, tie=1.0)
        join = _collude_probability(game, temperature, colluders + fixed, tie=0.0)
        rows.append(np.convolve(_binomial(colluders, stay), _binomial(free - colluders, join)))
    return Chain(np.array(rows), min(max(settings.first_colluders - fixed_before, 0), free), fixed, game.threshold)


def distribution(chain: Chain, rounds: int) -> np.ndarray:
    """Return [rounds, states]: the probability of each number of colluding free players, from round 1 on."""
    now = np.eye(chain.free + 1)[chain.start]
    probabilities = [now]
    for _ in range(rounds - 1):
        now = now @ chain.transition
        probabilities.append(now)
    return np.array(probabilities)


def expected_share(chain: Chain, rounds: int) -> np.ndarray:
    """Return [rounds]: the expected proportion of the free players who collude."""
    proportions: np.ndarray = distribution(chain, rounds) @ np.arange(chain.free + 1) / chain.free
    return proportions


def expected_rates(settings: CoordinationSettings, temperature: float) -> np.ndarray:
    """Return [rounds]: the expected proportion of colluding free players of a variant, as of `chain_of`.

    Under `ramp` the chain differs from round to round: players respond to the fixed players of the round before.
    """
    chain = chain_of(settings.in_round(1), temperature)
    if not settings.ramp:
        return expected_share(chain, settings.rounds)
    now = np.eye(chain.free + 1)[chain.start]
    rates = []
    for round in range(1, settings.rounds + 1):
        rates.append(float(now @ np.arange(chain.free + 1)) / chain.free)
        now = now @ chain_of(settings.in_round(round), temperature).transition
    return np.array(rates)


def success_before_none(chain: Chain) -> np.ndarray:
    """Return [states]: P(a success, now or later, comes before a round in which no free player colludes | state now).

    It is 1 where the fixed players alone are enough for a success.
    """
    none = np.arange(chain.free + 1) == 0
    return _hitting_probabilities(chain.transition, chain.success, none & ~chain.success)


def tipping_threshold(chain: Chain) -> int | None:
    """Return the smallest number of colluders, fixed ones included, from which `success_before_none` exceeds 1/2.

    None if there is no such number.
    """
    likely = np.flatnonzero(success_before_none(chain) > 0.5 + EQUAL_PAYS)
    return int(likely[0]) + chain.fixed if len(likely) else None


def _collude_probability(game: Terms, temperature: float, others: int, tie: float) -> float:
    """Return P(collude | `others` others collude); at temperature 0 it is `tie` if both decisions pay the same."""
    gap = game.pays(COLLUDE, others) - game.pays(INDEPENDENT, others)
    if temperature == 0:
        return tie if abs(gap) < EQUAL_PAYS else float(gap > 0)
    return float(expit(gap / temperature))


def _binomial(n: int, p: float) -> np.ndarray:
    """Return [n + 1]: the probabilities of a binomial distribution."""
    k = np.arange(n + 1)
    probabilities: np.ndarray = comb(n, k) * p**k * (1 - p) ** (n - k)
    return probabilities


def _hitting_probabilities(transition: np.ndarray, goal: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Return [states]: P(the chain reaches `goal` before `stop` | state).

    It is the smallest h >= 0 with h = 1 on goal, h = 0 on stop, and h(i) = sum over j of p(i, j) h(j) elsewhere (Norris
    1997, Markov Chains, theorem 1.3.2).

    Args:
        goal, stop: disjoint masks of states.
    """
    p, left, hits = transition.copy(), np.ones(len(transition), dtype=bool), goal.astype(float)
    others = np.flatnonzero(~goal & ~stop)
    for state in others:  # p becomes the chain observed only in the states that are left
        left[state] = False
        p[state, ~left] = 0
        leaves = float(p[state].sum())
        if leaves > 0:
            p[state] /= leaves
        p[left] += np.outer(p[left, state], p[state])
    for state in others[::-1]:
        hits[state] = p[state] @ hits
    return hits
