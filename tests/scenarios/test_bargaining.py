"""Bargaining's templates: what is drawn from them, and how a wrong one is refused."""

from pathlib import Path
from random import Random

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from atp.errors import AtpError
from atp.scenarios.bargaining import BargainingTemplate, instantiate
from atp.scenarios.templates import generate, read_templates

TEMPLATES = Path("config/templates/bargaining.yaml")
SHIPPED = read_templates(TEMPLATES, BargainingTemplate)


def test_train_and_test_share_no_theme_with_its_start():
    themes = {template.environment for template in SHIPPED}
    assert len(themes) == len(SHIPPED) >= 10
    scenarios = generate(SHIPPED, instantiate, train=400, test=80, seed=0)
    assert len({(scenario.environment, scenario.start) for scenario in scenarios}) == 480
    assert len({scenario.scenario_id for scenario in scenarios}) == 480
    for scenario in scenarios:
        assert scenario.environment in themes and (scenario.low, scenario.high) == (0, 100)
        assert 20 <= scenario.start <= 80 and scenario.start == int(scenario.start)
    assert generate(SHIPPED, instantiate, train=8, test=80, seed=0) == scenarios[:88]
    assert generate(SHIPPED, instantiate, train=8, test=80, seed=1) != scenarios[:88]


@pytest.mark.parametrize("template", SHIPPED, ids=lambda template: template.environment)
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
    ("text", "said"),
    [
        (with_(starts=[80, 20]), "starts [80, 20]: the smaller comes first, both lie between bounds [0, 100]"),
        (with_(starts=[0, 20]), "starts [0, 20]: the smaller comes first, both lie between bounds [0, 100]"),
        (with_(bounds=[0, 80]), "both lie between bounds [0, 80]"),
        (with_(starts=[20.5, 30]), "starts.0: "),
        (with_(subject="the {value}"), "subject: unknown placeholder {value}, allowed: none"),
        (with_(raiser=""), "raiser: "),
        (with_(labels=[["A", "B"]]), "labels: unknown key, allowed are bounds, environment"),
    ],
)
def test_a_wrong_template_file_is_one_line(tmp_path, text, said):
    path = tmp_path / "templates.yaml"
    path.write_text(text)
    with pytest.raises(AtpError) as caught:
        read_templates(path, BargainingTemplate)
    message = str(caught.value)
    assert message.startswith(f"{path}: template 'bus fare': ") and said in message and "\n" not in message


def test_more_scenarios_than_starts_is_one_line():
    few = SHIPPED[0].model_copy(update={"starts": (20, 22)})
    assert {scenario.start for scenario in generate([few], instantiate, train=2, test=1, seed=0)} == {20, 21, 22}
    with pytest.raises(AtpError, match=r"^template 'bus fare': too few different instances, let it vary more$"):
        generate([few], instantiate, train=3, test=1, seed=0)
    assert instantiate(few, "test", Random(0)).scenario_id.startswith("bus-fare-")
