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
from atp.measures.tipping_series import DEPENDS

PLACE: dict[str, Any] = dict.fromkeys(CELL, "x") | {"seed": 0, "variant": "v", "channel": "context", "generation": 0}


def measures_of(played: dict[str, str]) -> pl.DataFrame:
    """Return the measures of scenarios with an agent each. Letters are rounds: v violates, k complies, x is invalid."""
    rows = [
        PLACE
        | {"scenario_id": scenario, "episode": scenario, "agent": 0, "role": "worker", "split": "test", "shown": None}
        | {"round": number, "violation": None if letter == "x" else letter == "v"}
        for scenario, letters in played.items()
        for number, letter in enumerate(letters, 1)
    ]
    kinds = {name: pl.DataFrame(TURNS.empty_table()).schema[name] for name in rows[0]}
    return individual_measures(Evidence(pl.DataFrame(rows, schema=kinds).lazy(), {}, {}))


@pytest.mark.parametrize(
    ("episodes", "label"),
    [
        (["kkkvvv", "kkvvvv", "kkkkvv"], TIPS),
        (["kkkxxx", "kkvxxx", "kkkkxx"], DEPENDS),
        (["kkkkkk", "vvvvvv", "kkkxxx"], DEPENDS),
    ],
)
def test_a_label_must_hold_whatever_the_invalid_replies_would_have_been(episodes, label):
    row = measures_of({f"{number:02}": episodes[number % len(episodes)] for number in range(60)}).filter(measure=CHANGE)
    assert row["label"].to_list() == [label], row["reason"][0]


def test_first_violations_and_what_follows_by_hand():
    measured = measures_of({"a": "kvvk", "b": "kkvv", "c": "xkkv", "d": "kxkk"})
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


def tipping_evenly(random: np.random.Generator, shape: tuple[int, int], noise: float) -> np.ndarray:
    """Agents that tip before a round from 2 to the last one, or never, each equally likely."""
    tipped = np.arange(shape[1]) >= random.integers(1, shape[1] + 1, shape[0])[:, None]
    return random.random(shape) < np.where(tipped, 1 - noise, noise)


def drifting(random: np.random.Generator, shape: tuple[int, int], slope: float, spread: float) -> np.ndarray:
    """Agents whose log-odds change by `slope` a round, from an intercept of their own."""
    logits = random.normal(-1.5, spread, shape[0])[:, None] + slope * np.arange(shape[1])
    return random.random(shape) < 1 / (1 + np.exp(-logits))


@pytest.mark.parametrize(
    ("law", "right", "wrong", "least"),
    [
        (lambda *at: tipping(*at, 0.1), TIPS, DRIFTS, 4),
        (lambda *at: tipping(*at, 0.3), TIPS, DRIFTS, 4),
        (lambda *at: tipping(*at, 0.15, 0.1), TIPS, DRIFTS, 4),
        (lambda *at: tipping_evenly(*at, 0.03), TIPS, DRIFTS, 1),  # a steep trend from many intercepts fits as well
        (lambda *at: drifting(*at, 0.4, 0.5), DRIFTS, TIPS, 4),
        (lambda *at: drifting(*at, 0.8, 1.0), DRIFTS, TIPS, 4),
        (lambda *at: drifting(*at, 0.0, 1.0), NO_CHANGE, TIPS, 4),
    ],
)
def test_individuals_with_a_known_law(law: Callable[..., np.ndarray], right: str, wrong: str, least: int):
    """Means of the first six rise: only the individuals tell them apart. docs/measures.md has how often it is right."""
    random, labels = np.random.default_rng(0), []
    for _ in range(5):
        rows = law(random, (256, 6)).astype(float)
        rows[random.random(rows.shape) < 0.05] = np.nan
        labels.append(classify(Individuals(rows, np.arange(256) // 4)).label)
    assert labels.count(right) >= least and wrong not in labels, labels


def test_a_few_invalid_replies_change_no_label():
    random = np.random.default_rng(0)
    violations = tipping(random, (128, 6), 0.2, 0.03)
    letters = np.where(random.random((128, 6)) < 0.05, "x", np.where(violations, "v", "k"))
    measured = measures_of({f"{number:03}": "".join(row) for number, row in enumerate(letters)})
    assert measured.filter(measure=CHANGE)["label"].to_list() == [TIPS]
