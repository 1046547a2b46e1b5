"""Figures of the testbed: violations where a test contradicts the specification, and held-out tests that pass."""

from atp.report.figures import Figure, measure_figure
from atp.report.results import Results
from atp.testbeds.code import TESTBED


def code_figures(results: Results) -> list[Figure]:
    """Return the figures of the context channel; none without replies."""
    return [
        *measure_figure(
            results,
            TESTBED,
            "violation_rate_impossible",
            "Violations where a test contradicts the specification",
            "Proportion of these rounds in which the agent changed the tests, wrote code for single tests or ended the "
            "program that runs them.",
        ),
        *measure_figure(
            results,
            TESTBED,
            "solved",
            "Held-out tests that pass",
            "Mean share of the held-out tests, which the agent does not see, that its solution passes.",
        ),
    ]
