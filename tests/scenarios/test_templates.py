"""Scenarios from templates, shown with role-play's, and errors in template files."""

import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from atp.errors import AtpError
from atp.registry import entries, find_testbed
from atp.scenarios.scenario import mark_seen, stable_id
from atp.scenarios.sources import ScenariosJob, TemplateSource, scenarios_stage
from atp.scenarios.templates import generate, holds, read_templates, without_numbers
from atp.testbeds.role_play import TESTBED
from atp.testbeds.role_play.scenarios import RolePlayTemplate, instantiate

TEMPLATES = TESTBED.templates
OCCUPATIONS = (
    "delivery worker, taxi driver, baker, data analyst, choir team, orchard worker, advertising department, "
    "house-painting supervisor, lab technician, restaurant manager, construction worker, logistics centre worker, "
    "restaurant chef, janitorial services, sales, library"
).split(", ")


def test_every_occupation_is_drawn_equally_often_and_no_prompt_twice():
    scenarios = generate(read_templates(TEMPLATES, RolePlayTemplate), instantiate, train=320, test=160, seed=0)
    for split, each in (("train", 20), ("test", 10)):
        drawn = Counter(scenario.template for scenario in scenarios if scenario.split == split)
        assert drawn == dict.fromkeys(OCCUPATIONS, each)
    assert len({(scenario.system, scenario.question) for scenario in scenarios}) == 480
    assert len({scenario.scenario_id for scenario in scenarios}) == 480


def test_a_prompt_states_options_rewards_and_rule():
    for scenario in generate(read_templates(TEMPLATES, RolePlayTemplate), instantiate, train=0, test=320, seed=1):
        (first, first_pays), (second, second_pays) = re.findall(r"Choosing (.*?)\$(\d+(?:\.\d+)?)", scenario.question)
        assert first.startswith(f"{scenario.first} ") and second.startswith(f"{scenario.second} ")
        assert {scenario.compliant, scenario.violating} == {scenario.first, scenario.second}
        paid = {scenario.first: float(first_pays), scenario.second: float(second_pays)}
        assert paid[scenario.compliant] == scenario.low < scenario.high == paid[scenario.violating]
        rule = scenario.question.rpartition("$")[2].casefold()
        assert scenario.compliant.casefold() in rule and scenario.violating.casefold() not in rule
        assert "{" not in scenario.system + scenario.question + scenario.checked + scenario.unchecked
        assert scenario.instruction.index(f'"{scenario.first}"') < scenario.instruction.index(f'"{scenario.second}"')
        assert len({scenario.checked, scenario.unchecked, scenario.uncertain}) == 3


def test_rewards_order_and_labels_are_spread():
    scenarios = generate(read_templates(TEMPLATES, RolePlayTemplate), instantiate, train=0, test=1600, seed=2)
    ratios = [scenario.high / scenario.low for scenario in scenarios]
    assert min(ratios) >= 1.02 - 1e-9 and max(ratios) <= 4.6 + 1e-9
    # Log-uniform: 400 of 1,600 in each of four parts of equal ratio, plus or minus four standard deviations of 17.3.
    parts = Counter(sum(ratio > 1.02 * (4.6 / 1.02) ** (part / 4) for part in (1, 2, 3)) for ratio in ratios)
    assert len(parts) == 4 and all(330 <= count <= 470 for count in parts.values())
    compliant_first = sum(scenario.first == scenario.compliant for scenario in scenarios)
    assert 720 <= compliant_first <= 880  # half of 1,600, plus or minus four standard deviations of 20
    names = {tuple(pair) for template in read_templates(TEMPLATES, RolePlayTemplate) for pair in template.labels}
    roles = {(scenario.compliant, scenario.violating) for scenario in scenarios}
    both_ways = [pair for pair in names if pair in roles and pair[::-1] in roles]
    assert len(both_ways) > 0.9 * len(names)


@pytest.mark.parametrize("testbed", entries("testbeds"))
def test_scenarios_depend_only_on_the_seed_and_one_split_not_on_the_other(testbed):
    game: Any = find_testbed(testbed)
    templates = read_templates(game.templates, game.template)
    drawn = generate(templates, game.instantiate, train=40, test=20, seed=3)
    assert len({scenario.scenario_id for scenario in drawn}) == 60
    again = read_templates(game.templates, game.template)
    assert generate(again, game.instantiate, train=40, test=20, seed=3) == drawn
    assert generate(templates, game.instantiate, train=48, test=20, seed=3)[:60] == drawn
    assert generate(templates, game.instantiate, train=40, test=20, seed=4) != drawn


def test_seeds_draw_different_scenarios_and_ids_stay_the_same():
    templates = read_templates(TEMPLATES, RolePlayTemplate)
    one, other = (generate(templates, instantiate, train=40, test=20, seed=seed) for seed in (3, 4))
    assert not set(one) & set(other)
    # Published ids must never change: SHA-256 of the parts, joined by the unit separator.
    assert stable_id("taxi driver", "system", "question", 1) == "taxi-driver-9fdb691ba8"


def with_(**changes: object) -> str:
    """The first shipped template with some keys changed, as a file's text."""
    return yaml.safe_dump([yaml.safe_load(TEMPLATES.read_text())[0] | changes])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (with_(task="Pick a {lane}."), "task: unknown placeholder {lane}, allowed: none"),
        (with_(rule="You must take {label}."), "rule: unknown placeholder {label}, allowed: {compliant}"),
        (with_(pay="earns you money"), "needs {reward} once each, found none"),
        (with_(pay="earns {reward} or {reward}"), "needs {reward} once each, found {reward}, {reward}"),
        (with_(pay="earns {reward:.2f}"), "placeholder {reward} takes no format"),
        (with_(pay="earns {reward"), "pay: "),
        (with_(labels=[["Route A", "route a."]]), "both options have the label 'Route A'"),
        (with_(labels=[["Route A", "?"]]), "each must have a letter, digit or sign"),
        (with_(labels=[]), "labels: "),
        (with_(rewards=[90, 20]), "the smaller must come first"),
        (with_(rewards=[1, 20]), "rewards.0: "),
        (with_(checked="x", unchecked="x"), "three different sentences"),
        (with_(wage=3), "wage: "),
        (Path("config/studies/demo.yaml").read_text(), "must be a list of templates, found dict"),
        ("- baker\n", "template '1': "),
        (with_() + "  task: Another.\n", "key 'task' occurs twice"),
        (with_() + with_(), "template 'delivery worker': the name occurs twice, names must differ"),
        ("[", "no readable YAML"),
        ("", "must be a list of templates, found NoneType"),
    ],
)
def test_a_wrong_template_file_is_one_line(tmp_path, text, message):
    path = tmp_path / "templates.yaml"
    path.write_text(text)
    with pytest.raises(AtpError) as caught:
        read_templates(path, RolePlayTemplate)
    line = str(caught.value)
    assert line.startswith(f"{path}: ") and message in line and "\n" not in line


def test_missing_and_unreadable_files(tmp_path):
    path = tmp_path / "templates.yaml"
    for make in (lambda: None, lambda: path.write_bytes(b"\xff\xfe\x00-"), lambda: (path.unlink(), path.mkdir())):
        make()
        with pytest.raises(AtpError, match=f"^{path}: (no such file|no readable YAML|a folder, not a)"):
            read_templates(path, RolePlayTemplate)


def test_more_scenarios_than_a_template_has_is_one_line(tmp_path):
    path = tmp_path / "templates.yaml"
    path.write_text(with_(rewards=[10, 10], labels=[["Route A", "Route B"]], described=[]))
    job = ScenariosJob(testbed="role_play", settings={"path": str(path), "test": 3000})
    with pytest.raises(AtpError, match=f"^{path}: template 'delivery worker': has too few different instances"):
        scenarios_stage(job, tmp_path / "scenarios.parquet")
    assert [file.name for file in tmp_path.iterdir()] == ["templates.yaml"]


_PIECE = st.sampled_from(
    "{label} {place} {agents} { } {{ }} {} {0} {label!r} {label:>3} {label.x} {label[0]} word".split()
)


@given(st.lists(_PIECE, max_size=6).map("".join))
def test_a_text_that_passes_can_be_filled(text):
    try:
        TypeAdapter(Annotated[str, holds("label", allowed=("agents",))]).validate_python(text)
    except ValidationError:
        return
    assert text.format(label="LABEL", agents=8).count("LABEL") == 1


@pytest.mark.parametrize(
    ("testbed", "unseen", "of"),
    [("bargaining", 3, 12), ("coordination", 2, 7), ("role_play", 4, 16), ("tool_use", 1, 3)],
)
def test_some_templates_are_only_tested(testbed, unseen, of):
    game: Any = find_testbed(testbed)
    templates = read_templates(game.templates, game.template)

    def drawn(train: int, test: int, seed: int = 0) -> dict[str, list[Any]]:
        scenarios = mark_seen(
            generate(templates, game.instantiate, train, test, seed, TemplateSource().unseen_templates)
        )
        return {split: [each for each in scenarios if each.split == split] for split in ("train", "test")}

    splits = drawn(192, 64)
    tested, trained = ({each.template for each in splits[split]} for split in ("test", "train"))
    assert (len(tested - trained), len(tested)) == (unseen, of)
    assert all(each.template_seen == (each.template in trained) for each in splits["test"])
    assert drawn(40, 64)["test"] == splits["test"]
    assert {each.template_seen for each in drawn(0, 64)["test"]} == {None}
    assert any({each.template for each in drawn(40, 1, seed)["train"]} != trained for seed in (1, 2, 3))


@pytest.mark.parametrize("testbed", entries("testbeds"))
@pytest.mark.parametrize("test", [64, 160])
def test_no_test_scenario_is_a_training_one_with_other_numbers(testbed, test):
    game: Any = find_testbed(testbed)
    scenarios = generate(read_templates(game.templates, game.template), game.instantiate, 352, test, 0, 0.25)
    trained = {without_numbers(each) for each in scenarios if each.split == "train"}
    equal = {each.template for each in scenarios if each.split == "test" and without_numbers(each) in trained}
    # The start is all that varies in a template of bargaining, so its seen templates cannot avoid it.
    assert equal == (
        {each.template for each in scenarios if each.split == "train"} if testbed == "bargaining" else set()
    )


@pytest.mark.parametrize(
    ("of", "unseen", "count"), [(1, 0.25, 0), (1, 0.9, 0), (2, 0.0, 0), (2, 0.25, 1), (2, 0.9, 1), (3, 0.1, 0)]
)
def test_at_least_one_of_few_templates_is_trained(of, unseen, count):
    templates = read_templates(TEMPLATES, RolePlayTemplate)[:of]
    scenarios = generate(templates, instantiate, 8, 8, 0, unseen)
    trained, tested = ({each.template for each in scenarios if each.split == split} for split in ("train", "test"))
    assert len(tested - trained) == count
