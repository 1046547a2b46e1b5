"""What tests of extensions share: a registry that forgets plug-ins, and a copy of the project."""

import pytest
from extend.project import Project, copy_project


@pytest.fixture(autouse=True)
def each_forgets_its_plugins(own_registry: None) -> None:
    """Make every test of extensions forget its plug-ins."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a copy of the project, whose model organisms are those of the project itself."""
    return copy_project(tmp_path_factory.mktemp("project"))
