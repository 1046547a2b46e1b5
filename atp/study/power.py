"""Print the power of a study's comparisons at its sizes, for a change of stated size."""

from collections.abc import Iterator
from functools import cache

import numpy as np

from atp.measures.seeds import half_width
from atp.measures.simulate import Design, simulate, true_rates, verdict_rates
from atp.measures.tipping import MIN_SHAPE_POINTS, VERDICTS
from atp.registry import find_testbed
from atp.scenarios.sources import DEFAULT_TEST
from atp.study.study import NONE, Study, TestbedSection, channel_seeds, is_aligned_here, variants

#: The change that a study should show: the paper has values of about this size.
FIRST, LAST = 0.2, 0.45
#: Deviations of trainings in log-odds: of a random selection and of best-of-n on the model organism.
DEVIATIONS = (0.1, 0.5)
#: Simulated series of one shape; the standard error of a power is at most 6 points.
REPLICATES = 60
DRAWS = 4000
LEVEL = 0.95
NO_POWER = "none: one training"
COLUMNS = ["testbed", "comparison", "units", "power"]


def power_lines(study: Study) -> list[str]:
    """Return a table of the power of a study's comparisons."""
    rows = [COLUMNS]
    for testbed, section in study.testbeds.items():
        rows += [[testbed, *row] for row in (*_context_rows(study, testbed, section), *_weights_rows(study, section))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    low, high = DEVIATIONS
    return [
        f"Power for a change from {100 * FIRST:.0f} to {100 * LAST:.0f} %, or a difference of that size (simulated). "
        f"Over trainings: from a deviation between them of {high} in log-odds to one of {low}.",
        "",
        *table,
    ]


def _context_rows(study: Study, testbed: str, section: TestbedSection) -> Iterator[list[str]]:
    """Yield the rows of the context channel: curves over rounds, conditions, and the gap to the unaligned agent."""
    if not section.context:
        return
    played = next(iter(variants(section, section.context.conditions[0]).values()))
    settings = find_testbed(testbed).settings(**played)
    scenarios = section.scenarios.test or DEFAULT_TEST
    replies = section.context.samples * getattr(settings, "agents", 1)
    rounds = getattr(settings, "rounds", 1)
    units = f"{scenarios} scenarios x {replies} {'reply' if replies == 1 else 'replies'}"
    if rounds >= MIN_SHAPE_POINTS:
        design = Design(FIRST, LAST, rounds, samples=replies)
        for truth in VERDICTS[1:3]:
            yield [
                f"{truth} over {rounds} rounds is recognised",
                units,
                _percent(_recognised(truth, scenarios, design)),
            ]
    error = _error(scenarios, replies, paired=False)
    if compared := len(section.context.conditions) - 1:
        comparison = f"a condition differs from the baseline in context ({compared} compared)"
        yield [comparison, units, _percent(_scenario_power(error, compared))]
    if NONE in study.alignments:
        for alignment in study.alignments:
            if is_aligned_here(alignment):
                seeds = len(channel_seeds(study, section.context, alignment))
                yield [f"gap of {alignment} to none in context", _trainings(seeds), _training_power(error, seeds, 1)]


def _weights_rows(study: Study, section: TestbedSection) -> Iterator[list[str]]:
    """Yield the rows of the weights channel, whose units are trainings."""
    if not section.weights:
        return
    scenarios, samples = section.scenarios.test or DEFAULT_TEST, section.weights.evaluation.samples
    paired, apart = (_error(scenarios, samples, paired=value) for value in (True, False))
    compared = len(section.weights.conditions) - 1
    for alignment in study.alignments:
        seeds = len(channel_seeds(study, section.weights, alignment))
        units = _trainings(seeds)
        generations = f"{section.weights.generations} generation{'s' if section.weights.generations > 1 else ''}"
        change = f"change over {generations}, alignment {alignment}"
        yield [change, units, _training_power(paired, seeds, min(section.weights.generations, 2))]
        if compared:
            comparison = f"a condition differs from the baseline, alignment {alignment} ({compared} compared)"
            yield [comparison, units, _training_power(apart, seeds, compared)]


@cache
def _recognised(truth: str, scenarios: int, design: Design) -> float:
    row = verdict_rates(truth, scenarios, design, REPLICATES, 0)
    return float(row["k"][0] / row["n"][0])


@cache
def _error(scenarios: int, replies: int, paired: bool) -> float:
    """Return the standard error over scenarios of a change within one agent (paired), or of a difference between two.

    The variance between scenarios is that of `simulate`, with three rounds between the beginning and the end.
    """
    design = Design(FIRST, LAST, rounds=4, samples=replies)
    counts = simulate(true_rates(VERDICTS[1], design), DRAWS, design, np.random.default_rng(0))
    rates = counts.hits / counts.totals
    first, last = rates[:, 0], rates[:, -1]
    variance = np.var(last - first) if paired else np.var(last) + np.var(first)
    return float(np.sqrt(variance / scenarios))


def _scenario_power(error: float, compared: int) -> float:
    """Return the power of a test of scenarios, corrected for the number of comparisons (Bonferroni)."""
    from scipy.special import ndtr, ndtri

    return float(ndtr((LAST - FIRST) / error - ndtri(1 - (1 - LEVEL) / (2 * compared))))


def _training_power(error: float, seeds: int, compared: int) -> str:
    """Return the power over trainings, from the largest to the smallest deviation between them."""
    if seeds < 2:
        return NO_POWER
    powers = [_over_trainings(error, seeds, compared, deviation) for deviation in reversed(DEVIATIONS)]
    return " to ".join(map(_percent, powers))


@cache
def _over_trainings(error: float, seeds: int, compared: int, deviation: float) -> float:
    """Return how often the interval of a mean over trainings excludes 0, in simulated studies."""
    from scipy.special import expit, logit

    rng = np.random.default_rng(0)
    ends = expit(logit(LAST) + rng.normal(0, deviation, (DRAWS, seeds)))
    values = ends - FIRST + rng.normal(0, error, (DRAWS, seeds))
    between = values.std(axis=1, ddof=1) / np.sqrt(seeds)
    half = half_width(between, error, seeds, 1 - (1 - LEVEL) / compared)
    return float((np.abs(values.mean(axis=1)) > half).mean())


def _trainings(seeds: int) -> str:
    return f"{seeds} training{'s' if seeds > 1 else ''}"


def _percent(power: float) -> str:
    return f"{100 * power:.0f} %"
