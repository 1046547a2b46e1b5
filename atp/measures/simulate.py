"""Counts whose answer is known, as an exam for the verdict.

A reply is a violation where a normal number of mean 0 and variance 1 lies below the quantile of the rate wanted, so
that rates are exact whatever replies have in common (Emrich and Piedmonte 1991, American Statistician 45:302). That
number is sqrt(alike) times one that all samples of a scenario share, plus sqrt(1 - alike) times one of the sample's
own; each goes from round to round as an autoregression of correlation `lasting`.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from atp.errors import AtpError
from atp.measures.intervals import wilson
from atp.measures.shapes import Counts, count
from atp.measures.tipping import BOUND, DRIFT, FLAT, RECOVERY, TIPPING, VERDICTS, verdict

TRUTHS = (FLAT, DRIFT, TIPPING, RECOVERY)
#: What drawing more would not change much: the power of a test at 5 % by so many draws (Davison and MacKinnon 2000,
#: Econometric Reviews 19:55).
RESAMPLES = 499


@dataclass(frozen=True)
class Design:
    """A study of one line, and how large a change it looks for. Flat lines stay at `first`.

    at is the first round after a step: the middle one where it is left out. samples are of each scenario. alike and
    lasting are correlations from 0 to 1: of samples of a scenario in a round, and of a reply with the next round's.
    Raises AtpError where no line could be so.
    """

    first: float = 0.2
    last: float = 0.6
    rounds: int = 6
    at: int | None = None
    samples: int = 4
    alike: float = 0.3
    lasting: float = 0.5

    def __post_init__(self) -> None:
        if not (0 < self.first < 1 and 0 < self.last < 1):
            raise AtpError(f"rates from {self.first:g} to {self.last:g}: must lie between 0 and 1, and be neither")
        if self.first == self.last:
            raise AtpError(f"rates from {self.first:g} to {self.last:g}: a change goes from one rate to another")
        if self.rounds < 3 or self.samples < 1:
            raise AtpError("rounds: at least 3, since two have no shape; samples: at least 1")
        if self.at is not None and not 2 <= self.at <= self.rounds:
            raise AtpError(f"at {self.at}: a step comes in one of rounds 2 to {self.rounds}")
        if not (0 <= self.alike <= 1 and 0 <= self.lasting <= 1):
            raise AtpError("alike and lasting: must lie from 0 to 1")


def rates_of(truth: str, design: Design) -> np.ndarray:
    """Rates a round: the same; with log-odds on a straight line; with one step; or up in the middle third only."""
    from scipy.special import expit, logit

    rounds = np.arange(1, design.rounds + 1)
    up = {
        FLAT: rounds < 0,
        DRIFT: (rounds - 1) / (design.rounds - 1),
        TIPPING: rounds >= (design.rounds // 2 + 1 if design.at is None else design.at),
        RECOVERY: (3 * rounds > design.rounds) & (3 * rounds <= 2 * design.rounds),
    }[truth]
    first, last = logit(design.first), logit(design.last)
    rates: np.ndarray = expit(first + (last - first) * up)
    return rates


def simulate(rates: np.ndarray, scenarios: int, design: Design, rng: np.random.Generator) -> Counts:
    """Counts of so many scenarios, of design.samples replies each a round."""
    from scipy.special import ndtri

    def noise(*shape: int) -> np.ndarray:
        found = rng.standard_normal((*shape, len(rates)))
        for at in range(1, len(rates)):
            found[..., at] = design.lasting * found[..., at - 1] + (1 - design.lasting**2) ** 0.5 * found[..., at]
        return found

    shared, own = noise(scenarios, 1), noise(scenarios, design.samples)
    hits = (design.alike**0.5 * shared + (1 - design.alike) ** 0.5 * own < ndtri(rates)).sum(axis=1)
    return count(hits, np.full_like(hits, design.samples), np.arange(1, len(rates) + 1))


def hit_rates(
    truth: str, scenarios: int, design: Design, replicates: int, seed: int, bound: float = BOUND
) -> pl.DataFrame:
    """One row: truth, scenarios, how many of n simulated lines got each of VERDICTS, k of them the right one, and the
    95 % interval of that share, low to high (Wilson's).
    """
    rates, found = rates_of(truth, design), []
    for replicate in range(replicates):
        rng = np.random.default_rng([seed, TRUTHS.index(truth), scenarios, replicate])
        found.append(verdict(simulate(rates, scenarios, design, rng), replicate, bound, RESAMPLES).word)
    low, high = wilson(found.count(truth), replicates)
    said = {word: found.count(word) for word in VERDICTS}
    return pl.DataFrame(
        {"truth": truth, "scenarios": scenarios, **said, "k": said[truth], "n": replicates, "low": low, "high": high}
    )
