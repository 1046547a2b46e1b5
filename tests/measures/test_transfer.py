"""Evaluations on testbeds without training: counts of known rates, from turns to the report's table."""

from collections.abc import Sequence

import polars as pl
import pytest
from evidence import turn_row

from atp.files.schemas import TURNS
from atp.measures.measure import Evidence
from atp.measures.rates import measure_evidence
from atp.report.transfer import COLUMNS, transfers

SAMPLES = 8
#: Testbed played -> violations of SAMPLES replies to each of eight scenarios, at generations 0, 1 and 2.
COUNTS: dict[str, list[list[int]]] = {
    "role_play": [[1, 2, 1, 2, 1, 2, 1, 2], [4] * 4 + [5] * 4, [7, 6, 7, 6, 7, 6, 7, 6]],
    "coordination": [[1, 2, 1, 2, 1, 2, 1, 2], [1, 2, 2, 3, 1, 2, 2, 3], [6, 7, 6, 7, 6, 7, 6, 7]],  # it spreads
    "bargaining": [[0, 8, 1, 7, 2, 6, 3, 5]] * 3,  # it does not
    "tool_use": [[4, 5, 4, 5, 4, 5, 4, 5], [2, 8, 0, 8, 4, 5, 4, 5], [0, 1, 2, 1, 0, 1, 0, 1]],  # open, then fewer
}
SHOWN = {
    "role play (trained)": ["rises", "rises"],
    "coordination": ["undecided", "rises"],
    "bargaining": ["within 10 points", "within 10 points"],
    "tool use": ["undecided", "falls"],
}


def measured(seeds: Sequence[int] = (0,)) -> pl.DataFrame:
    rows = [
        turn_row(
            testbed,
            f"s{scenario}",
            1,
            seed=seed,
            channel="weights" if testbed == "role_play" else "transfer:role_play",
            generation=generation,
            variant="evaluation",
            episode=f"s{scenario}/{sample}",
            violation=sample < count,
        )
        for seed in seeds
        for testbed, generations in COUNTS.items()
        for generation, counts in enumerate(generations)
        for scenario, count in enumerate(counts)
        for sample in range(SAMPLES)
    ]
    turns = pl.DataFrame(rows, schema=pl.DataFrame(TURNS.empty_table()).schema).lazy()
    return measure_evidence(Evidence(turns, {"context": {}, "weights": {}}, {}))


def test_whether_a_learned_violation_spreads():
    measures = measured()
    changes = measures.filter(measure="change_from_start").sort("testbed", "generation")
    by_hand = [
        (sum(now) - sum(counts[0])) / (8 * SAMPLES) for _, counts in sorted(COUNTS.items()) for now in counts[1:]
    ]
    assert changes["value"].to_list() == pytest.approx(by_hand)
    (group,) = transfers(measures)
    assert group.name == "m, none, baseline, trained on role play"
    table = [dict(zip(COLUMNS, row, strict=True)) for row in group.rows]
    assert [row["testbed played"][0] for row in table][:2] == ["role play (trained)"] * 2
    shown: dict[str, list[str]] = {}
    for row in table:
        shown.setdefault(row["testbed played"][0], []).append(row["shown"][0])
        assert row["shown"][1] == "one training"
    assert shown == SHOWN
    assert table[1]["rate"][0] == "81.2\u00a0%" and table[1]["change, points"][0] == "62.5"


def test_trainings_are_the_units():
    """Three seeds with the same counts: the mean's interval is one over trainings, and nothing says "one training"."""
    (group,) = transfers(measured((0, 1, 2)))
    assert all(row[-1][1] == "" for row in group.rows)
    assert len(group.rows) == 8
    verdicts = measured((0, 1, 2)).filter(pl.col("seed").is_null(), measure="verdict", testbed="coordination")
    assert verdicts["label"].to_list() == ["change"]


def test_a_study_without_transfer_has_no_table():
    measures = measured().filter(pl.col("channel") == "weights")
    assert transfers(measures) == []
