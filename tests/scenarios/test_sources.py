"""scenarios.parquet: scenarios are read as they were written, and other files are refused."""

import json
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atp import cli
from atp.errors import AtpError
from atp.files.provenance import digest
from atp.files.tables import read_provenance
from atp.registry import entries, find_testbed
from atp.scenarios.scenario import mark_seen, read_scenarios, scenario_schema
from atp.scenarios.sources import ScenariosJob, TemplateSource, scenarios_stage, source_settings
from atp.scenarios.templates import generate, read_templates
from atp.testbeds.role_play import TESTBED as ROLE_PLAY
from atp.testbeds.role_play.scenarios import RolePlayTemplate, instantiate

TEMPLATES = ROLE_PLAY.templates


def role_play(**settings: Any) -> ScenariosJob:
    return ScenariosJob(testbed="role_play", settings=settings)


def test_templates_to_parquet_and_back(tmp_path):
    out = tmp_path / "new" / "scenarios.parquet"
    scenarios_stage(role_play(train=20, test=10, seed=5), out)
    templates = read_templates(TEMPLATES, RolePlayTemplate)
    drawn = mark_seen(generate(templates, instantiate, train=20, test=10, seed=5, unseen=0.25))
    assert read_scenarios(out, "role_play") == drawn
    assert read_scenarios(out, "role_play", "train") == [each for each in drawn if each.split == "train"]
    assert pq.read_schema(out).remove_metadata().equals(scenario_schema(ROLE_PLAY))
    provenance = read_provenance(out)
    settings = {"source": "templates", "train": 20, "test": 10, "seed": 5, "unseen_templates": 0.25}
    assert provenance["params"] == {"testbed": "role_play", "settings": settings}
    assert provenance["inputs"] == {"templates.yaml": digest(TEMPLATES)}
    assert provenance["cost"]["wall_seconds"] > 0
    assert [path.name for path in out.parent.iterdir()] == ["scenarios.parquet"]


def test_a_template_file_of_a_study(tmp_path):
    (tmp_path / "mine.yaml").write_bytes(TEMPLATES.read_bytes())
    scenarios_stage(role_play(path="mine.yaml", test=10), tmp_path / "mine.parquet", tmp_path)
    scenarios_stage(role_play(test=10), tmp_path / "own.parquet")
    mine, own = (read_scenarios(tmp_path / f"{name}.parquet", "role_play") for name in ("mine", "own"))
    assert mine == own
    assert read_provenance(tmp_path / "mine.parquet")["inputs"] == {"mine.yaml": digest(TEMPLATES)}


def test_a_release_and_all_its_files_are_inputs(tmp_path, scenario):
    item = {
        "id": "id-1",
        "environment": "porter",
        "system_prompt": scenario.system,
        "user_prompt": scenario.question,
        "supervised_choice": "Lift A",
        "better_choice": "Lift B",
        "format_example": '{"choice": "Lift A"}',
        "params": {"low_reward": 2, "high_reward": 5},
    }
    sentences = {"supervised_text": "a", "unsupervised_text": "b", "neutral_text": "c"}
    path, out = tmp_path / "question.json", tmp_path / "scenarios.parquet"
    path.write_text(json.dumps([item]))
    (tmp_path / "templates.json").write_text(json.dumps([{"environment": "porter", "template": sentences}]))
    scenarios_stage(role_play(source="release", path=str(path)), out)
    (published,) = read_scenarios(out, "role_play", "test")
    assert (published.scenario_id, published.low, published.high, published.checked) == ("id-1", 2.0, 5.0, "a")
    assert set(read_provenance(out)["inputs"]) == {"question.json", "templates.json"}
    before = out.read_bytes()
    with pytest.raises(AtpError, match=f"^{path}: 1 instances .* are too few for 1 test and 9 train"):
        scenarios_stage(role_play(source="release", path=str(path), train=9, test=1), out)
    assert out.read_bytes() == before
    with pytest.raises(
        AtpError, match="unknown testbed 'chess', known are bargaining, code, coordination, role_play, tool_use"
    ):
        scenarios_stage(ScenariosJob(testbed="chess", settings=TemplateSource()), out)


@pytest.mark.parametrize("testbed", entries("testbeds"))
def test_each_testbed_has_templates_of_its_own(tmp_path, testbed):
    out = tmp_path / "scenarios.parquet"
    cli.scenarios(out, testbed, train=30, test=20)
    for split, count in (("train", 30), ("test", 20)):
        assert len(read_scenarios(out, testbed, split)) == count
    assert set(read_provenance(out)["inputs"]) == {"templates.yaml"}


def test_the_release_of_coordination_and_none_of_bargaining(tmp_path):
    games = [
        {
            "environment": "BoatRace",
            "system_prompt": "You row.",
            "user_prompt": f"Row {number} miles or rest.",
            "cooperative_choice": "row",
            "independent_choice": "rest",
            "format_example": '{"choice": row}',
            "params": {"n": 5, "cooperation_threshold": 2, "high_reward": 2, "normal_reward": 1, "low_reward": 0.5},
        }
        for number in range(5)
    ]
    path, out = tmp_path / "question.json", tmp_path / "scenarios.parquet"
    path.write_text(json.dumps(games))
    (tmp_path / "templates.json").write_text("not read")
    cli.import_release(path, out, "coordination")
    published = read_scenarios(out, "coordination", "test")
    assert [scenario.add for scenario in published] == [f"Row {number} miles or rest." for number in range(5)]
    assert set(read_provenance(out)["inputs"]) == {"question.json"}
    values = {"source": "release", "path": str(path), "train": 2}
    scenarios_stage(ScenariosJob(testbed="coordination", settings=values), out)
    assert len(read_scenarios(out, "coordination", "train")) == 2
    assert len(read_scenarios(out, "coordination", "test")) == 3
    with pytest.raises(AtpError, match=f"^{path}: not a release file of testbed 'role_play': item 1 has none of"):
        cli.import_release(path, out, "role_play")
    for refused in (
        lambda: cli.import_release(path, out, "bargaining"),
        lambda: source_settings(find_testbed("bargaining"), values),
    ):
        with pytest.raises(AtpError, match=r"^scenarios.source: found 'release', testbed 'bargaining' has templates$"):
            refused()
    assert len(read_scenarios(out, "coordination")) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"testbed": "bargaining"}, "has scenarios of testbed 'bargaining', 'role_play' is needed"),
        ({"second": "lift b."}, "both options have the label 'Lift B'"),
        ({"compliant": "Lift C"}, "compliant is 'Lift C', must be 'Lift B' or 'Lift A'"),
        ({"first": "?"}, "the label '?' has no letter, digit or sign"),
        ({"question": None}, "column 'question' has rows without a value"),
    ],
)
def test_a_wrong_scenario_is_one_line(tmp_path, scenario, changes, message):
    path = tmp_path / "scenarios.parquet"
    schema = pa.schema([field.with_nullable(True) for field in scenario_schema(ROLE_PLAY)])
    rows = [{"testbed": "role_play", **asdict(scenario), **changes}]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    with pytest.raises(AtpError) as caught:
        read_scenarios(path, "role_play")
    line = str(caught.value)
    assert line.startswith(f"{path}: ") and message in line and "\n" not in line


def test_repeated_ids_other_columns_and_empty_splits(tmp_path, scenario):
    path = tmp_path / "scenarios.parquet"
    row = {"testbed": "role_play", **asdict(scenario)}

    def refused(table: pa.Table, message: str, split: str | None = None) -> None:
        pq.write_table(table, path)
        with pytest.raises(AtpError, match=f"^{path}: {message}"):
            read_scenarios(path, "role_play", split)

    schema = scenario_schema(ROLE_PLAY)
    refused(pa.Table.from_pylist([row, row], schema=schema), "scenario_id 'porter-1' occurs more than once")
    refused(pa.table({"turns": [1]}), "not a scenario file: must have one value in column 'testbed', found none")
    refused(
        pa.Table.from_pylist([row | {"low": "2", "template_seen": True}]),
        "not a role_play scenario file: column 'low' is string",
    )
    refused(pa.Table.from_pylist([row], schema=schema), "no scenarios in split 'train'", "train")
    refused(schema.empty_table(), "not a scenario file: must have one value in column 'testbed', found none")
