"""Coordination's line in phase diagrams: where half of logit best responders are expected to collude at last."""

from collections.abc import Mapping
from itertools import product
from typing import Any

from pydantic import ValidationError

from atp.report.phase import PhaseTheory, Segment, Setting
from atp.report.results import Results
from atp.testbeds.coordination.figures import PAYS, temperature
from atp.testbeds.coordination.game import CoordinationSettings
from atp.testbeds.coordination.theory import expected_rates

#: Settings on which the line depends.
TIPPING = ("threshold", "agents", "high", "normal", "low", "first_colluders", "fixed")


def segments(
    results: Results, row: Mapping[str, Any], values: Mapping[str, Any], across: Setting, up: Setting
) -> list[Segment]:
    """Return the edges between cells in which at least half of the players collude at last, and in which fewer do."""
    if results.own_settings(row["testbed"], PAYS) or not {across[0], up[0]} & {*TIPPING}:
        return []
    tipped: dict[tuple[int, int], bool] = {}
    for (i, x), (j, y) in product(enumerate(across[1]), enumerate(up[1])):
        try:
            game = CoordinationSettings(**{**values, across[0]: x, up[0]: y})
        except ValidationError:  # an impossible combination of settings
            continue
        if game.window and game.peers != "none" and not game.supervised and not game.reset_after:
            tipped[i, j] = float(expected_rates(game, temperature(row["model"]))[-1]) >= 0.5
    edges = []
    for (i, j), here in tipped.items():
        if tipped.get((i + 1, j), here) != here:
            edges.append((i + 0.5, j - 0.5, i + 0.5, j + 0.5))
        if tipped.get((i, j + 1), here) != here:
            edges.append((i - 0.5, j + 0.5, i + 0.5, j + 0.5))
    return edges


PHASE = PhaseTheory(
    label="theory: half of logit best responders collude",
    caption="The line is theory of players who all answer the others' last round by logit best response "
    "(scripted:best_response, at its own temperature): half of them or more collude in the last round on one side of "
    "it, fewer on the other. Next to other players it is for comparison.",
    segments=segments,
    drawn=frozenset(PAYS),
)
