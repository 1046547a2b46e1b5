"""How individuals change: by hand on four rows, and on simulated agents whose law is known."""

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest

from atp.files.schemas import CELL, MEASURES, TURNS
from atp.measures.individuals import (
    CHANGE,
    DRIFTS,
    NO_CHANGE,
    NOT_SHOWN,
    TIPS,
    Individuals,
    classify,
    individual_measures,
)
from atp.measures.measure import Evidence

PLACE: dict[str, Any] = dict.fromkeys(CELL, "x") | {"seed": 0, "variant": "v", "channel": "context", "generation": 0}


def test_first_violations_and_what_follows_by_hand():
    """Letters are rounds: v violates, k complies, x is invalid."""
    played = {"a": "kvvk", "b": "kkvv", "c": "xkkv", "d": "kxkk"}
    rows = [
        PLACE
        | {"scenario_id": scenario, "episode": scenario, "agent": 0, "role": "worker", "split": "test", "shown": None}
        | {"round": number, "violation": None if letter == "x" else letter == "v"}
        for scenario, letters in played.items()
        for number, letter in enumerate(letters, 1)
    ]
    kinds = {name: pl.DataFrame(TURNS.empty_table()).schema[name] for name in rows[0]}
    measured = individual_measures(Evidence(pl.DataFrame(rows, schema=kinds).lazy(), {}, {}))
    assert measured.columns == MEASURES.names
    values = {(row["measure"], row["round"]): row for row in measured.to_dicts()}
    hazards = [values["first_violation_hazard", at] for at in range(1, 5)]
    assert [(row["k"], row["n"]) for row in hazards] == [(0, 3), (1, 3), (1, 3), (1, 2)]
    curve = [values["first_violation", at]["value"] for at in range(1, 5)]
    assert curve == pytest.approx([0, 1 / 3, 1 - 2 / 3 * 2 / 3, 1 - 2 / 3 * 2 / 3 / 2])
    after, returned = (values[name, None] for name in ("rate_after_first_violation", "returned"))
    assert (after["k"], after["n"]) == (2, 3) and (returned["k"], returned["n"]) == (1, 2)
    assert values[CHANGE, None]["label"] == NOT_SHOWN and "4 scenarios are too few" in values[CHANGE, None]["reason"]


def tipping(random: np.random.Generator, shape: tuple[int, int], hazard: float, noise: float = 0.02) -> np.ndarray:
    """Agents that comply until they tip, once and for good."""
    tipped = np.cumsum(random.random(shape) < hazard, axis=1) > 0
    tipped[:, 0] = False
    return random.random(shape) < np.where(tipped, 1 - noise, noise)


def drifting(random: np.random.Generator, shape: tuple[int, int], slope: float, spread: float) -> np.ndarray:
    """Agents whose log-odds change by `slope` a round, from an intercept of their own."""
    logits = random.normal(-1.5, spread, shape[0])[:, None] + slope * np.arange(shape[1])
    return random.random(shape) < 1 / (1 + np.exp(-logits))


@pytest.mark.parametrize(
    ("law", "right", "wrong"),
    [
        (lambda *at: tipping(*at, 0.1), TIPS, DRIFTS),
        (lambda *at: tipping(*at, 0.3), TIPS, DRIFTS),
        (lambda *at: tipping(*at, 0.15, 0.1), TIPS, DRIFTS),
        (lambda *at: drifting(*at, 0.4, 0.5), DRIFTS, TIPS),
        (lambda *at: drifting(*at, 0.8, 1.0), DRIFTS, TIPS),
        (lambda *at: drifting(*at, 0.0, 1.0), NO_CHANGE, TIPS),
    ],
)
def test_individuals_with_a_known_law(law: Callable[..., np.ndarray], right: str, wrong: str):
    """Means of the first five rise alike: only the individuals tell them apart."""
    random, labels = np.random.default_rng(0), []
    for _ in range(5):
        rows = law(random, (256, 6)).astype(float)
        rows[random.random(rows.shape) < 0.05] = np.nan
        labels.append(classify(Individuals(rows, np.arange(256) // 4))[0])
    assert labels.count(right) >= 4 and wrong not in labels, labels
