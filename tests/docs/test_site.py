"""The documentation site: it builds in strict mode, holds every page, and loads nothing from elsewhere."""

import re
import tomllib

import pytest

from docs.build import DOCS, LLMS, ROOT, build, sources


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return build(tmp_path_factory.mktemp("docs"))


def test_every_page_is_built_and_in_the_navigation(site):
    """A broken link or anchor stops the build."""
    navigation = (DOCS / "zensical.toml").read_text(encoding="utf-8")
    pages = set(re.findall(r'"([\w-]+\.md)"', navigation))
    assert pages == {name for _, name in sources()} | {"commands.md"}
    assert all((site / page.replace(".md", ".html")).is_file() for page in pages)
    assert tomllib.loads(navigation)["project"]["nav"]


def test_pages_load_nothing_from_elsewhere(site):
    loads = r'<(?:script|img|iframe|source|link)\b[^>]*?(?:src|srcset|href)="?((?:https?:)?//[^">\s]*)'
    found = {
        page.name: elsewhere
        for page in site.glob("**/*.html")
        if (elsewhere := re.findall(loads, page.read_text(encoding="utf-8")))
    }
    assert not found
    styles = "".join(style.read_text(encoding="utf-8") for style in site.glob("**/*.css"))
    assert not re.findall(r"(?:@import|url\()[\s\"']*(?:https?:)?//[^)]*", styles)


def test_the_reference_comes_from_types_and_docstrings(site):
    assert "testbeds.NAME.context.samples" in (site / "configuration.html").read_text(encoding="utf-8")
    assert 'id="atp.testbed.Testbed"' in (site / "api.html").read_text(encoding="utf-8")
    assert "atp rollout" in (site / "commands.html").read_text(encoding="utf-8")


def test_llms_txt_lists_every_page():
    links = set(re.findall(r"\]\(([^)]*)\)", (ROOT / LLMS).read_text(encoding="utf-8")))
    pages = {source.relative_to(ROOT).as_posix() for source, _ in sources()}
    assert links == pages - {"README.md"}
