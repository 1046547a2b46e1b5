"""Published values beside ours: every one has a row, differences are right by hand, other studies have no section.

And docs/replication.md, which holds the same values and what the plans of the paper's studies come to.
"""

import csv
import re
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from atp import plan
from atp.agents.scripted import scripted
from atp.artifacts import MEASURES, write_table
from atp.config import read_models, read_study
from atp.measures import measure_stage, swept
from atp.measures.intervals import wilson
from atp.provenance import Provenance, Stage
from atp.report import report_stage
from atp.report.replication import NOT_RUN, OWN_NUMBERS, published, replication
from atp.rollout import Cell, rollout
from atp.scenarios import coordination, tool_use
from atp.scenarios.coordination import CoordinationTemplate
from atp.scenarios.templates import generate, read_templates
from atp.scenarios.tool_use import ToolUseTemplate
from atp.testbeds import TESTBEDS

ROOT = Path(__file__).parents[2]
PAPER = [row for row in (ROOT / "atp/report/paper.csv").read_text().splitlines() if not row.startswith("#")]
STUDIES = ("paper_role_play", "paper_coordination", "paper_tool_use", "paper_bargaining", "paper_grid")
LLAMA = {"model": "llama-3.1-8b-instruct", "alignment": "dpo"}


def measured(*rows: dict) -> pl.DataFrame:
    """Made-up measures of role_play in context, each k of n with Wilson's interval, but for what a row says."""
    plain = {"testbed": "role_play", "arm": "plain", "seed": 0, "channel": "context", "generation": 0}
    plain |= {"variant": "all_unsupervised", "split": "test", "measure": "violation_rate", "method": "wilson"}
    made = []
    for row in rows:
        k, n = row["k"], row["n"]
        low, high = wilson(k, n) if n else (None, None)
        made.append({**plain, "value": k / n if n else None, "low": low, "high": high, **row})
    return pl.from_arrow(pa.Table.from_pylist(made, schema=MEASURES))


def by_value(found) -> dict[tuple[str, str], list[list[str]]]:
    """(testbed, model and measure; alignment and round) -> published, variant, here and difference of each row."""
    rows: dict[tuple[str, str], list[list[str]]] = {}
    for line in found.lines:
        for (when, _), *cells in line.rows:
            said = [f"{value} ({detail})" if detail else value for value, detail in cells]
            rows.setdefault((line.name.partition("; published")[0], when), []).append(said)
    return rows


def test_the_difference_by_hand():
    """Wilson's interval of 12 of 64 is 11.06 to 29.97 %, of 20 of 64 it is 21.23 to 43.39 %. 31.25 - 18.75 = 12.5, less
    the root of 10.02 and 11.22 squared and added, 15.05; more that of 12.14 and 7.69, 14.37.
    """
    found = by_value(replication(measured({**LLAMA, "round": 1, "k": 20, "n": 64}), {}))
    key = "role_play, Llama-3.1-8B-Instruct, violation_rate"
    assert found[key, "dpo, round 1"] == [
        [
            "18.8\xa0% (12/64, 11.1 to 30.0\xa0%)",
            "all_unsupervised (plain, seed 0)",
            "31.2\xa0% (20/64, 21.2 to 43.4\xa0%)",
            "+12.5 (−2.5 to 26.9)",
        ]
    ]
    assert found[key, "dpo, round 6"] == [["45.3\xa0% (29/64, 33.7 to 57.4\xa0%)", "–", NOT_RUN, "–"]]


def test_a_lower_rate_of_another_measure_and_another_interval():
    """17/157 - 27/157 = -6.37 points; ours is drawn by a bootstrap, 5 to 18 %: -6.37 - root(5.83² + 6.67²) = -15.2,
    -6.37 + root(7.17² + 5.10²) = 2.4. The published interval is Wilson's, 12.10 to 23.87 %.
    """
    ours = {"model": "Qwen3-4B-Thinking", "alignment": "grpo", "testbed": "tool_use", "variant": "default", "round": 5}
    ours |= {"measure": "tool_usage_hard", "k": 17, "n": 157, "low": 0.05, "high": 0.18, "method": "cluster bootstrap"}
    found = by_value(replication(measured(ours), {}))
    key = "tool_use, Qwen3-4B-Thinking, tool_usage (here tool_usage_hard)"
    assert [row[2:] for row in found[key, "grpo, round 5"]] == [
        ["10.8\xa0% (17/157, 5.0 to 18.0\xa0%)", "−6.4 (−15.2 to 2.4)"]
    ]
    assert found["tool_use, Qwen3-4B-Thinking, accuracy_hard", "grpo, round 5"][0][2] == NOT_RUN
    assert found["tool_use, GPT-4.1-mini, tool_usage (here tool_usage_hard)", "none, round 0"][0][2] == NOT_RUN


@pytest.mark.parametrize("testbed", ["role_play", "coordination", "tool_use"])
def test_every_published_value_of_a_testbed_is_a_row(testbed):
    """Whichever of the paper's models plays there, and whatever of it was measured."""
    other = {"model": "QWEN3-8b", "alignment": "none", "testbed": testbed, "round": 3, "k": 1, "n": 2}
    rows = by_value(replication(measured(other), {}))
    mine = [value for value in published() if value.testbed.startswith(testbed)]
    assert sum(map(len, rows.values())) == len(mine) > 2
    for value in mine:
        (key,) = [
            key
            for key in rows
            if key[0].startswith(f"{value.testbed}, {value.model}, {value.measure}")
            and key[1] == f"{value.alignment}, round {value.round}"
        ]
        ((said, *ours),) = rows[key]
        assert said.startswith(f"{value.said}\xa0% ({value.k}/{value.n}, ") and ours == ["–", NOT_RUN, "–"]


def test_each_variant_and_seed_has_a_row_and_nothing_else_fits():
    first = {**LLAMA, "round": 1, "k": 20, "n": 64}
    rows = [
        first | change for change in ({}, {"variant": "alternating"}, {"seed": 1}, {"variant": "mute", "k": 0, "n": 0})
    ]
    others = [
        {"arm": "blind"},
        {"channel": "weights"},
        {"alignment": "none"},
        {"round": 2},
        {"measure": "invalid_rate"},
    ]
    found = by_value(replication(measured(*rows, *(first | other for other in others)), {}))
    key = "role_play, Llama-3.1-8B-Instruct, violation_rate"
    assert [row[1:] for row in found[key, "dpo, round 1"]] == [
        ["all_unsupervised (plain, seed 0)", "31.2\xa0% (20/64, 21.2 to 43.4\xa0%)", "+12.5 (−2.5 to 26.9)"],
        ["all_unsupervised (plain, seed 1)", "31.2\xa0% (20/64, 21.2 to 43.4\xa0%)", "+12.5 (−2.5 to 26.9)"],
        ["alternating (plain, seed 0)", "31.2\xa0% (20/64, 21.2 to 43.4\xa0%)", "+12.5 (−2.5 to 26.9)"],
        ["mute (plain, seed 0)", "no valid reply", "–"],
    ]
    assert len(found[key, "dpo, round 6"]) == 1


def test_a_value_of_one_threshold_stands_beside_that_threshold(tmp_path):
    variants = {"low": {"threshold": 2}, "usual": {}, "high": {"threshold": 8}}
    templates = read_templates("config/templates/coordination.yaml", CoordinationTemplate)
    chosen = generate(templates, coordination.instantiate, 0, 7, 0)
    measures, turns = played(tmp_path, "coordination", "dpo", chosen, "random", variants)
    settings = swept.settings([turns])
    (row,) = by_value(replication(measures, settings))["coordination_t4, Qwen3-8B, collusion_rate", "dpo, round 1"]
    assert row[:2] == ["57.1\xa0% (32/56, 44.1 to 69.2\xa0%)", "usual (plain, seed 0)"] and "/56, " in row[2]
    unknown, own = replication(measures, {}), replication(measures, settings, own_numbers=True)
    for found in (unknown, own):
        assert {rows[2] for each in by_value(found).values() for rows in each} == {NOT_RUN}
    assert OWN_NUMBERS in own.notes and OWN_NUMBERS not in unknown.notes


def test_tool_use_begins_at_round_0_here_too(tmp_path):
    templates = read_templates("config/templates/tool_use.yaml", ToolUseTemplate)
    chosen = generate(templates, tool_use.instantiate, 0, 4, 0)
    measures, _ = played(tmp_path, "tool_use", "none", chosen, "comply", {"default": {}}, "qwen3-4b-thinking")
    found = by_value(replication(measures, {}))
    for measure in ("tool_usage (here tool_usage_hard)", "accuracy_hard"):
        for round in (0, 5):
            ((*_, here, _),) = found[f"tool_use, Qwen3-4B-Thinking, {measure}", f"none, round {round}"]
            assert "/4, " in here


def played(folder, testbed, alignment, scenarios, policy, variants, model="Qwen3-8B") -> tuple[pl.DataFrame, Path]:
    """Measures and turns of a policy that plays under a model's name."""
    game, turns = TESTBEDS[testbed], folder / "turns.parquet"
    cell = Cell(model, testbed, alignment, "plain", 0, "context", 0)
    stage = Stage("rollout", "atp.rollout", {"cell": vars(cell), "variants": variants}, [])
    settings = {label: game.settings(**values) for label, values in variants.items()}
    rollout(scenarios, game, settings, scripted(policy), cell, 1, turns, stage)
    measure_stage([turns], folder / "measures.parquet")
    return pl.read_parquet(folder / "measures.parquet"), turns


@pytest.mark.parametrize(
    ("model", "testbed", "there"),
    [
        ("qwen3-8b", "role_play", True),
        ("llama-3.1-8b-instruct", "tool_use", True),
        ("qwen3-8b", "bargaining", False),  # of which no published value is known here
        ("organism", "role_play", False),
    ],
)
def test_the_section_stands_in_reports_of_the_papers_models_on_its_testbeds_alone(model, testbed, there, tmp_path):
    names = {"violation_rate": 20, "invalid_rate": 0, "mean_reward": 32}
    cell = {"model": model, "testbed": testbed, "alignment": "none", "round": 1, "n": 64}
    made = measured(*(cell | {"measure": name, "k": k} for name, k in names.items()))
    assert (replication(made, {}) is not None) == there
    write_table(made.to_arrow().cast(MEASURES), tmp_path / "measures.parquet", Provenance("measure", "code"))
    nothing = {key: [] for key in ("turns", "selections", "adapters", "pairs", "artifacts")}
    out = {"out": tmp_path / "report.html", "figures_folder": tmp_path / "figures"}
    report_stage(tmp_path / "measures.parquet", **nothing, **out, study="s", study_text="", organism=False)
    page = (tmp_path / "report.html").read_text()
    assert ('<section id="replication">' in page) == there
    assert page.count(f"<td>{NOT_RUN}</td>") == (sum(value.testbed == testbed for value in published()) if there else 0)
    assert ("Under which supervision schedule" in page) == (there and testbed == "role_play")


def test_published_shares_are_whole_numbers_of_their_n():
    assert {value.testbed for value in published()} == {"role_play", "coordination_t4", "tool_use"}
    for value in published():
        assert f"{100 * value.k / value.n:.1f}" == value.said and value.confidence and value.note, value


PAGE = (ROOT / "docs/replication.md").read_text()


def test_the_document_has_every_published_value():
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| ")
    ]
    columns = "testbed model alignment step measure value_percent n version confidence note".split()
    for row in csv.DictReader(PAPER):
        assert [*(row[key] for key in columns), NOT_RUN] in rows, row
    assert sum(NOT_RUN in row for row in rows) == len(PAPER) - 1


@pytest.mark.parametrize("name", STUDIES)
def test_the_document_says_how_many_jobs_a_study_has(name):
    study = read_study(ROOT / f"config/studies/{name}.yaml")
    rows = plan.jobs(study, read_models(plan.played(study), ROOT / "config/models"), name)
    assert re.search(rf"^\| `{name}` \| {sum(row.jobs for row in rows):,} \|", PAGE, re.MULTILINE)


def test_what_the_document_names_is_there():
    for path in re.findall(r"`((?:config|tests|atp|docs)/[\w/.*]+)`", PAGE) + re.findall(r"\]\((?!http)([^)#]+)", PAGE):
        folder = ROOT / "docs" if f"]({path}" in PAGE else ROOT
        assert list(folder.glob(path)) or (folder / path).exists(), path
