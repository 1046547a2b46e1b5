"""Every testbed keeps the protocol: the built-in ones, found through the registry, and the tests' plug-in."""

from pathlib import Path

import pytest

from atp.extend.check import ABSENT, FAILS, check, load_testbeds
from atp.registry import TESTBEDS_FOLDER, entries

HARBOUR = Path(__file__).parents[1] / "plugins/harbour.py"
BUILT_IN = sorted(entries("testbeds"))


pytestmark = pytest.mark.usefixtures("own_registry")


@pytest.mark.parametrize("file", [*BUILT_IN, str(HARBOUR)], ids=[*BUILT_IN, "harbour"])
def test_a_testbed_keeps_every_rule(file):
    (testbed,) = load_testbeds(file)
    rows = list(check(testbed))
    assert len(rows) >= 20
    assert [row for row in rows if row.result == FAILS] == []
    assert [row for row in rows if row.result == ABSENT] == []


def test_every_folder_is_a_testbed_of_its_name():
    folders = sorted(folder.parent.name for folder in TESTBEDS_FOLDER.glob("*/game.py"))
    assert folders == BUILT_IN == [entry.value.name for _, entry in sorted(entries("testbeds").items())]
