"""The cost that every stage writes, and the report's table of costs."""

from pathlib import Path

import pytest

from atp.errors import AtpError
from atp.files.tables import read_provenance
from atp.measures.job import MeasureJob
from atp.measures.rates import measure_stage
from atp.report import ran
from atp.report.job import ReportFiles, ReportJob
from atp.report.page import report_stage
from atp.rollout.engine import RolloutJob, gather_stage, rollout_stage
from atp.rollout.table import Cell
from atp.scenarios.sources import ScenariosJob, scenarios_stage
from atp.study.read import read_models
from atp.training.filters import BestOfN, FilterJob, filter_stage
from atp.training.pairs import PairsJob, pairs_stage
from atp.training.run import AlignJob
from atp.training.stage import align_stage
from atp.units import count, digits, duration, size

COSTS = {"starts", "wall_seconds", "cpu_seconds", "gpu_seconds", "peak_memory_mb"}
TOKENS = {"prompt_tokens", "cached_tokens", "completion_tokens"}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    """Return the artifact of each stage of a study, played by the model organism."""
    folder = tmp_path_factory.mktemp("costs")
    names = "scenarios pairs turns evaluation selection measures"
    paths = {name: folder / f"{name}.parquet" for name in names.split()}
    paths |= {"adapter": folder / "dpo/adapter", "report": folder / "report.html"}
    scenarios, adapter, turns = paths["scenarios"], paths["adapter"], [paths["turns"], paths["evaluation"]]
    organism = read_models(("organism",), "config/models")["organism"].of("role_play")
    scenarios_stage(ScenariosJob(testbed="role_play", settings={"train": 8, "test": 8}), scenarios)
    cell = Cell("organism", "role_play", "dpo", None, channel="weights")
    pairs_stage(PairsJob(cell=cell, model=organism, settings={}), scenarios, paths["pairs"])
    training = {"method": "dpo", "learning_rate": 5e-4, "validity": 0.0}
    align_stage(AlignJob(cell=cell, model=organism, settings={}, training=training), scenarios, adapter, paths["pairs"])
    played = {"model": organism, "variants": {"deployment": {"rounds": 1}}, "samples": 2}
    played |= {"cell": Cell("organism", "role_play", "dpo", channel="weights")}
    rollout_stage(RolloutJob(split="train", **played), scenarios, paths["turns"], adapter)
    shards = [folder / f"shard{k}.parquet" for k in (1, 2)]
    for k, shard in enumerate(shards, 1):
        rollout_stage(RolloutJob(part=(k, 2), **played), scenarios, shard, adapter)
    gather_stage(shards, paths["evaluation"])
    filter_stage(FilterJob(filter=BestOfN()), paths["turns"], paths["selection"])
    measure_stage(MeasureJob(), turns, paths["measures"])
    others = {"selections": [paths["selection"]], "pairs": [paths["pairs"]], "adapters": [adapter]}
    files = ReportFiles(paths["measures"], [scenarios], turns, **others)
    report_stage(ReportJob(study="costs", organism=True), files, paths["report"], folder / "figures")
    return paths


def test_every_stage_writes_its_cost(made):
    costs = {name: read_provenance(path)["cost"] for name, path in made.items()}
    assert {name for name, cost in costs.items() if not set(cost) >= COSTS} == set()
    assert all(cost["wall_seconds"] > 0 and cost["peak_memory_mb"] > 1 for cost in costs.values())
    assert {name for name, cost in costs.items() if set(cost) >= TOKENS} == {"pairs", "adapter", "turns", "evaluation"}
    assert costs["adapter"]["tokens"] > 0 and costs["pairs"]["completion_tokens"] > costs["pairs"]["tries"]
    assert costs["scenarios"]["scenarios"] == costs["selection"]["seen"] == 16
    assert costs["measures"]["turns"] == costs["report"]["turns"] == 32


def test_a_page_has_provenance(made):
    found = read_provenance(made["report"])
    assert found["stage"] == "report" and found["params"] == {
        "study": "costs",
        "text": "",
        "organism": True,
        "primary": [],
    }
    assert set(found["inputs"]) == {"measures.parquet"} and "pyarrow" in found["versions"]
    text = made["report"].read_text()
    head, table = text.partition("<style>")[0], text.partition('id="ran"')[2]
    assert head.count('id="provenance"') == 1
    for stage in ("scenarios", "rollout", "filter", "pairs", "align", "measure", "report", "total"):
        assert f'<th scope="row">{stage}</th>' in table
    other = made["report"].with_name("other.html")
    other.write_text("<p>")
    assert read_provenance(other) == {}
    other.write_bytes(b"\xff")
    with pytest.raises(AtpError, match=r"other\.html: no readable page"):
        read_provenance(other)


def artifact(stage: str, **cost: float) -> dict:
    return {"stage": stage, "cost": cost}


def test_costs_by_hand():
    """Costs are sums over a stage and in total; memory is the maximum."""
    headings, rows = ran.costs(
        [
            artifact("rollout", starts=1, wall_seconds=5400, cpu_seconds=30, gpu_seconds=10800, peak_memory_mb=1000),
            artifact("rollout", starts=1, wall_seconds=1800, cpu_seconds=45, gpu_seconds=3600, peak_memory_mb=500),
            artifact("align", wall_seconds=60, tokens=2_500_000, peak_memory_mb=2000),  # of a version without starts
        ]
    )
    assert headings == ["stage", *(name for name in ran.COSTS if name != "starts")]
    assert rows[0] == ["rollout", "2", "2.0 h", "75 s", "4.0", "1.0 GB", *["–"] * 5]
    assert rows[1] == ["align", "1", "60 s", "–", "–", "2.1 GB", "–", "–", "–", "–", "2.5 M"]
    assert rows[2] == ["total", "3", "2.0 h", "75 s", "4.0", "2.1 GB", "–", "–", "–", "–", "2.5 M"]


def test_starts_are_shown_if_a_job_was_restarted():
    """Three shards are four jobs, one of which gathers them; one job was started twice."""
    sharded = artifact("rollout", starts=4, shards=3)
    headings, rows = ran.costs([sharded, artifact("filter", starts=1)])
    assert headings[:3] == ["stage", "jobs", "starts"]
    assert [row[:3] for row in rows] == [["rollout", "4", "5"], ["filter", "1", "1"], ["total", "5", "6"]]
    headings, rows = ran.costs([artifact("rollout", starts=3, shards=3)])
    assert "starts" not in headings and rows[0][1] == "4"


@pytest.mark.parametrize(
    ("formatted", "number", "text"),
    [
        (digits, 0, "0"),
        (digits, 0.0342, "0.034"),
        (digits, 0.1, "0.10"),
        (digits, 0.00001, "< 0.001"),
        (digits, 0.999, "1.0"),
        (digits, 9.96, "10"),
        (digits, 12345.6, "12,346"),
        (duration, 89.4, "89 s"),
        (duration, 90, "1.5 min"),
        (duration, 5400, "1.5 h"),
        (size, 999, "999 B"),
        (size, 15_300, "15 kB"),
        (size, 2.5e12, "2,500 GB"),
        (count, 120_960, "120,960"),
        (count, 2_079_489, "2.1 M"),
    ],
)
def test_amounts(formatted, number, text):
    assert formatted(number) == text
