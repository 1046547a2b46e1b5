"""The page's table of seen and unseen templates, on scripted agents whose turns are counted here."""

import re
from pathlib import Path

import polars as pl
import pytest

from atp.files.tables import read_table
from atp.measures.job import MeasureJob
from atp.measures.rates import measure_stage
from atp.report.job import ReportFiles, ReportJob
from atp.report.page import report_stage
from atp.rollout.engine import RolloutJob, rollout_stage
from atp.rollout.table import Cell
from atp.scenarios.sources import ScenariosJob, scenarios_stage


def report(folder: Path, unseen: float, organism: bool = False, aligned: bool = False) -> tuple[str, pl.DataFrame]:
    """Return the text of the section, and the turns."""
    scenarios, turns = folder / "scenarios.parquet", []
    settings = {"train": 24, "test": 32, "unseen_templates": unseen}
    scenarios_stage(ScenariosJob(testbed="role_play", settings=settings), scenarios)
    cells = [Cell("scripted:bandit", "role_play", channel="weights", generation=generation) for generation in range(3)]
    cells += [Cell("scripted:bandit", "role_play", alignment=name) for name in ("none", *(["dpo"] if aligned else []))]
    for number, cell in enumerate(cells):
        turns.append(folder / f"{number}.parquet")
        job = RolloutJob(cell=cell, variants={"default": {"rounds": 1 if cell.channel == "weights" else 4}}, samples=3)
        rollout_stage(job, scenarios, turns[-1])
    measure_stage(MeasureJob(), turns, folder / "measures.parquet")
    files = ReportFiles(folder / "measures.parquet", [scenarios], turns)
    report_stage(ReportJob(study="s", organism=organism), files, folder / "report.html", folder / "figures")
    page = (folder / "report.html").read_text()
    section = re.search(r'<section id="unseen">(.*?)</section>', page, re.DOTALL)
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", section[1])) if section else ""
    return text, pl.concat([pl.DataFrame(read_table(path)) for path in turns])


@pytest.mark.parametrize("aligned", [False, True])
def test_the_first_and_the_last_point_of_each_series(tmp_path, aligned):
    text, turns = report(tmp_path, 0.25, aligned=aligned)
    assert "role_play, in the weights: 12 seen templates with 24 test scenarios, 4 unseen templates with 8" in text
    assert ("role_play, in context" in text) == aligned
    weights, context = (turns.filter(channel=channel) for channel in ("weights", "context"))
    rows = [("generation 0", weights.filter(generation=0)), ("generation 2", weights.filter(generation=2))]
    if aligned:
        rows += [
            (f"alignment {name}, round {round}", context.filter(alignment=name, round=round))
            for name in ("none", "dpo")
            for round in (1, 4)
        ]
    for name, played in rows:
        counts = [
            f"{part['violation'].sum()}/{part['violation'].count()}"
            for part in (played.filter(template_seen=seen) for seen in (True, False))
        ]
        assert re.search(rf"baseline, {name} .*? % {counts[0]}, .*? % {counts[1]}, ", text), (name, counts, text)
    assert "seeds" not in text
    assert "generation 1" not in text and "round 2" not in text


@pytest.mark.parametrize(("unseen", "organism"), [(0.0, True), (0.5, True), (0.5, False)])
def test_what_the_section_says_about_the_organism(tmp_path, unseen, organism):
    text, _ = report(tmp_path, unseen, organism)
    assert bool(text) == (unseen > 0)
    assert ("own curriculum has shown it all built-in templates" in text) == (unseen > 0 and organism)
