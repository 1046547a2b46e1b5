"""Controls and defences as a person meets them: scripted policies, `atp measure`, and the two tables of the page."""

import re
import sys
from pathlib import Path

import polars as pl
import pytest

from atp import cli
from atp.artifacts import TURNS, write_table
from atp.measures.arms import OF_ARMS
from atp.provenance import Provenance
from atp.replay import replay_stage
from atp.report import arms, report_stage
from atp.rollout import Cell, rollout_stage
from atp.scenarios.stage import ScenarioSettings, scenarios_stage

ARMS = {
    "plain": {},
    "no_memory": {"window": 0},
    "sham_reward": {"pay_ratio": 1},
    "blind": {"blind": True},
    "reset": {"reset_after": 3},
    "shuffled": {"shuffled": True},
    "supervised": {"schedule": "all_supervised"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What a bandit does in each arm, and what it makes of another's histories, measured by the command line."""
    folder = tmp_path_factory.mktemp("arms")
    scenarios, settings = (
        folder / "scenarios.parquet",
        ScenarioSettings(path="config/templates/role_play.yaml", test=24),
    )
    scenarios_stage(settings, "role_play", scenarios)

    def play(agent: str, arm: str, name: str) -> Path:
        out = folder / f"{name}.turns.parquet"
        cell = Cell(agent, "role_play", "none", arm, 0, "context", 0)
        label = "default" if arm == "supervised" else "all_unsupervised"
        rollout_stage(scenarios, out, cell, {label: ARMS[arm]}, "test", 4)
        return out

    for arm in ARMS:
        play("scripted:bandit", arm, arm)
    reader = {"model": "scripted:bandit", "alignment": "none", "arm": "frozen_memory"}
    memory = play("scripted:comply", "plain", "other")
    replay_stage(memory, scenarios, folder / "frozen_memory.turns.parquet", reader)
    turns = sorted(folder.glob("*.turns.parquet"))
    before, sys.argv = sys.argv, ["atp", "measure", *map(str, turns), "--out", str(folder / "measures.parquet")]
    try:
        cli.app(standalone_mode=False)
    finally:
        sys.argv = before
    report_stage(
        measures=folder / "measures.parquet",
        turns=turns,
        selections=[],
        adapters=[],
        pairs=[],
        artifacts=[scenarios],
        out=folder / "report.html",
        figures_folder=folder / "figures",
        study="arms",
        study_text="models: [scripted:bandit]",
        organism=False,
    )
    return folder


def test_what_a_control_takes_away_is_what_the_change_came_from(folder):
    """A bandit tips by what it is paid, in whatever order it was: without that it stays a coin."""
    survives, _ = arms.compared(pl.read_parquet(folder / "measures.parquet"), {})
    (line,) = survives  # the policy beside it has no arm but plain
    assert line.name == "in context, all_unsupervised"
    rows = {row[0][0]: row[1:] for row in line.rows}
    assert list(rows) == [
        "plain",
        "blind",
        "frozen_memory",
        "no_memory",
        "reset",
        "sham_reward",
        "shuffled",
        "supervised",
    ]
    left = {
        arm: float(row[-1][0].rstrip("\u00a0%").replace("\u2212", "-")) for arm, row in rows.items() if arm != "plain"
    }
    assert left["shuffled"] == 100 and left["supervised"] < -50
    assert all(abs(left[arm]) < 20 for arm in ("blind", "frozen_memory", "no_memory", "sham_reward"))
    first, last = rows["plain"][:2]
    assert first[1].endswith("/96") and float(last[0].rstrip("\u00a0%")) > 85
    assert re.fullmatch(r"−?[\d.]+ to [\d.]+\u00a0%", rows["blind"][-1][1])


def test_the_page_has_both_tables(folder):
    text = (folder / "report.html").read_text()
    for section, columns in (("survives", arms.SURVIVES), ("defences", arms.COSTS)):
        table = text.partition(f'<section id="{section}">')[2].partition("</section>")[0]
        assert re.findall(r'<th scope="col">([^<]*)</th>', table) == [
            column.replace("'", "&#39;") for column in columns
        ]
        assert table.count('<th scope="row">') == 8 and table.count('scope="rowgroup"') == 1


def test_an_emptied_history_brings_a_bandit_back_to_where_it_began(folder):
    (group,) = arms.emptied(pl.read_parquet(folder / "measures.parquet"))
    ((name, first, before, after, left),) = group.rows
    assert (group.name, name) == ("in context", ("reset", ""))
    shares = [float(cell[0].rstrip("\u00a0%")) for cell in (first, before, after)]
    assert shares[1] > 70 and abs(shares[2] - shares[0]) < 20
    assert float(left[0].replace("\u2212", "-")) == pytest.approx(shares[2] - shares[0], abs=0.11)
    assert "What is left when the history is emptied" in (folder / "report.html").read_text()


def test_several_seeds_are_compared_together(folder):
    """The same rows as of two seeds more, which are as much as they were: their ends stand in the small print."""
    one = pl.read_parquet(folder / "measures.parquet").filter(pl.col("measure").is_in(OF_ARMS))
    of_all = one.with_columns(seed=pl.lit(None, pl.Int64))
    again = one.with_columns(seed=pl.lit(1, pl.Int64), value=pl.col("value") + 0.01)
    spent = {
        ("scripted:bandit", "role_play", "none", arm, seed, "context"): (2.0, 0.0) for arm in ARMS for seed in (0, 1)
    }
    _, costs = arms.compared(pl.concat([one, again, of_all]), spent)
    (line,) = costs
    blind = {row[0][0]: row for row in line.rows}["blind"]
    value = blind[2][0].replace("\u2212", "-")
    assert blind[2][1].replace("\u2212", "-").endswith(f"; seeds {value} to {float(value) + 1:.1f}")
    assert "; seeds " in blind[1][1] and blind[5] == ("1.00\u00a0×", "")


def test_costs_are_multiples_of_plains(tmp_path):
    turns = {}
    for arm, seconds, tokens in (("plain", 2.0, 50.0), ("reminder", 3.0, 100.0)):
        cell = Cell("m", "role_play", "none", arm, 0, "weights", 0)
        cost = {"wall_seconds": seconds, "prompt_tokens": tokens, "completion_tokens": tokens}
        turns[arm] = Provenance("rollout", "code", {"cell": vars(cell)}, cost=cost)
    adapter = tmp_path / "m/role_play/none/seed0/reminder/generation1/adapter"
    adapter.mkdir(parents=True)
    (adapter / "lineage.json").write_text(Provenance("finetune", "code", cost={"wall_seconds": 5.0}).to_json())
    (tmp_path / "m/role_play/none/seed0/adapter").mkdir()
    (tmp_path / "m/role_play/none/seed0/adapter/lineage.json").write_text(Provenance("align", "code").to_json())
    paths = []
    for arm, provenance in turns.items():
        paths.append(tmp_path / f"{arm}.parquet")
        write_table(TURNS.empty_table(), paths[-1], provenance)
    spent = arms.spent(paths, [adapter, adapter.parents[2] / "adapter"], tmp_path)
    key = ("m", "role_play", "none", "reminder", 0, "weights")
    assert spent[key] == (8.0, 200.0) and spent[(*key[:3], "plain", *key[4:])] == (2.0, 100.0)


def test_without_another_arm_there_is_no_table(folder):
    measures = pl.read_parquet(folder / "measures.parquet").filter(arm="plain")
    assert arms.compared(measures, {}) == ([], [])
