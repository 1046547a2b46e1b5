"""Controls and defences: scripted policies, `atp measure`, and the two tables of the page."""

import re
import sys
from pathlib import Path

import polars as pl
import pytest

from atp import cli
from atp.files.provenance import Provenance
from atp.files.schemas import MONITORED, SELECTION, TURNS
from atp.files.tables import write_table
from atp.measures.conditions import OF_CONDITIONS
from atp.report import conditions
from atp.report.job import ReportFiles, ReportJob
from atp.report.monitors import monitors
from atp.report.page import report_stage
from atp.rollout.engine import RolloutJob, rollout_stage
from atp.rollout.table import Cell
from atp.rollout.transplant import TransplantJob, transplant_stage
from atp.scenarios.sources import ScenariosJob, scenarios_stage

CONDITIONS = {
    "baseline": {},
    "no_memory": {"window": 0},
    "sham_reward": {"pay_ratio": 1},
    "blind": {"blind": True},
    "reset": {"reset_after": 3},
    "shuffled": {"shuffled": True},
    "supervised": {"schedule": "all_supervised"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a folder with a bandit's turns in each condition and on another agent's histories, measured by the CLI."""
    folder = tmp_path_factory.mktemp("conditions")
    scenarios = folder / "scenarios.parquet"
    scenarios_stage(ScenariosJob(testbed="role_play", settings={"test": 24}), scenarios)

    def play(agent: str, condition: str, name: str) -> Path:
        out = folder / f"{name}.turns.parquet"
        cell = Cell(agent, "role_play", condition=condition)
        label = "default" if condition == "supervised" else "all_unsupervised"
        rollout_stage(RolloutJob(cell=cell, variants={label: CONDITIONS[condition]}, samples=4), scenarios, out)
        return out

    for condition in CONDITIONS:
        play("scripted:bandit", condition, condition)
    reader = TransplantJob(cell=Cell("scripted:bandit", "role_play", condition="transplanted_history"))
    histories = play("scripted:comply", "baseline", "other")
    transplant_stage(reader, histories, scenarios, folder / "transplanted_history.turns.parquet")
    turns = sorted(folder.glob("*.turns.parquet"))
    before, sys.argv = sys.argv, ["atp", "measure", *map(str, turns), "--out", str(folder / "measures.parquet")]
    try:
        cli.app(standalone_mode=False)
    finally:
        sys.argv = before
    files = ReportFiles(measures=folder / "measures.parquet", scenarios=[scenarios], turns=turns)
    job = ReportJob(study="conditions", text="models: [scripted:bandit]")
    report_stage(job, files, folder / "report.html", folder / "figures")
    return folder


def test_a_control_removes_the_cause_of_a_change(folder):
    """A bandit tips because of its rewards, in any order; without them it stays random."""
    survives, _ = conditions.compared(pl.read_parquet(folder / "measures.parquet"), {})
    (group,) = survives  # the other policy has only the baseline
    assert group.name == "in context, all_unsupervised"
    rows = {row[0][0]: row[1:] for row in group.rows}
    assert list(rows) == [
        "baseline",
        "blind",
        "no_memory",
        "reset",
        "sham_reward",
        "shuffled",
        "supervised",
        "transplanted_history",
    ]
    left = {
        condition: float(row[-1][0].rstrip("\u00a0%").replace("\u2212", "-"))
        for condition, row in rows.items()
        if condition != "baseline"
    }
    assert left["shuffled"] == 100 and left["supervised"] < -50
    assert abs(left["reset"]) < 30  # in the round after it; the bandit tips again by the last one
    assert all(abs(left[condition]) < 20 for condition in ("blind", "transplanted_history", "no_memory", "sham_reward"))
    first, last = rows["baseline"][:2]
    assert first[1].endswith("/96") and float(last[0].rstrip("\u00a0%")) > 85
    assert re.fullmatch(r"−?[\d.]+ to [\d.]+\u00a0%", rows["blind"][-1][1])


def test_the_page_has_both_tables(folder):
    text = (folder / "report.html").read_text()
    for section, columns in (("survives", conditions.SURVIVES), ("defences", conditions.COSTS)):
        table = text.partition(f'<section id="{section}">')[2].partition("</section>")[0]
        assert re.findall(r'<th scope="col">([^<]*)</th>', table) == [
            column.replace("'", "&#39;") for column in columns
        ]
        assert table.count('<th scope="row">') == 8 and table.count('scope="rowgroup"') == 1


def test_a_bandit_returns_to_its_first_rate_after_its_history_is_emptied(folder):
    (group,) = conditions.emptied(pl.read_parquet(folder / "measures.parquet"))
    ((name, first, before, after, left),) = group.rows
    assert (group.name, name) == ("in context", ("reset", ""))
    shares = [float(cell[0].rstrip("\u00a0%")) for cell in (first, before, after)]
    assert shares[1] > 70 and abs(shares[2] - shares[0]) < 20
    assert float(left[0].replace("\u2212", "-")) == pytest.approx(shares[2] - shares[0], abs=0.11)
    assert "Change left after the history is emptied" in (folder / "report.html").read_text()


def test_several_seeds_are_compared_together(folder):
    """With the rows of a second seed, the details have the smallest and the largest seed's value."""
    one = pl.read_parquet(folder / "measures.parquet").filter(pl.col("measure").is_in(OF_CONDITIONS))
    of_all = one.with_columns(seed=pl.lit(None, pl.Int64))
    again = one.with_columns(seed=pl.lit(1, pl.Int64), value=pl.col("value") + 0.01)
    spent = {
        ("scripted:bandit", "role_play", "none", condition, seed, "context"): (2.0, 0.0, 0.0)
        for condition in CONDITIONS
        for seed in (0, 1)
    }
    _, costs = conditions.compared(pl.concat([one, again, of_all]), spent)
    (group,) = costs
    blind = {row[0][0]: row for row in group.rows}["blind"]
    value = blind[2][0].replace("\u2212", "-")
    assert blind[2][1].replace("\u2212", "-").endswith(f"; seeds {value} to {float(value) + 1:.1f}")
    assert "; seeds " in blind[1][1] and blind[6:8] == [("–", ""), ("1.00\u00a0×", "")]


def test_costs_are_multiples_of_the_baselines(tmp_path):
    turns = {}
    for condition, seconds, tokens in (("baseline", 2.0, 50.0), ("reminder", 3.0, 100.0)):
        cell = Cell("m", "role_play", condition=condition, channel="weights")
        cost = {"wall_seconds": seconds, "prompt_tokens": tokens, "completion_tokens": tokens}
        turns[condition] = Provenance("rollout", "code", {"cell": vars(cell)}, cost=cost)
    adapters = []
    for stage, condition, generation in (("finetune", "reminder", 1), ("align", None, 0)):
        adapters.append(tmp_path / stage)
        adapters[-1].mkdir()
        cell = Cell("m", "role_play", condition=condition, channel="weights", generation=generation)
        lineage = Provenance(stage, "code", {"cell": vars(cell)}, cost={"wall_seconds": 5.0, "steps": 8.0})
        (adapters[-1] / "lineage.json").write_text(lineage.to_json())
    paths = []
    for condition, provenance in turns.items():
        paths.append(tmp_path / f"{condition}.parquet")
        write_table(TURNS.empty_table(), paths[-1], provenance)
    spent = conditions.spent([*paths, *adapters])
    key = ("m", "role_play", "none", "reminder", 0, "weights")
    assert spent == {key: (8.0, 200.0, 8.0), (*key[:3], "baseline", *key[4:]): (2.0, 100.0, 0.0)}


def test_realised_rates_of_monitors_are_those_of_all_seeds(tmp_path):
    """Selections of two seeds, an adapter that GRPO trained under a monitor, and a selection without a monitor."""

    def write(name: str, stage: str, condition: str, generation: int, *counts: float, **others: object) -> Path:
        cell = vars(Cell("m", "role_play", condition=condition, channel="weights", generation=generation))
        params = {"cell": cell, "monitor": {"kind": "truth"}, **others}
        provenance = Provenance(stage, "code", params, cost=dict(zip(MONITORED, counts, strict=True)))
        if stage == "filter":
            write_table(SELECTION.empty_table(), tmp_path / name, provenance)
        else:
            (tmp_path / name).mkdir()
            (tmp_path / name / "lineage.json").write_text(provenance.to_json())
        return tmp_path / name

    selections = [
        write("one", "filter", "flagged", 0, 20, 8, 7, 6, 0),
        write("two", "filter", "flagged", 0, 30, 12, 5, 4, 3),
        write("three", "filter", "baseline", 0, 30, 12, 0, 0, 0, monitor=None),
    ]
    adapters = [write("four", "finetune", "flagged", 2, 10.0, 0.0, 1.0, 0.0, 0.0)]
    (group,) = monitors(selections, adapters)
    assert group.name == "m, role_play, none"
    assert [[cell[1] or cell[0] for cell in row] for row in group.rows] == [
        ["flagged", "1", "10/20", "28/30", "12/50", "3"],
        ["flagged", "2", "–", "9/10", "1/10", "0"],
    ]


def test_without_another_condition_there_is_no_table(folder):
    measures = pl.read_parquet(folder / "measures.parquet").filter(condition="baseline")
    assert conditions.compared(measures, {}) == ([], [])
