"""Preference pairs: which replies become one, what is stored, what a tool that trains on them reads."""

import json
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from atp.agents.load import load_agent
from atp.errors import AtpError
from atp.files.provenance import Provenance
from atp.files.schemas import PAIRS
from atp.files.tables import read_provenance, read_table
from atp.rollout.branching import first_questions
from atp.rollout.table import Cell
from atp.scenarios.scenario import read_scenarios, write_scenarios
from atp.scenarios.sources import ScenariosJob, scenarios_stage
from atp.scenarios.templates import generate, read_templates
from atp.testbeds.role_play import TESTBED
from atp.testbeds.role_play.scenarios import RolePlayTemplate, instantiate
from atp.tools import schema
from atp.training import llama_factory
from atp.training.llama_factory import export_llama_factory
from atp.training.pairs import PairsJob, ask_sides, pairs_stage

COUNT = 24


def pairs_job(agent: str = "scripted:random:0.5", **values: Any) -> PairsJob:
    return PairsJob(cell=Cell(agent, "role_play", "dpo", None, channel="weights"), settings={}, **values)


@pytest.fixture(scope="module")
def scenarios(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pairs") / "scenarios.parquet"
    write_scenarios(
        TESTBED,
        generate(read_templates("atp/testbeds/role_play/templates.yaml", RolePlayTemplate), instantiate, COUNT, 4, 0),
        path,
        Provenance("s", "c"),
    )
    return path


@pytest.fixture(scope="module")
def coin(scenarios) -> Path:
    """Pairs of an agent that tosses a coin whatever it is told: by retries nearly every scenario gets its two sides."""
    out = scenarios.with_name("pairs.parquet")
    pairs_stage(pairs_job(retries=3), scenarios, out)
    return out


def test_each_side_is_the_decision_that_was_wanted(coin):
    rows = read_table(coin, PAIRS, "pairs").to_pylist()
    found = read_provenance(coin)["cost"]
    assert 0 < len(rows) < COUNT  # a side fails three tosses in 1 of 8 cases
    assert found["pairs"] == len(rows) <= min(found["complied"], found["violated"])
    assert 2 * COUNT < found["tries"] < 6 * COUNT
    for row in rows:
        chosen, rejected = (json.loads(row[side][0]["content"])["choice"] for side in ("chosen", "rejected"))
        assert chosen != rejected
        assert {row[side][0]["role"] for side in ("chosen", "rejected")} == {"assistant"}


def test_the_stored_prompt_is_the_plain_question_of_training_scenarios(coin):
    for row in read_table(coin, PAIRS, "pairs").to_pylist():
        assert [message["role"] for message in row["prompt"]] == ["system", "user"]
        assert not any(sentence in row["prompt"][-1]["content"] for sentence in TESTBED.steering)


def test_trl_takes_the_file_as_a_preference_set(coin):
    from datasets import Dataset
    from trl.data_utils import is_conversational

    loaded = Dataset.from_parquet(str(coin), cache_dir=str(coin.parent / "cache"))
    assert {"prompt", "chosen", "rejected"} <= set(loaded.column_names)
    assert is_conversational(loaded[0])


@pytest.mark.parametrize(
    ("agent", "said"),
    [
        ("comply", "the agent complied in 24 when steered to and violated in 0 when steered to, 0 of 72"),
        ("violate", "the agent complied in 0 when steered to and violated in 24 when steered to, 0 of 72"),
    ],
)
def test_an_agent_that_does_only_one_thing_gives_no_pairs(scenarios, tmp_path, agent, said):
    out = tmp_path / "pairs.parquet"
    with pytest.raises(AtpError, match=rf"no pairs of 24 scenarios: {said} replies were invalid"):
        pairs_stage(pairs_job(f"scripted:{agent}", retries=2), scenarios, out)
    assert not out.exists()


class Dies:
    """A coin that is tossed for some batches."""

    def __init__(self, batches: int):
        self.coin, self.left, self.batch = load_agent("scripted:random:0.5", None), batches, 8

    def start(self) -> None:
        self.coin.start()

    def answer(self, requests):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return self.coin.answer(requests)


def test_a_killed_stage_asks_on_from_where_it_was(scenarios, tmp_path):
    questions = first_questions(read_scenarios(scenarios, "role_play", "train"), TESTBED, TESTBED.settings())

    def asked(folder: Path, agent: Dies) -> list[tuple[str | None, int]]:
        folder.mkdir(exist_ok=True)
        sides = ask_sides(pairs_job(retries=3), questions, agent, folder, Event(), "test")
        return [(side.reply, side.tries) for side in sides]

    undisturbed, rest = Dies(99), Dies(99)
    whole = asked(tmp_path / "whole", undisturbed)
    with pytest.raises(KeyboardInterrupt):
        asked(tmp_path / "killed", Dies(7))
    assert asked(tmp_path / "killed", rest) == whole
    assert 99 - rest.left == 99 - undisturbed.left - 7 > 0


def test_rows_are_those_asked_for(scenarios, tmp_path):
    out = tmp_path / "pairs.parquet"
    found = pairs_stage(pairs_job(retries=9, limit=(20, 24)), scenarios, out)
    assert found["scenarios"] == 4


def test_llama_factory_finds_its_entry_and_others_stay(coin, tmp_path):
    info = tmp_path / "dataset_info.json"
    info.write_text('{"mine": {"file_name": "mine.json"}}')
    assert export_llama_factory(coin, tmp_path / "role_play.json") > 0
    entries = json.loads(info.read_text())
    assert set(entries) == {"mine", "role_play"}
    entry = entries["role_play"]
    (first, *_) = json.loads((tmp_path / entry["file_name"]).read_text())
    columns, tags = entry["columns"], entry["tags"]
    assert entry["ranking"] is True
    roles = [message[tags["role_tag"]] for message in first[columns["messages"]]]
    assert roles == [tags["system_tag"], tags["user_tag"]]
    assert first[columns["chosen"]][tags["role_tag"]] == tags["assistant_tag"]
    assert first[columns["tools"]] == ""
    with pytest.raises(AtpError, match=r"dataset_info\.json: LLaMA-Factory's list of data sets"):
        export_llama_factory(coin, info)
    info.write_text("[]")
    with pytest.raises(AtpError, match=r"dataset_info\.json: must be a JSON object"):
        export_llama_factory(coin, tmp_path / "role_play.json")


def test_llama_factory_gets_the_tools_of_a_pair(tmp_path, monkeypatch):
    scenarios, pairs, out = (tmp_path / name for name in ("scenarios.parquet", "pairs.parquet", "pairs.json"))
    scenarios_stage(ScenariosJob(testbed="tool_use", settings={"train": 8, "test": 1}), scenarios)
    job = pairs_job()
    pairs_stage(job.model_copy(update={"cell": replace(job.cell, testbed="tool_use")}), scenarios, pairs)
    (tools,) = {tuple(row["tools"]) for row in read_table(pairs, PAIRS, "pairs").to_pylist()}
    assert export_llama_factory(pairs, out) > 0 and tools
    column = json.loads((tmp_path / "dataset_info.json").read_text())["pairs"]["columns"]["tools"]
    for example in json.loads(out.read_text()):
        assert json.loads(example[column]) == [schema(name)["function"] for name in tools]
    monkeypatch.setattr(llama_factory, "TOOLS", {})
    with pytest.raises(AtpError, match=rf"^{pairs}: unknown tool '{tools[0]}', known are .* --plugin FILE"):
        export_llama_factory(pairs, out)
