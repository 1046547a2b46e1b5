"""Logit best response in the coordination game, exactly: a finite Markov chain on the number of colluders.

Knows the game's numbers and no turns. Let c of the free players collude, and F of the fixed ones. In the next round
each free player answers what the others did as if they did it again: a colluder answers c - 1 + F others, an
independent player c + F. With u(d, m) the pay of decision d where m others collude, and temperature T in units of one
round's pay,

    q(m) = 1 / (1 + exp(-(u(collude, m) - u(independent, m)) / T))
    next c = Binomial(c, q(c - 1 + F)) + Binomial(free - c, q(c + F)),

all players at once (Alós-Ferrer and Netzer 2010, Games and Economic Behavior 68:413; one at a time it is the process of
Blume 1993, ibid. 5:387). At T = 0 a player takes the better decision, and keeps its own where both pay the same. That
is what scripted:best_response plays. Linear systems are solved by taking out one state after another without
subtraction (Grassmann, Taksar and Heyman 1985, Operations Research 33:1107), which keeps chances of any size.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components
from scipy.special import comb, expit

from atp.agents.scripted import SAME
from atp.testbeds.coordination import COLLUDE, INDEPENDENT, OWN, CoordinationSettings, Terms


@dataclass(frozen=True)
class Chain:
    """transition[c, d] is P(d of the free players collude next | c did); in round 1 `start` of them do.

    fixed counts fixed players who collude: c + fixed collude in all, a success from `threshold` on.
    """

    transition: np.ndarray
    start: int
    fixed: int
    threshold: int

    @property
    def free(self) -> int:
        return len(self.transition) - 1

    @property
    def success(self) -> np.ndarray:
        """Per state, whether it is a success."""
        return np.arange(self.free + 1) + self.fixed >= self.threshold


@dataclass(frozen=True)
class Closed:
    """States that the chain, once in one of them, never leaves.

    stationary is the share of rounds that it then spends in each, in the long run; chance is P(it ends here | start).
    """

    states: tuple[int, ...]
    stationary: np.ndarray
    chance: float


def best_response_chain(
    game: Terms, temperature: float, fixed: int = 0, fixed_collude: bool = True, start: int = 0
) -> Chain:
    """The chain of a game whose free players all follow best_response.

    Args:
        fixed: players who always do the same: collude, or not.
        start: free players who collude in round 1.
    """
    free, joined = game.agents - fixed, fixed if fixed_collude else 0
    rows = []
    for colluders in range(free + 1):
        stay = _chance(game, temperature, colluders - 1 + joined, own=1.0)
        join = _chance(game, temperature, colluders + joined, own=0.0)
        rows.append(np.convolve(_binomial(colluders, stay), _binomial(free - colluders, join)))
    return Chain(np.array(rows), start, joined, game.threshold)


def chain_of(settings: CoordinationSettings, temperature: float) -> Chain:
    """The chain of a variant, for scenarios that have no numbers of their own."""
    game = Terms(**{name: getattr(settings, name) for name in OWN})
    before = settings.fixed if settings.fixed_place == "first" else 0
    start = min(max(settings.first_colluders - before, 0), settings.agents - settings.fixed)
    return best_response_chain(game, temperature, settings.fixed, settings.fixed_decision == COLLUDE, start)


def distribution(chain: Chain, rounds: int) -> np.ndarray:
    """[rounds, states]: P(so many free players collude in that round), from round 1, which is certain, on."""
    now = np.eye(chain.free + 1)[chain.start]
    found = [now]
    for _ in range(rounds - 1):
        now = now @ chain.transition
        found.append(now)
    return np.array(found)


def expected_share(chain: Chain, rounds: int) -> np.ndarray:
    """Expected share of the free players who collude, a round."""
    shares: np.ndarray = distribution(chain, rounds) @ np.arange(chain.free + 1) / chain.free
    return shares


def closed_classes(chain: Chain) -> list[Closed]:
    """Where the chain ends up. At T > 0 all states are one class, unless a chance is too small for a float."""
    count, label = connected_components(csr_matrix(chain.transition > 0), directed=True, connection="strong")
    members = [label == each for each in range(count)]
    closed = [inside for inside in members if not chain.transition[np.ix_(inside, ~inside)].any()]
    anywhere = np.any(closed, axis=0)
    found = []
    for inside in sorted(closed, key=lambda inside: int(np.flatnonzero(inside)[0])):
        chance = float(_hits(chain.transition, inside, anywhere & ~inside)[chain.start])
        stationary = _stationary(chain.transition[np.ix_(inside, inside)])
        found.append(Closed(tuple(map(int, np.flatnonzero(inside))), stationary, chance))
    return found


def success_before_none(chain: Chain) -> np.ndarray:
    """Per number of free colluders now, P(a success comes, now or later, before none of them colludes).

    Where the fixed players alone make a success it is certain.
    """
    none = np.arange(chain.free + 1) == 0
    return _hits(chain.transition, chain.success, none & ~chain.success)


def tipping_threshold(chain: Chain) -> int | None:
    """The smallest number of colluders, fixed ones among them, from which a success is likelier than not to come before
    none of the free players collude; None where it is from no number.
    """
    likelier = np.flatnonzero(success_before_none(chain) > 0.5 + SAME)
    return int(likelier[0]) + chain.fixed if len(likelier) else None


def _chance(game: Terms, temperature: float, others: int, own: float) -> float:
    """P(collude | so many others did); `own` is what it is on a tie at temperature 0."""
    gap = game.pays(COLLUDE, others) - game.pays(INDEPENDENT, others)
    if temperature == 0:
        return own if abs(gap) < SAME else float(gap > 0)
    return float(expit(gap / temperature))


def _binomial(n: int, p: float) -> np.ndarray:
    """P(k of n), for k from 0 to n."""
    k = np.arange(n + 1)
    chances: np.ndarray = comb(n, k) * p**k * (1 - p) ** (n - k)
    return chances


def _hits(transition: np.ndarray, goal: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """From each state, P(the chain comes into `goal`, and into `stop` not before).

    The smallest h >= 0 with h = 1 on goal, 0 on stop, and h(i) = sum over j of p(i, j) h(j) elsewhere (Norris 1997,
    Markov Chains, theorem 1.3.2). Goal and stop, both masks of states, share none.
    """
    p, left, found = transition.copy(), np.ones(len(transition), dtype=bool), goal.astype(float)
    others = np.flatnonzero(~goal & ~stop)
    for state in others:  # p becomes the chain as watched in the states left
        left[state] = False
        p[state, ~left] = 0
        leaves = float(p[state].sum())
        if leaves > 0:
            p[state] /= leaves
        p[left] += np.outer(p[left, state], p[state])
    for state in others[::-1]:
        found[state] = p[state] @ found
    return found


def _stationary(transition: np.ndarray) -> np.ndarray:
    """The distribution that an irreducible chain keeps: pi = pi P (Norris 1997, theorem 1.7.7)."""
    p, pi = transition.copy(), np.ones(len(transition))
    for state in range(len(p) - 1, 0, -1):
        p[:state, state] /= p[state, :state].sum()
        p[:state, :state] += np.outer(p[:state, state], p[state, :state])
    for state in range(1, len(p)):
        pi[state] = pi[:state] @ p[:state, state]
    return pi / pi.sum()
