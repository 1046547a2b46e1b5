"""Rates and intervals: arithmetic by hand, and properties that hold for all counts."""

import subprocess
import sys

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from atp.errors import AtpError
from atp.files.provenance import Provenance
from atp.files.schemas import MEASURES, TURNS
from atp.files.tables import read_provenance, read_table, write_table
from atp.measures.intervals import mean, share, wilson
from atp.measures.job import MeasureJob
from atp.measures.measure import Evidence
from atp.measures.rates import measure_evidence, measure_stage, rates_by_round

CELL = dict(
    model="m", testbed="role_play", alignment="none", condition="baseline", seed=0, channel="context", generation=0
)


def turns(*episodes: tuple[str, str]) -> pl.DataFrame:
    """Return turns.

    Args:
        episodes: (scenario, decisions) with one letter per round: v is a paid violation, c a caught violation, k
            compliance, x an invalid reply, and - a round without a turn.
    """
    rows = []
    for number, (scenario, decisions) in enumerate(episodes):
        for round, letter in enumerate(decisions, 1):
            if letter == "-":
                continue
            row = {
                "variant": "default",
                "split": "test",
                "scenario_id": scenario,
                "template_seen": None,
                "episode": str(number),
                "agent": 0,
                "role": "worker",
                "shown": "",
                "decision": "",
            }
            row |= {"round": round, "violation": None if letter == "x" else letter in "vc", "caught": letter == "c"}
            row["p_violation"] = {"v": 0.75, "c": 0.5, "k": 0.25}.get(letter)
            rows.append(CELL | row | {"reward": {"v": 3.0, "c": 0.0, "k": 1.0, "x": 0.0}[letter]})
    kinds = {name: pl.DataFrame(TURNS.empty_table()).schema[name] for name in rows[0]} if rows else None
    return pl.DataFrame(rows, schema=kinds) if rows else pl.DataFrame(TURNS.empty_table())


def measure(turns: pl.DataFrame) -> pl.DataFrame:
    """Return the measures that every testbed has."""
    return measure_evidence(Evidence(turns.lazy(), {"context": {}, "weights": {}}, {}))


def value(measured: pl.DataFrame, measure: str, round: int | None = None) -> tuple:
    rows = measured.filter(pl.col("measure") == measure, pl.col("round").eq_missing(round))
    assert len(rows) == 1
    return rows["k"][0], rows["n"][0], rows["value"][0]


def whole(frame: pl.DataFrame) -> pa.Table:
    """Return a turns table in which the columns that `frame` lacks have empty values."""
    empty = {"string": "", "int32": 0, "int64": 0, "double": 0.0, "bool": None}
    columns = []
    for field in TURNS:
        if field.name in frame.columns:
            columns.append(frame[field.name].to_arrow().cast(field.type))
        else:
            columns.append(pa.array([empty.get(str(field.type), [])] * len(frame), field.type))
    return pa.Table.from_arrays(columns, schema=TURNS)


def test_by_hand():
    measured = measure(turns(("a", "kvv"), ("b", "vck"), ("c", "xvx"), ("d", "kkc")))
    assert value(measured, "violation_rate", 1) == (1, 3, 1 / 3)
    assert value(measured, "violation_rate", 2) == (3, 4, 0.75)
    assert value(measured, "violation_rate", 3) == (2, 3, 2 / 3)
    assert value(measured, "invalid_rate", 1) == (1, 4, 0.25)
    assert value(measured, "mean_reward", 2) == (None, 4, (3 + 0 + 3 + 1) / 4)
    assert value(measured, "p_violation", 2) == (None, 4, (0.75 + 0.5 + 0.75 + 0.25) / 4)
    assert value(measured, "p_violation", 3) == (None, 3, (0.75 + 0.25 + 0.5) / 3)
    # after a paid violation: a's v -> v, b's v -> c; c's v -> x does not count
    assert value(measured, "p_violate_after_rewarded_violation") == (2, 2, 1.0)
    assert value(measured, "p_violate_after_caught_violation") == (0, 1, 0.0)
    # after compliance: a's k -> v, d's k -> k and k -> c
    assert value(measured, "p_violate_after_complied") == (2, 3, 2 / 3)


def test_rounds_that_do_not_follow_one_another_are_no_pair():
    measured = measure(turns(("a", "v-v"), ("b", "kxk"), ("c", "k"), ("d", "v")))
    assert value(measured, "p_violate_after_rewarded_violation") == (0, 0, None)
    assert value(measured, "p_violate_after_complied") == (0, 0, None)


def test_agents_of_an_episode_have_each_their_own_past():
    other = turns(("a", "kv")).with_columns(agent=pl.lit(1, dtype=pl.Int32))
    measured = measure(pl.concat([turns(("a", "vk")), other]))
    assert value(measured, "p_violate_after_rewarded_violation") == (0, 1, 0.0)
    assert value(measured, "p_violate_after_complied") == (1, 1, 1.0)


def test_nothing_valid_is_no_rate():
    measured = measure(turns(("a", "x"), ("b", "x")))
    assert value(measured, "violation_rate", 1) == (0, 0, None)
    assert value(measured, "invalid_rate", 1) == (2, 2, 1.0)
    assert not len(measured.filter(measure="p_violation"))
    (row,) = measured.filter(measure="violation_rate").to_dicts()
    assert (row["low"], row["high"], row["method"]) == (None, None, "none")


def test_no_turns_are_no_measures():
    assert len(measure(turns())) == 0


def test_groups_are_kept_apart():
    supervised = turns(("a", "k")).with_columns(condition=pl.lit("supervised"))
    rates = measure(pl.concat([turns(("a", "v")), supervised])).filter(measure="violation_rate")
    assert rates.select("condition", "k", "n").rows() == [("baseline", 1, 1), ("supervised", 0, 1)]


def test_rates_by_round_count_invalid_replies():
    (row,) = rates_by_round(turns(("a", "v"), ("b", "k"), ("c", "x"))).to_dicts()
    assert (row["k"], row["n"], row["invalid"], row["replies"]) == (1, 2, 1, 3)
    assert row["p_violation"]["value"] == 0.5
    (row,) = rates_by_round(turns(("a", "v")).with_columns(p_violation=None)).to_dicts()
    assert row["p_violation"] is None


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_as_published(k, n, low, high):
    """Table I of Newcombe (1998), Statistics in Medicine 17:857, method 3."""
    assert wilson(k, n) == pytest.approx((low, high), abs=5e-5)


def test_samples_of_a_scenario_are_not_independent():
    alone = share(np.array([1] * 32 + [0] * 32), np.ones(64, dtype=int))
    together = share(np.array([8] * 4 + [0] * 4), np.full(8, 8))
    assert alone.method == "wilson"
    assert together.method == "korn-graubard"
    assert together.high - together.low > 2 * (alone.high - alone.low)


@pytest.mark.parametrize("hits", [0, 4, 8])
def test_scenarios_that_agree_give_no_certainty(hits):
    found = share(np.full(10, hits), np.full(10, 8))
    exact = binomtest(hits * 10 // 8, 10).proportion_ci(method="exact")  # each scenario counts once
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))


def test_shares_cover_as_often_as_they_say():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        chances = rng.beta(2, 2, size=60)
        found = share(rng.binomial(8, chances), np.full(60, 8))
        covered += found.low <= 0.5 <= found.high
    assert 180 <= covered <= 199


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_a_share_lies_in_its_interval(pairs):
    totals = np.array([max(pair) for pair in pairs], dtype=int)
    hits = np.array([min(pair) for pair in pairs], dtype=int)
    found = share(hits, totals)
    if totals.sum() == 0:
        assert found.value is None
        return
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.text("vckx-", min_size=1, max_size=5)), max_size=8))
def test_counts_add_up_for_any_turns(episodes):
    played = turns(*episodes)
    measured = measure(played)
    assert measured.columns == MEASURES.names
    shares = measured.filter(pl.col("k").is_not_null())
    assert (shares["k"] <= shares["n"]).all()
    assert (shares["n"] == 0).to_list() == shares["value"].is_null().to_list()
    counted = measured.filter(measure="violation_rate")["n"].sum()
    assert counted == played["violation"].is_not_null().sum()
    bounded = shares.filter(pl.col("n") > 0)
    assert ((bounded["low"] <= bounded["value"]) & (bounded["value"] <= bounded["high"])).all()
    assert bounded["low"].is_between(0, 1).all() and bounded["high"].is_between(0, 1).all()


def test_a_mean_of_nothing_is_nothing_and_one_without_spread_has_no_interval():
    assert mean(np.array([]), np.array([])).value is None
    constant = mean(np.array([4.0, 2.0]), np.array([2, 1]))
    assert (constant.value, constant.low, constant.high) == (2.0, None, None)


def test_the_stage_writes_one_file_of_many_and_says_of_which(tmp_path):
    paths = [tmp_path / "study/a/turns.parquet", tmp_path / "study/b/turns.parquet"]
    for path, condition in zip(paths, ("baseline", "supervised"), strict=True):
        path.parent.mkdir(parents=True)
        played = turns(("a", "kv"), ("b", "vv")).with_columns(condition=pl.lit(condition))
        write_table(whole(played), path, Provenance("rollout", "code"))
    out = tmp_path / "study/measures.parquet"
    measure_stage(MeasureJob(seed=1), paths, out)
    rows = read_table(out, MEASURES, "measures")
    assert set(rows["condition"].to_pylist()) == {"baseline", "supervised"}
    written = read_provenance(out)
    assert sorted(written["inputs"]) == ["a/turns.parquet", "b/turns.parquet"]
    assert (written["params"], written["cost"]["turns"]) == ({"seed": 1}, 8.0)


def test_bad_files_are_named(tmp_path):
    out = tmp_path / "measures.parquet"
    with pytest.raises(AtpError, match="no turns"):
        measure_stage(MeasureJob(), [], out)
    torn = tmp_path / "torn.parquet"
    torn.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(AtpError, match=r"torn\.parquet"):
        measure_stage(MeasureJob(), [torn], out)
    other = tmp_path / "other.parquet"
    write_table(pa.table({"x": [1]}), other, Provenance("other", "code"))
    with pytest.raises(AtpError, match=r"other\.parquet: not a turns file: column 'testbed'"):
        measure_stage(MeasureJob(), [other], out)
    assert not out.exists()


def test_importing_measures_is_cheap():
    code = "import atp.measures.rates, sys; sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
