"""scenarios.parquet: what is written is what is read, and a file that is something else is refused."""

import json
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atp import cli
from atp.artifacts import read_provenance
from atp.errors import AtpError
from atp.provenance import digest
from atp.scenarios.role_play import RolePlayTemplate, instantiate
from atp.scenarios.scenario import read_scenarios, scenario_schema
from atp.scenarios.stage import ScenarioSettings, scenarios_stage
from atp.scenarios.templates import generate, read_templates

TEMPLATES = Path("config/templates/role_play.yaml")


def test_templates_to_parquet_and_back(tmp_path):
    out = tmp_path / "new" / "scenarios.parquet"
    scenarios_stage(ScenarioSettings(path=str(TEMPLATES), train=20, test=10, seed=5), "role_play", out)
    drawn = generate(read_templates(TEMPLATES, RolePlayTemplate), instantiate, train=20, test=10, seed=5)
    assert read_scenarios(out, "role_play") == drawn
    assert read_scenarios(out, "role_play", "train") == [each for each in drawn if each.split == "train"]
    assert pq.read_schema(out).remove_metadata().equals(scenario_schema("role_play"))
    found = read_provenance(out)
    assert found["params"] == {"source": "templates", "train": 20, "test": 10, "seed": 5}
    assert found["inputs"] == {"role_play.yaml": digest(TEMPLATES)}
    assert found["cost"]["wall_seconds"] > 0
    assert [path.name for path in out.parent.iterdir()] == ["scenarios.parquet"]


def test_release_to_parquet_names_every_file_it_read(tmp_path, scenario):
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
    scenarios_stage(ScenarioSettings(source="release", path=str(path)), "role_play", out)
    (found,) = read_scenarios(out, "role_play", "test")
    assert (found.scenario_id, found.low, found.high, found.checked) == ("id-1", 2.0, 5.0, "a")
    assert set(read_provenance(out)["inputs"]) == {"question.json", "templates.json"}
    before = out.read_bytes()
    with pytest.raises(AtpError, match=f"^{path}: 1 instances .* are too few for 1 test and 9 train"):
        scenarios_stage(ScenarioSettings(source="release", path=str(path), train=9, test=1), "role_play", out)
    assert out.read_bytes() == before
    with pytest.raises(AtpError, match="testbed 'chess': unknown, known are role_play, coordination, bargaining"):
        scenarios_stage(ScenarioSettings(path=str(TEMPLATES)), "chess", out)


@pytest.mark.parametrize("testbed", ["role_play", "coordination", "bargaining"])
def test_each_testbed_has_templates_of_its_own(tmp_path, testbed):
    out = tmp_path / "scenarios.parquet"
    cli.scenarios(out, testbed, train=30, test=20)
    for split, count in (("train", 30), ("test", 20)):
        assert len(read_scenarios(out, testbed, split)) == count
    assert set(read_provenance(out)["inputs"]) == {f"{testbed}.yaml"}


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
    settings = ScenarioSettings(source="release", path=str(path), train=2)
    scenarios_stage(settings, "coordination", out)
    assert len(read_scenarios(out, "coordination", "train")) == 2
    assert len(read_scenarios(out, "coordination", "test")) == 3
    with pytest.raises(AtpError, match=f"^{path}: holds coordination instances, role_play is needed$"):
        cli.import_release(path, out, "role_play")
    for refused in (cli.import_release, lambda *_: scenarios_stage(settings, "bargaining", out)):
        with pytest.raises(AtpError, match=r"^testbed 'bargaining': the release holds none of its scenarios"):
            refused(path, out, "bargaining")
    assert len(read_scenarios(out, "coordination")) == 5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"testbed": "bargaining"}, "holds scenarios of testbed 'bargaining', 'role_play' is needed"),
        ({"second": "lift b."}, "both options have the label 'Lift B'"),
        ({"compliant": "Lift C"}, "the compliant label 'Lift C' is no option"),
        ({"first": "?"}, "the label '?' holds no letter, digit or sign"),
        ({"question": None}, "column 'question' has rows without a value"),
    ],
)
def test_a_row_that_is_no_scenario_is_one_line(tmp_path, scenario, changes, said):
    path = tmp_path / "scenarios.parquet"
    schema = pa.schema([field.with_nullable(True) for field in scenario_schema("role_play")])
    rows = [{"testbed": "role_play", **asdict(scenario), **changes}]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    with pytest.raises(AtpError) as caught:
        read_scenarios(path, "role_play")
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and said in message and "\n" not in message


def test_repeated_ids_other_columns_and_empty_splits(tmp_path, scenario):
    path = tmp_path / "scenarios.parquet"
    row = {"testbed": "role_play", **asdict(scenario)}

    def refused(table: pa.Table, said: str, split: str | None = None) -> None:
        pq.write_table(table, path)
        with pytest.raises(AtpError, match=f"^{path}: {said}"):
            read_scenarios(path, "role_play", split)

    schema = scenario_schema("role_play")
    refused(pa.Table.from_pylist([row, row], schema=schema), "scenario_id 'porter-1' stands more than once")
    refused(pa.table({"turns": [1]}), "not a role_play scenario file: no column 'testbed'")
    refused(pa.Table.from_pylist([row | {"low": "2"}]), "not a role_play scenario file: column 'low' is string")
    refused(pa.Table.from_pylist([row], schema=schema), "no scenarios in split 'train'", "train")
    refused(schema.empty_table(), "no scenarios")
