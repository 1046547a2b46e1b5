"""Simulate counts with a known shape, to test how often the verdict is right.

A reply is a violation if a standard normal variable is below the quantile of the wanted rate, so rates are exact for
any correlation (Emrich and Piedmonte 1991, American Statistician 45:302). The variable is sqrt(alike) times a variable
shared by all samples of a scenario plus sqrt(1 - alike) times one of the sample; each follows an autoregression over
rounds with correlation `lasting`.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from atp.errors import AtpError
from atp.measures.intervals import wilson
from atp.measures.shapes import Counts, count
from atp.measures.tipping import ABRUPT, DRIFT, FLAT, FLAT_BOUND, MIN_SHAPE_POINTS, RECOVERY, VERDICTS, verdict

TRUTHS = (FLAT, DRIFT, ABRUPT, RECOVERY)
#: Resamples per test. More would hardly change the power of a test at 5 % (Davison and MacKinnon 2000, Econometric
#: Reviews 19:55).
RESAMPLES = 499


@dataclass(frozen=True)
class Design:
    """A simulated study of one series and the change to detect; flat series stay at `first`.

    Raises AtpError for invalid values. at: first round after a step, by default the middle round. samples: replies per
    scenario and round. alike: correlation between the samples of a scenario in one round. lasting: correlation between
    a reply and the next round's. Both correlations are between 0 and 1.
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
            raise AtpError(f"rates from {self.first:g} to {self.last:g}: must lie between 0 and 1, exclusive")
        if self.first == self.last:
            raise AtpError(f"rates from {self.first:g} to {self.last:g}: must differ")
        if self.rounds < MIN_SHAPE_POINTS or self.samples < 1:
            least = f"rounds: at least {MIN_SHAPE_POINTS}, because fewer have no shape, found {self.rounds}"
            raise AtpError(f"{least}; samples: at least 1, found {self.samples}")
        if self.at is not None and not 2 <= self.at <= self.rounds:
            raise AtpError(f"at {self.at}: must be one of rounds 2 to {self.rounds}")
        if not (0 <= self.alike <= 1 and 0 <= self.lasting <= 1):
            raise AtpError(f"alike {self.alike:g}, lasting {self.lasting:g}: must be between 0 and 1")


def true_rates(truth: str, design: Design) -> np.ndarray:
    """Return the rate of each round: constant, linear in log-odds, one step, or raised in the middle third."""
    from scipy.special import expit, logit

    rounds = np.arange(1, design.rounds + 1)
    progress = {
        FLAT: rounds < 0,
        DRIFT: (rounds - 1) / (design.rounds - 1),
        ABRUPT: rounds >= (design.rounds // 2 + 1 if design.at is None else design.at),
        RECOVERY: (3 * rounds > design.rounds) & (3 * rounds <= 2 * design.rounds),
    }[truth]
    first, last = logit(design.first), logit(design.last)
    rates: np.ndarray = expit(first + (last - first) * progress)
    return rates


def simulate(rates: np.ndarray, scenarios: int, design: Design, rng: np.random.Generator) -> Counts:
    """Return counts of this many scenarios, with design.samples replies each per round."""
    from scipy.special import ndtri

    def noise(*shape: int) -> np.ndarray:
        values = rng.standard_normal((*shape, len(rates)))
        for i in range(1, len(rates)):
            values[..., i] = design.lasting * values[..., i - 1] + (1 - design.lasting**2) ** 0.5 * values[..., i]
        return values

    shared, own = noise(scenarios, 1), noise(scenarios, design.samples)
    violations = (design.alike**0.5 * shared + (1 - design.alike) ** 0.5 * own < ndtri(rates)).sum(axis=1)
    return count(violations, np.full_like(violations, design.samples), np.arange(1, len(rates) + 1))


def verdict_rates(
    truth: str, scenarios: int, design: Design, replicates: int, seed: int, bound: float = FLAT_BOUND
) -> pl.DataFrame:
    """Return one row of counts of verdicts on simulated series.

    Its columns: truth, scenarios, the number of series with each of VERDICTS, the number k of n with the right one, and
    Wilson's 95 % interval of that proportion, low to high.
    """
    rates, verdicts = true_rates(truth, design), []
    for replicate in range(replicates):
        rng = np.random.default_rng([seed, TRUTHS.index(truth), scenarios, replicate])
        verdicts.append(verdict(simulate(rates, scenarios, design, rng), replicate, bound, RESAMPLES).label)
    low, high = wilson(verdicts.count(truth), replicates)
    tally = {word: verdicts.count(word) for word in VERDICTS}
    return pl.DataFrame(
        {"truth": truth, "scenarios": scenarios, **tally, "k": tally[truth], "n": replicates, "low": low, "high": high}
    )
