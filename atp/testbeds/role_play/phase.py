"""Role-play's line in phase diagrams: where violating pays as much in expectation as obeying."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from atp.report.phase import PhaseTheory, Segment, Setting
from atp.report.results import Results
from atp.testbeds.role_play.measures import AUDIT, gain

#: Settings on which the line depends.
DETERRENCE = ("pay_ratio", AUDIT, "penalty")
#: Points of the line between two values of a setting.
POINTS = 16


def segments(
    results: Results, row: Mapping[str, Any], values: Mapping[str, Any], across: Setting, up: Setting
) -> list[Segment]:
    """Return the line's segments in a panel, in the places of its cells; none without audits at random."""
    if values["schedule"] != "audit" or values["pay_ratio"] is None or not {across[0], up[0]} & {*DETERRENCE}:
        return []
    if up[0] in DETERRENCE:
        return _deterrence(values, across, up)
    return [(x, y, x2, y2) for y, x, y2, x2 in _deterrence(values, up, across)]


def _deterrence(values: Mapping[str, Any], across: Setting, up: Setting) -> list[Segment]:
    """Return the line where `gain` is 0. It is linear in each of its arguments."""

    def gained(x: float, y: float) -> float:
        here = {**values, across[0]: x, up[0]: y}
        return gain(here[AUDIT], here["pay_ratio"], here["penalty"])

    places, found = np.linspace(-0.5, len(across[1]) - 0.5, POINTS * len(across[1]) + 1), []
    for place, x in zip(places, np.interp(places, *_ruler(across[1])), strict=True):
        at_0, at_1 = gained(float(x), 0.0), gained(float(x), 1.0)
        y = at_0 / (at_0 - at_1) if at_0 != at_1 else np.nan
        ruled, marks = _ruler(up[1])
        inside = marks[0] <= y <= marks[-1]
        found.append((float(place), float(np.interp(y, marks, ruled)) if inside else np.nan))
    pairs = pairwise(found)
    return [(*one, *two) for one, two in pairs if not np.isnan([one[1], two[1]]).any()]


def _ruler(values: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Cells' places with the values there, as far as the edges of the outermost cells."""
    first, last = (values[1] - values[0]) / 2, (values[-1] - values[-2]) / 2
    places = np.array([-0.5, *range(len(values)), len(values) - 0.5])
    return places, np.array([values[0] - first, *values, values[-1] + last])


THEORY = PhaseTheory(
    label="theory: violating pays as much as obeying",
    caption="The line is where a violation pays as much in expectation as obeying; beyond it, with more audits, a "
    "larger penalty or a smaller pay, obeying pays more.",
    segments=segments,
    vertical=AUDIT,
)
