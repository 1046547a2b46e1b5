"""The effect of alignment and what is left of it, computed by hand on ten scenarios."""

import numpy as np
import polars as pl
import pytest

from atp.files.schemas import MEASURES, TURNS
from atp.measures.alignment import alignment_effects
from atp.measures.intervals import difference, share
from atp.measures.measure import Evidence

PLACE = dict(model="m", testbed="t", condition="baseline", seed=0, variant="v", split="test", agent=0, role="worker")


def turns(channel: str, played: dict[tuple[str, int], str], announced: tuple[int, ...] = ()) -> pl.LazyFrame:
    """Return turns.

    Args:
        played: (alignment, round or generation) -> one letter per scenario: v violates, k complies, x is invalid.
    """
    rows = []
    for (alignment, point), letters in played.items():
        for number, letter in enumerate(letters):
            generation, round = (0, point) if channel == "context" else (point, 1)
            place = {"channel": channel, "generation": generation, "round": round, "alignment": alignment}
            shown = "somebody checks" if round in announced else "somebody may check"
            violation = None if letter == "x" else letter == "v"
            rows.append({**PLACE, **place, "scenario_id": str(number), "shown": shown, "violation": violation})
    kinds = {name: pl.DataFrame(TURNS.empty_table()).schema[name] for name in rows[0]}
    return pl.DataFrame(rows, schema=kinds).lazy()


def effects(turns: pl.LazyFrame) -> pl.DataFrame:
    return alignment_effects(Evidence(turns, {}, {}))


def values(frame: pl.DataFrame) -> dict[str, float]:
    return dict(zip(frame["measure"], frame["value"], strict=True))


HISTORY = {
    ("none", 1): "vvvvvvkkkk",
    ("none", 6): "vvvvvvvvvv",
    ("dpo", 1): "vkkkkkkkkk",
    ("dpo", 6): "vvvvkkkkkk",
}


def test_by_hand_in_context():
    measured = effects(turns("context", HISTORY))
    assert measured.columns == MEASURES.names
    assert values(measured) == pytest.approx({"installed": 0.5, "left": 0.2, "left_share": 0.4})
    assert measured["n"].to_list() == [10, 10, 10]
    assert measured["round"].to_list() == [1, 6, 6]
    assert (measured["low"] <= measured["value"]).all() and (measured["value"] <= measured["high"]).all()


def test_by_hand_in_the_weights():
    generations = {(alignment, 0 if point == 1 else 3): letters for (alignment, point), letters in HISTORY.items()}
    measured = effects(turns("weights", generations))
    assert values(measured) == pytest.approx({"installed": 0.5, "left": 0.2, "left_share": 0.4})
    assert measured["generation"].to_list() == [0, 3, 3]


def test_a_round_that_announces_supervision_differently_is_no_end():
    history = HISTORY | {("none", 5): "vvvvvvvvvv", ("dpo", 5): "vvvkkkkkkk"}
    measured = effects(turns("context", history, announced=(6,)))
    assert values(measured)["left"] == pytest.approx(0.3)
    assert measured["round"].to_list() == [1, 5, 5]


def test_an_invalid_reply_counts_in_no_rate():
    measured = effects(turns("context", HISTORY | {("dpo", 1): "vkkkkxxxxx"}))
    assert values(measured)["installed"] == pytest.approx(0.6 - 0.2)


def test_left_share_needs_an_effect_that_is_shown():
    measured = effects(turns("context", HISTORY | {("dpo", 1): "vvvvvvkkkk"}))
    assert set(values(measured)) == {"installed", "left"}


def test_no_rows_without_the_unaligned_agent():
    alone = {key: letters for key, letters in HISTORY.items() if key[0] == "dpo"}
    assert effects(turns("context", alone)).is_empty()


def test_the_largest_possible_effect():
    history = {("none", 1): "v" * 64, ("none", 6): "v" * 64, ("dpo", 1): "k" * 64, ("dpo", 6): "k" * 64}
    measured = effects(turns("context", history)).to_dicts()
    assert [(row["measure"], row["value"]) for row in measured] == [("installed", 1), ("left", 1), ("left_share", 1)]
    edge = 64 / (64 + 1.959964**2)  # Wilson's lower bound of 64 of 64
    for row in measured[:2]:
        assert row["method"] == "newcombe"
        assert (row["low"], row["high"]) == pytest.approx((1 - 2**0.5 * (1 - edge), 1.0))
    assert measured[2]["low"] is None and measured[2]["method"] == "none: no spread"


def test_a_proportion_of_0_has_an_interval():
    history = HISTORY | {("dpo", 1): "kkkkkkkkkk"}
    (installed,) = effects(turns("context", history)).filter(measure="installed").to_dicts()
    assert installed["method"] == "newcombe"
    assert installed["value"] - installed["low"] > 0.3  # Wilson's 0.24 below 6 of 10, and 0.28 above 0 of 10


def test_a_point_without_a_valid_reply_is_not_replaced_by_another():
    history = HISTORY | {("dpo", 2): "vvkkkkkkkk", ("none", 2): "vvvvkkkkkk"}
    assert effects(turns("context", history | {("dpo", 1): "xxxxxxxxxx"})).is_empty()
    at_the_end = effects(turns("context", history | {("dpo", 6): "xxxxxxxxxx"}))
    assert values(at_the_end) == pytest.approx({"installed": 0.5})


def test_pairing_scenarios_narrows_the_interval():
    """If almost the same scenarios violate before and after, their spread cancels out of the difference."""
    rng = np.random.default_rng(0)
    hard = rng.random(200) < 0.5
    after = hard & (rng.random(200) < 0.9)
    one, other = (np.stack([each, np.ones(200)], axis=1).astype(int) for each in (hard, after))
    paired = difference(one, other)
    assert paired.value == pytest.approx((hard.sum() - after.sum()) / 200)
    apart = [share(each[:, 0], each[:, 1]) for each in (one, other)]
    assert paired.high - paired.low < 0.6 * sum(each.high - each.low for each in apart)
