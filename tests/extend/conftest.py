"""What tests of extensions share: a registry that forgets plug-ins, and a copy of the project."""

import sys
from collections.abc import Iterator

import pytest
from extend.project import Project, copy_project

from atp import registry
from atp.tools import TOOLS


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget the plug-ins that a test loads."""
    tools = dict(TOOLS)
    monkeypatch.setattr(registry, "_plugins", dict(registry._plugins))
    yield
    for name in [name for name in sys.modules if name.startswith(registry.PLUGIN)]:
        del sys.modules[name]
    for name in TOOLS.keys() - tools.keys():
        del TOOLS[name]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a copy of the project, whose model organisms are those of the project itself."""
    return copy_project(tmp_path_factory.mktemp("project"))
