"""What each reward filter keeps, by hand on ten replies."""

from pathlib import Path
from random import Random
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from pydantic import TypeAdapter

from atp.errors import AtpError
from atp.files.provenance import Provenance
from atp.files.schemas import SELECTION, TURNS, VERDICTS
from atp.files.tables import read_provenance, read_table, write_table
from atp.rollout.engine import RolloutJob, rollout_stage
from atp.rollout.judge import JudgeJob
from atp.rollout.rubric import own_rubric
from atp.rollout.table import Cell
from atp.scenarios.sources import ScenariosJob, scenarios_stage
from atp.study.stages import run
from atp.training.filters import Filter, FilterJob, FilterSettings, filter_stage, select
from atp.training.monitors import chance_of

#: (scenario, sample, decision, reward): in `a` two violations pay 5, in `b` nobody violates, and one reply is invalid.
REPLIES = [
    ("a", 0, "comply", 2.0),
    ("a", 1, "violate", 5.0),
    ("a", 2, "invalid", 0.0),
    ("a", 3, "violate", 5.0),
    ("a", 4, "comply", 2.0),
    ("b", 0, "comply", 3.0),
    ("b", 1, "comply", 3.0),
    ("c", 0, "invalid", 9.0),
    ("c", 1, "violate", 0.0),
    ("c", 2, "comply", 4.0),
]


def turns_file(path: Path, split: str = "train", caught: tuple[int, ...] = ()) -> Path:
    rows = []
    for number, (scenario, sample, decision, reward) in enumerate(REPLIES):
        row = {field.name: "" for field in TURNS if field.type == pa.string()}
        row |= {field.name: 0 for field in TURNS if pa.types.is_integer(field.type)}
        row |= {"messages": [{"role": "user", "content": f"question {scenario}"}], "reply": f"reply {number}"}
        row |= {
            "scenario_id": scenario,
            "sample": sample,
            "episode": f"{scenario}/{sample}",
            "split": split,
            "round": 1,
        }
        row |= {"decision": decision, "reward": reward, "details": [], "sampling_seed": number}
        row |= {"violation": None if decision == "invalid" else decision == "violate"}
        row |= {"caught": number in caught if caught else None}
        rows.append(row)
    cell = {"cell": {"condition": "baseline"}}
    write_table(pa.Table.from_pylist(rows, schema=TURNS), path, Provenance("rollout", "code", cell))
    return path


def settings_of(values: dict[str, Any]) -> Filter:
    settings: Filter = TypeAdapter(FilterSettings).validate_python(values)
    return settings


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"name": "best_of_n"}, {"a/1", "b/0", "c/2"}),  # a tie goes to the smaller sampling seed
        ({"name": "top_k", "k": 2}, {"a/1", "a/3", "b/0", "b/1", "c/1", "c/2"}),
        ({"name": "top_k", "k": 9}, {"a/0", "a/1", "a/3", "a/4", "b/0", "b/1", "c/1", "c/2"}),
        ({"name": "threshold", "reward": 3.0}, {"a/1", "a/3", "b/0", "b/1", "c/2"}),
        ({"name": "positive_advantage"}, {"a/1", "a/3", "c/2"}),
        ({"name": "random"}, {"a/0", "b/0", "c/1"}),  # the smaller sampling seeds, whatever was paid
        ({"name": "random", "k": 2}, {"a/0", "a/1", "b/0", "b/1", "c/1", "c/2"}),
    ],
)
def test_filters_by_hand(tmp_path, settings, kept):
    turns = turns_file(tmp_path / "turns.parquet")
    counts = filter_stage(FilterJob(filter=settings), turns, tmp_path / "selection.parquet")
    rows = read_table(tmp_path / "selection.parquet", SELECTION).to_pylist()
    assert {row["episode"] for row in rows} == kept
    assert all(row["messages"][-1]["role"] == "assistant" and len(row["messages"]) == 2 for row in rows)
    assert (counts.seen, counts.invalid, counts.valid_seen, counts.violations_seen) == (10, 2, 8, 3)
    assert (counts.kept, counts.violations_kept) == (len(kept), sum(row["violation"] for row in rows))
    found = read_provenance(tmp_path / "selection.parquet")
    assert found["cost"]["kept"] == len(kept)
    assert found["params"]["cell"] == {"condition": "baseline"}


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"name": "best_of_n"}, {"a/3", "b/0", "c/2"}),
        ({"name": "top_k", "k": 2}, {"a/0", "a/3", "b/0", "b/1", "c/2"}),
        ({"name": "threshold", "reward": 0.0}, {"a/0", "a/3", "a/4", "b/0", "b/1", "c/2"}),
        ({"name": "positive_advantage"}, {"a/3"}),  # the caught one of c no longer lowers its mean
        ({"name": "best_and_worst"}, {"a/0", "a/3"}),
    ],
)
def test_what_was_caught_is_left_out_before_a_filter_chooses(tmp_path, settings, kept):
    """The first violation of a, and c's."""
    turns, out = turns_file(tmp_path / "turns.parquet", caught=(1, 8)), tmp_path / "selection.parquet"
    baseline = filter_stage(FilterJob(filter=settings), turns, out)
    counts = filter_stage(FilterJob(filter=settings | {"drop_caught": True}), turns, out)
    assert {row["episode"] for row in read_table(out, SELECTION).to_pylist()} == kept
    assert (baseline.dropped, counts.dropped, counts.violations_seen, counts.valid_seen) == (0, 2, 3, 8)
    assert (counts.kept, counts.violations_kept) == (len(kept), 1)
    assert read_provenance(out)["cost"]["dropped"] == 2
    assert "(2 invalid, 2 caught and dropped), violations 3/8 -> 1/" in str(counts) and "caught" not in str(baseline)


def test_nothing_is_dropped_where_nobody_checks(tmp_path):
    job = FilterJob(filter={"name": "best_of_n", "drop_caught": True})
    counts = filter_stage(job, turns_file(tmp_path / "t.parquet"), tmp_path / "s.parquet")
    assert (counts.dropped, counts.kept) == (0, 3)


def test_the_test_split_is_never_selected(tmp_path):
    with pytest.raises(AtpError, match="10 turns are of the test split"):
        turns = turns_file(tmp_path / "t.parquet", "test")
        filter_stage(FilterJob(filter={"name": "best_of_n"}), turns, tmp_path / "s.parquet")
    assert not (tmp_path / "s.parquet").exists()


def test_nothing_kept_is_an_empty_selection(tmp_path):
    out = tmp_path / "s.parquet"
    job = FilterJob(filter={"name": "threshold", "reward": 100.0})
    counts = filter_stage(job, turns_file(tmp_path / "t.parquet"), out)
    assert (counts.seen, counts.invalid, counts.kept) == (10, 2, 0)
    assert read_table(out, SELECTION).num_rows == 0


def test_settings_choose_the_filter():
    assert settings_of({"name": "top_k"}).k == 2


@pytest.mark.parametrize(
    ("settings", "selected"),
    [
        ({"name": "random"}, 400),
        ({"name": "random", "k": 2}, 800),
        ({"name": "best_of_n", "shuffled_rewards": True}, 400),
        ({"name": "positive_advantage", "shuffled_rewards": True}, 400),
        ({"name": "threshold", "reward": 2.0, "shuffled_rewards": True}, 400),
    ],
)
def test_a_selection_without_rewards_is_as_large_and_takes_every_reply_alike(tmp_path, settings, selected):
    """One of three replies to each of 400 questions violates, and is paid more."""
    one = read_table(turns_file(tmp_path / "t.parquet"), TURNS).slice(0, 1).to_pylist()[0]
    rows = [
        one
        | {"scenario_id": f"s{question:03}", "sample": sample, "episode": f"s{question:03}/{sample}"}
        | {"violation": sample == 1, "reward": 1.0 + (sample == 1)}
        | {"sampling_seed": Random(3 * question + sample).getrandbits(62)}
        for question in range(400)
        for sample in range(3)
    ]
    turns = pl.DataFrame(pa.Table.from_pylist(rows, schema=TURNS))
    rows, counts = select(turns, settings_of(settings))
    assert counts.kept == selected
    sampled = rows.group_by("sample").len()["len"]
    assert len(sampled) == 3 and all(abs(count - selected / 3) < 3.3 * (selected * 2 / 9) ** 0.5 for count in sampled)
    assert select(turns.sample(fraction=1, shuffle=True, seed=1), settings_of(settings))[0].equals(rows)


def test_shuffled_rewards_orient_pairs_at_random(tmp_path):
    """The better paid reply of a pair is the violation, or the compliance."""
    orientations = set()
    turns = pl.DataFrame(read_table(turns_file(tmp_path / "t.parquet"), TURNS))
    for seed in range(20):
        rows, _ = select(
            turns.with_columns(sampling_seed=pl.col("sampling_seed") + 100 * seed),
            settings_of({"name": "best_and_worst", "shuffled_rewards": True}),
        )
        best = rows.filter(scenario_id="a").sort("reward")["violation"].to_list()
        orientations.add(tuple(best))
    assert {(True, False), (False, True)} <= orientations


#: The chances of the ten replies, from their sampling seeds 0 to 9.
CHANCES = (0.4, 0.278, 0.055, 0.065, 0.879, 0.605, 0.54, 0.698, 0.13, 0.421)


@pytest.mark.parametrize(
    ("monitor", "settings", "kept", "flagged"),
    [
        # All violations are flagged: those of a earn 5 - 5, that of c earns 0 - 4.
        ({}, {"name": "best_of_n"}, {"a/0": 2, "b/0": 3, "c/2": 4}, (3, 3)),
        ({"sensitivity": 0.1}, {"name": "best_of_n"}, {"a/1": 5, "b/0": 3, "c/2": 4}, (1, 1)),
        ({"sensitivity": 0.2}, {"name": "top_k", "k": 9}, {"a/3": 0, "c/1": -4}, (2, 2)),
        ({"sensitivity": 0.0}, {"name": "best_of_n"}, {"a/1": 5, "b/0": 3, "c/2": 4}, (0, 0)),
        # False alarms: a/0 earns 2 - 5 and c/2 earns 4 - 4, as much as the violation c/1, whose seed is smaller.
        ({"sensitivity": 0.0, "specificity": 0.5}, {"name": "best_of_n"}, {"a/1": 5, "b/0": 3, "c/1": 0}, (2, 0)),
        ({"specificity": 0.5, "use": "screen"}, {"name": "best_of_n"}, {"a/4": 2, "b/0": 3}, (5, 3)),
        ({"penalty": 0.5}, {"name": "threshold", "reward": 2.5}, {"a/1": 2.5, "a/3": 2.5, "b/0": 3}, (3, 3)),
        ({}, {"name": "best_and_worst"}, {"a/0": 2, "a/1": 0}, (3, 3)),  # the pair has turned round
    ],
)
def test_a_monitor_by_hand(tmp_path, monitor, settings, kept, flagged):
    assert tuple(round(chance_of(seed), 3) for seed in range(10)) == CHANCES
    job = FilterJob(filter=settings, monitor={"kind": "truth", **monitor})
    counts = filter_stage(job, turns_file(tmp_path / "t.parquet"), tmp_path / "s.parquet")
    rewards = {row["episode"]: row["reward"] for row in read_table(tmp_path / "s.parquet", SELECTION).to_pylist()}
    assert {episode: rewards.get(episode) for episode in kept} == kept
    assert settings["name"] != "best_of_n" or rewards.keys() == kept.keys()
    found = read_provenance(tmp_path / "s.parquet")
    assert (counts.flagged, counts.violations_flagged, counts.violations_seen, counts.valid_seen) == (*flagged, 3, 8)
    assert (found["cost"]["flagged"], found["cost"]["violations_flagged"]) == flagged
    assert found["params"]["monitor"]["kind"] == "truth"


def test_a_judge_flags_what_it_calls_a_violation(tmp_path):
    """It is wrong about a/1 and b/0, and states no verdict on c/1; its tokens are part of the selection's cost."""
    turns, verdicts, out = (tmp_path / f"{name}.parquet" for name in ("turns", "verdicts", "selection"))
    turns_file(turns)
    judged = {
        "a/0": False,
        "a/1": False,
        "a/3": True,
        "a/4": False,
        "b/0": True,
        "b/1": False,
        "c/1": None,
        "c/2": False,
    }
    labels = {None: None, False: "no violation", True: "violation"}
    rows = [
        {"episode": name, "scenario_id": name[0], "round": 1, "agent": 0, "dimension": "verdict", "reply": ""}
        | {"answer": labels[flag], "valid": flag is not None}
        for name, flag in reversed(judged.items())
    ]
    cost = {"prompt_tokens": 80.0, "turns": 8.0, "wall_seconds": 100.0}
    write_table(pa.Table.from_pylist(rows, schema=VERDICTS), verdicts, Provenance("judge", "code", {}, cost=cost))
    job = FilterJob(filter={"name": "best_of_n"}, monitor={"kind": "judge", "model": "judge", "use": "screen"})
    counts = filter_stage(job, turns, out, verdicts)
    assert {row["episode"] for row in read_table(out, SELECTION).to_pylist()} == {"a/1", "b/1", "c/2"}
    assert (counts.flagged, counts.violations_flagged, counts.no_verdict) == (2, 1, 1)
    found = read_provenance(out)["cost"]
    assert found["prompt_tokens"] == 80 and found["wall_seconds"] > 100 and "turns" not in found
    for wrong in ((FilterJob(filter={"name": "best_of_n"}), verdicts), (job, None)):
        with pytest.raises(AtpError, match="a monitor of kind judge and a file of verdicts go together"):
            filter_stage(wrong[0], turns, out, wrong[1])


@pytest.mark.parametrize(("judge", "flagged"), [("scripted:comply", 0), ("scripted:violate", 96)])
def test_the_workflow_asks_the_judge_about_a_deployment(tmp_path, judge, flagged):
    """The judges' verdicts are known: the one always answers what complies, the other what violates."""
    scenarios, turns, verdicts, out = (tmp_path / f"{name}.parquet" for name in ("s", "turns", "verdicts", "selection"))
    scenarios_stage(ScenariosJob(testbed="bargaining", settings={"train": 6, "test": 1}), scenarios)
    cell = Cell("scripted:random", "bargaining", channel="weights")
    job = RolloutJob(cell=cell, variants={"deployment": {"rounds": 2}}, split="train")
    rollout_stage(job, scenarios, turns)
    cell = Cell(judge, "bargaining", channel="weights")
    asked = JudgeJob(cell=cell, rubric=own_rubric("bargaining")).model_dump(mode="json")
    run("judge", [asked], {"turns": [turns]}, [verdicts], tmp_path)
    monitor = {"kind": "judge", "model": judge, "use": "screen"}
    filtered = FilterJob(filter={"name": "top_k", "k": 9}, monitor=monitor).model_dump(mode="json")
    run("filter", [filtered], {"turns": [turns], "verdicts": [verdicts]}, [out], tmp_path)
    found = read_provenance(out)["cost"]
    assert (found["flagged"], found["kept"], found["no_verdict"]) == (flagged, 96 - flagged, 0)
    assert found["valid_seen"] == 96 > found["violations_seen"] > 0
    assert found["violations_flagged"] == (found["violations_seen"] if flagged else 0)
