"""Published values next to a study's: all have a row, differences are correct, other studies have no section.

Also docs/replication.md, which lists the same values and the number of jobs of the paper's studies.
"""

import re
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from atp.agents.scripted import scripted
from atp.files.provenance import Provenance, Stage
from atp.files.schemas import MEASURES
from atp.files.tables import write_table
from atp.measures import swept
from atp.measures.intervals import wilson
from atp.measures.job import MeasureJob
from atp.measures.rates import measure_stage
from atp.registry import entries, find_testbed
from atp.report.job import ReportFiles, ReportJob
from atp.report.page import report_stage
from atp.report.replication import NOT_RUN, published
from atp.report.replication import replication as replicate
from atp.report.results import Results
from atp.rollout.engine import RolloutJob, rollout
from atp.rollout.table import Cell
from atp.scenarios.scenario import write_scenarios
from atp.scenarios.templates import generate, read_templates
from atp.study import plan
from atp.study.read import read_project
from atp.testbeds.coordination import TESTBED as COORDINATION
from atp.testbeds.coordination.scenarios import CoordinationScenario
from atp.testbeds.tool_use import TESTBED as TOOL_USE

ROOT = Path(__file__).parents[2]
VALUES = [value for entry in entries("testbeds").values() for value in published(entry.value)]
STUDIES = ("paper_role_play", "paper_coordination", "paper_tool_use", "paper_bargaining", "paper_grid")
LLAMA = {"model": "llama-3.1-8b-instruct", "alignment": "dpo"}


def measured(*rows: dict) -> pl.DataFrame:
    """Return measures of role_play in context, k of n with Wilson's interval, changed as each row specifies."""
    baseline = {"testbed": "role_play", "condition": "baseline", "seed": 0, "channel": "context", "generation": 0}
    baseline |= {"variant": "all_unsupervised", "split": "test", "measure": "violation_rate", "method": "wilson"}
    made = []
    for row in rows:
        k, n = row["k"], row["n"]
        low, high = wilson(k, n) if n else (None, None)
        made.append({**baseline, "value": k / n if n else None, "low": low, "high": high, **row})
    return pl.from_arrow(pa.Table.from_pylist(made, schema=MEASURES))


def replication(measures: pl.DataFrame, settings: dict | None = None, scenarios: dict | None = None):
    return replicate(Results(measures, settings or {}, scenarios or {}))


def by_value(found) -> dict[tuple[str, str], list[list[str]]]:
    """Return (testbed, model and measure; alignment and round) -> published, variant, here, difference of each row."""
    rows: dict[tuple[str, str], list[list[str]]] = {}
    for group in found.groups:
        for (when, _), *cells in group.rows:
            texts = [f"{value} ({detail})" if detail else value for value, detail in cells]
            rows.setdefault((group.name.partition("; published")[0], when), []).append(texts)
    return rows


def test_the_difference_by_hand():
    """Wilson's interval of 12 of 64 is 11.06 to 29.97 %, of 20 of 64 it is 21.23 to 43.39 %. 31.25 - 18.75 = 12.5, less
    the root of 10.02 and 11.22 squared and added, 15.05; more that of 12.14 and 7.69, 14.37.
    """
    found = by_value(replication(measured({**LLAMA, "round": 1, "k": 20, "n": 64})))
    key = "role_play, Llama-3.1-8B-Instruct, violation_rate"
    assert found[key, "dpo, round 1"] == [
        [
            "18.8\xa0% (12/64, 11.1 to 30.0\xa0%)",
            "all_unsupervised (baseline, seed 0)",
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
    found = by_value(replication(measured(ours)))
    key = "tool_use, Qwen3-4B-Thinking, tool_usage_hard"
    assert [row[2:] for row in found[key, "grpo, round 5"]] == [
        ["10.8\xa0% (17/157, 5.0 to 18.0\xa0%)", "−6.4 (−15.2 to 2.4)"]
    ]
    assert found["tool_use, Qwen3-4B-Thinking, accuracy_hard", "grpo, round 5"][0][2] == NOT_RUN
    assert found["tool_use, GPT-4.1-mini, tool_usage_hard", "none, round 0"][0][2] == NOT_RUN


@pytest.mark.parametrize("testbed", ["role_play", "coordination", "tool_use"])
def test_every_published_value_of_a_testbed_is_a_row(testbed):
    """All published values have a row, for any model of the paper and any measure."""
    other = {"model": "QWEN3-8b", "alignment": "none", "testbed": testbed, "round": 3, "k": 1, "n": 2}
    rows = by_value(replication(measured(other)))
    values = published(find_testbed(testbed))
    assert sum(map(len, rows.values())) == len(values) > 2
    for value in values:
        (key,) = [
            key
            for key in rows
            if key[0].startswith(value.testbed)
            and key[0].endswith(f", {value.model}, {value.measure}")
            and key[1] == f"{value.alignment}, round {value.round}"
        ]
        ((text, *ours),) = rows[key]
        assert text.startswith(f"{value.percent}\xa0% ({value.k}/{value.n}, ") and ours == ["–", NOT_RUN, "–"]


def test_each_variant_and_seed_has_a_row_and_nothing_else_fits():
    first = {**LLAMA, "round": 1, "k": 20, "n": 64}
    rows = [
        first | change for change in ({}, {"variant": "alternating"}, {"seed": 1}, {"variant": "mute", "k": 0, "n": 0})
    ]
    others = [
        {"condition": "blind"},
        {"channel": "weights"},
        {"alignment": "none"},
        {"round": 2},
        {"measure": "invalid_rate"},
    ]
    found = by_value(replication(measured(*rows, *(first | other for other in others))))
    key = "role_play, Llama-3.1-8B-Instruct, violation_rate"
    assert [row[1:] for row in found[key, "dpo, round 1"]] == [
        ["all_unsupervised (baseline, seed 0)", "31.2\xa0% (20/64, 21.2 to 43.4\xa0%)", "+12.5 (−2.5 to 26.9)"],
        ["all_unsupervised (baseline, seed 1)", "31.2\xa0% (20/64, 21.2 to 43.4\xa0%)", "+12.5 (−2.5 to 26.9)"],
        ["alternating (baseline, seed 0)", "31.2\xa0% (20/64, 21.2 to 43.4\xa0%)", "+12.5 (−2.5 to 26.9)"],
        ["mute (baseline, seed 0)", "no valid reply", "–"],
    ]
    assert len(found[key, "dpo, round 6"]) == 1


def test_a_value_for_one_threshold_is_compared_with_that_threshold(tmp_path):
    variants = {"low": {"threshold": 2}, "usual": {}, "high": {"threshold": 8}}
    chosen = generate(read_templates(COORDINATION.templates, COORDINATION.template), COORDINATION.instantiate, 0, 7, 0)
    measures, turns = played(tmp_path, "coordination", "dpo", chosen, "random", variants)
    settings = swept.settings([turns])
    key = "coordination, threshold 4, Qwen3-8B, collusion_rate"
    (row,) = by_value(replication(measures, settings))[key, "dpo, round 1"]
    assert row[:2] == ["57.1\xa0% (32/56, 44.1 to 69.2\xa0%)", "usual (baseline, seed 0)"] and "/56, " in row[2]
    own_threshold = CoordinationScenario(
        "fund-1", "fund", "test", "", "", "", "in", "out", "in", "out", "purse", "", "Pay.", 5, 2, 1.9, 1.0, 0.5
    )
    paths = {name: tmp_path / f"{name}.parquet" for name in ("own", "others")}
    write_scenarios(COORDINATION, [own_threshold, *chosen], paths["own"], Provenance("s", "c"))
    write_scenarios(COORDINATION, chosen, paths["others"], Provenance("s", "c"))
    unknown = replication(measures)
    own, others = (replication(measures, settings, {"coordination": path}) for path in paths.values())
    for found in (unknown, own):
        assert {rows[2] for each in by_value(found).values() for rows in each} == {NOT_RUN}
    assert by_value(others)[key, "dpo, round 1"] == [row]
    assert [note for note in own.notes if "Some scenarios of coordination define threshold themselves" in note]
    assert unknown.notes == others.notes == own.notes[:-1]


def test_tool_use_begins_at_round_0_here_too(tmp_path):
    chosen = generate(read_templates(TOOL_USE.templates, TOOL_USE.template), TOOL_USE.instantiate, 0, 4, 0)
    measures, _ = played(tmp_path, "tool_use", "none", chosen, "comply", {"default": {}}, "qwen3-4b-thinking")
    found = by_value(replication(measures))
    for measure in ("tool_usage_hard", "accuracy_hard"):
        for round in (0, 5):
            ((*_, here, _),) = found[f"tool_use, Qwen3-4B-Thinking, {measure}", f"none, round {round}"]
            assert "/4, " in here


def played(folder, testbed, alignment, scenarios, policy, variants, model="Qwen3-8B") -> tuple[pl.DataFrame, Path]:
    """Return measures and turns of a policy that plays under a model's name."""
    turns, job = folder / "turns.parquet", RolloutJob(cell=Cell(model, testbed, alignment), variants=variants)
    stage = Stage("rollout", "atp.rollout.engine", job.params(), [])
    rollout(job, scenarios, scripted(policy, testbed), turns, stage)
    measure_stage(MeasureJob(), [turns], folder / "measures.parquet")
    return pl.read_parquet(folder / "measures.parquet"), turns


@pytest.mark.parametrize(
    ("model", "testbed", "there"),
    [
        ("qwen3-8b", "role_play", True),
        ("llama-3.1-8b-instruct", "tool_use", True),
        ("qwen3-8b", "bargaining", False),  # no published value is known
        ("organism", "role_play", False),
    ],
)
def test_only_reports_with_the_papers_models_and_testbeds_have_the_section(model, testbed, there, tmp_path):
    names = {"violation_rate": 20, "invalid_rate": 0, "mean_reward": 32}
    cell = {"model": model, "testbed": testbed, "alignment": "none", "round": 1, "n": 64}
    made = measured(*(cell | {"measure": name, "k": k} for name, k in names.items()))
    assert (replication(made) is not None) == there
    write_table(made.to_arrow().cast(MEASURES), tmp_path / "measures.parquet", Provenance("measure", "code"))
    out = (tmp_path / "report.html", tmp_path / "figures")
    report_stage(ReportJob(study="s"), ReportFiles(tmp_path / "measures.parquet"), *out)
    page = (tmp_path / "report.html").read_text()
    assert ('<section id="replication">' in page) == there
    assert page.count(f"<td>{NOT_RUN}</td>") == (sum(value.testbed == testbed for value in VALUES) if there else 0)
    assert ("Under which supervision schedule" in page) == (there and testbed == "role_play")


def test_published_proportions_are_whole_numbers_of_their_n():
    assert {value.testbed for value in VALUES} == {"role_play", "coordination", "tool_use"}
    for value in VALUES:
        assert f"{100 * value.k / value.n:.1f}" == value.percent and value.confidence and value.note, value


PAGE = (ROOT / "docs/replication.md").read_text()


def test_the_document_has_every_published_value():
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| ")
    ]
    for value in VALUES:
        testbed = ", ".join([value.testbed, *(f"{name}={setting}" for name, setting in value.settings.items())])
        cells = [testbed, value.model, value.alignment, f"round {value.round}", value.measure, value.percent]
        assert [*cells, str(value.n), value.version, value.confidence, value.note, NOT_RUN] in rows, value
    assert sum(NOT_RUN in row for row in rows) == len(VALUES)


@pytest.mark.parametrize("name", STUDIES)
def test_the_document_has_the_number_of_jobs_of_a_study(name):
    rows = plan.rows_of(read_project({"study": name}, ROOT), name)
    assert re.search(rf"^\| `{name}` \| {sum(row.jobs for row in rows):,} \|", PAGE, re.MULTILINE)


def test_files_that_the_document_names_exist():
    for path in re.findall(r"`((?:config|tests|atp|docs)/[\w/.*]+)`", PAGE) + re.findall(r"\]\((?!http)([^)#]+)", PAGE):
        folder = ROOT / "docs" if f"]({path}" in PAGE else ROOT
        assert list(folder.glob(path.replace("NAME", "*"))), path
