"""Scenarios from bargaining's templates, and errors in template files."""

from random import Random

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from atp.errors import AtpError
from atp.scenarios.templates import generate, read_templates
from atp.testbeds.bargaining import TESTBED
from atp.testbeds.bargaining.scenarios import BargainingTemplate, instantiate

TEMPLATES = TESTBED.templates
SHIPPED = read_templates(TEMPLATES, BargainingTemplate)
RULE = "the smaller must come first, and both must be between bounds"


def test_train_and_test_share_no_template_with_its_start():
    names = {template.name for template in SHIPPED}
    assert len(names) == len(SHIPPED) >= 10
    scenarios = generate(SHIPPED, instantiate, train=400, test=80, seed=0)
    assert len({(scenario.template, scenario.start) for scenario in scenarios}) == 480
    assert len({scenario.scenario_id for scenario in scenarios}) == 480
    for scenario in scenarios:
        assert scenario.template in names and (scenario.low, scenario.high) == (0, 100)
        assert 20 <= scenario.start <= 80 and scenario.start == int(scenario.start)


@pytest.mark.parametrize("template", SHIPPED, ids=lambda template: template.name)
def test_texts_are_short_and_name_the_subject(template):
    assert template.subject.startswith("the ")
    assert len(template.system.split()) <= 16
    for text, direction in ((template.raiser, "rise"), (template.lowerer, "fall")):
        assert text.endswith(f"{template.subject} to {direction}.") and len(text.split()) <= 16
    assert len({template.system, template.raiser, template.lowerer}) == 3


@given(
    low=st.integers(-1000, 1000),
    gaps=st.tuples(st.integers(1, 100), st.integers(0, 100), st.integers(1, 100)),
    rng=st.randoms(use_true_random=False),
)
def test_a_start_lies_between_the_starts(low, gaps, rng):
    least = low + gaps[0]
    most = least + gaps[1]
    fields = SHIPPED[0].model_dump() | {"starts": (least, most), "bounds": (low, most + gaps[2])}
    scenario = instantiate(BargainingTemplate.model_validate(fields), "train", rng)
    assert scenario.low < least <= scenario.start <= most < scenario.high


def with_(**changes: object) -> str:
    """The first shipped template with some keys changed, as a file's text."""
    return yaml.safe_dump([yaml.safe_load(TEMPLATES.read_text())[0] | changes])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (with_(starts=[80, 20]), f"starts [80, 20]: {RULE} [0, 100]"),
        (with_(starts=[0, 20]), f"starts [0, 20]: {RULE} [0, 100]"),
        (with_(bounds=[0, 80]), f"{RULE} [0, 80]"),
        (with_(starts=[20.5, 30]), "starts.0: "),
        (with_(subject="the {value}"), "subject: unknown placeholder {value}, allowed: none"),
        (with_(raiser=""), "raiser: "),
        (with_(labels=[["A", "B"]]), "labels: unknown key, allowed are bounds, lowerer, name"),
    ],
)
def test_a_wrong_template_file_is_one_line(tmp_path, text, message):
    path = tmp_path / "templates.yaml"
    path.write_text(text)
    with pytest.raises(AtpError) as caught:
        read_templates(path, BargainingTemplate)
    line = str(caught.value)
    assert line.startswith(f"{path}: template 'bus fare': ") and message in line and "\n" not in line


def test_more_scenarios_than_starts_is_one_line():
    few = SHIPPED[0].model_copy(update={"starts": (20, 22)})
    assert {scenario.start for scenario in generate([few], instantiate, train=2, test=1, seed=0)} == {20, 21, 22}
    with pytest.raises(AtpError, match=r"^template 'bus fare': has too few different instances: give it more values"):
        generate([few], instantiate, train=3, test=1, seed=0)
    assert instantiate(few, "test", Random(0)).scenario_id.startswith("bus-fare-")
