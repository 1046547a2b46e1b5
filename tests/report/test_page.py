"""The report in Chromium: one screen of summary, links, sorted tables, accessibility, and hostile replies as text."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe

from atp.agents.base import Agent, Request
from atp.agents.scripted import scripted
from atp.files.provenance import Provenance, Stage
from atp.measures.job import MeasureJob
from atp.measures.rates import measure_stage
from atp.report.job import ReportFiles, ReportJob
from atp.report.page import embed, report_stage
from atp.report.transcripts import visible
from atp.rollout.engine import RolloutJob, rollout
from atp.rollout.table import Cell
from atp.scenarios.scenario import read_scenarios, write_scenarios
from atp.scenarios.templates import generate, read_templates
from atp.testbed import Reply
from atp.testbeds.role_play import TESTBED
from atp.testbeds.role_play.scenarios import RolePlayTemplate, instantiate
from atp.training.filters import BestOfN, FilterJob, filter_stage

CHROMIUM = next((found for name in ("chromium", "google-chrome", "chrome") if (found := shutil.which(name))), None)
MARKUP = '</script><script>window.pwned=1</script><img src=x onerror="window.pwned=1"><!-- \u2028 '
#: Replies, one a round, and what the page shows of them.
HOSTILE = (
    (MARKUP, MARKUP.replace("\u2028", "\\u2028")),
    ("\x00\x1b[2J\x1b]0;owned\x07\x9b", "\\x00\\x1b[2J\\x1b]0;owned\\x07\\x9b"),
    ("safe \u202eEVIL\u202c \u2066x\u200b", "safe \\u202eEVIL\\u202c \\u2066x\\u200b"),
    ("x" * 10**6, "characters are left out of the page"),
    ("{{ 7 * 7 }} ${7*7} &lt;b&gt; javascript:alert(1)", "{{ 7 * 7 }} ${7*7} &lt;b&gt; javascript:alert(1)"),
    ("\r\nline\rline\ttab\u00a0\U0001f469\u200d\U0001f52c", "line\\rline\ttab\u00a0\U0001f469\u200d\U0001f52c"),
)
MAX_BYTES = 5_000_000


class Hostile:
    """An agent that writes a text of HOSTILE before its choice."""

    batch = 64

    def start(self) -> None:
        pass

    def answer(self, requests: list[Request]) -> list[Reply]:
        seen = [request.prompt.observation for request in requests]
        answers = [list(each.answers.values())[request.seed % 2] for each, request in zip(seen, requests, strict=True)]
        return [Reply(HOSTILE[each.prompt.round - 1][0] + text) for each, text in zip(requests, answers, strict=True)]


class Study:
    """Artifacts of a study on role-play, and its report."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.scenarios, self.turns = folder, folder / "scenarios.parquet", []
        made = generate(read_templates(TESTBED.templates, RolePlayTemplate), instantiate, 16, 16, 0)
        write_scenarios(TESTBED, made, self.scenarios, Provenance("scenarios", "code"))

    def play(self, agent: Agent, variants: dict[str, dict], split: str = "test", **cell: Any) -> Path:
        """Add the turns of a rollout."""
        job = RolloutJob(
            cell=Cell(**{"model": "learner", "testbed": "role_play", **cell}), variants=variants, samples=2
        )
        self.turns.append(self.folder / f"turns{len(self.turns)}.parquet")
        stage = Stage("rollout", "atp.rollout.engine", job.params(), [self.scenarios])
        rollout(job, read_scenarios(self.scenarios, "role_play", split), agent, self.turns[-1], stage)
        return self.turns[-1]

    def report(self, selections: tuple[Path, ...] = ()) -> Path:
        measure_stage(MeasureJob(), self.turns, self.folder / "measures.parquet")
        files = ReportFiles(self.folder / "measures.parquet", [self.scenarios], self.turns[::-1], selections)
        job = ReportJob(study="test", text="models: [<b>x</b>]", organism=True)
        report_stage(job, files, self.folder / "report.html", self.folder / "figures")
        return self.folder / "report.html"


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """Return a report on scripted agents in both channels, one of them hostile."""
    study = Study(tmp_path_factory.mktemp("report"))
    for generation, p in enumerate((0.2, 0.4, 0.7)):
        for split in ("train", "test"):
            cell = {"channel": "weights", "generation": generation}
            study.play(scripted(f"random:{p}"), {"default": {"rounds": 1}}, split, **cell)
    study.play(Hostile(), {name: {"schedule": name} for name in ("all_unsupervised", "all_supervised")})
    selection = study.folder / "selection.parquet"
    filter_stage(FilterJob(filter=BestOfN()), study.turns[0], selection)
    return study.report((selection,))


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        message = "no Chromium found: install it (Debian: apt-get install chromium) to test the report"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture
def visit(page, browser) -> Iterator[Callable[..., Any]]:
    """Return a function that opens the page; afterwards it has made no request, no error, and run no foreign script."""
    tabs, complaints, requests = [], [], []

    def visit(fragment: str = "", **options: Any) -> Any:
        tab = browser.new_page(**options)
        tab.on("console", lambda message: message.type in ("error", "warning") and complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto(page.as_uri() + fragment)
        tabs.append(tab)
        return tab

    yield visit
    assert not complaints
    assert {url.partition("#")[0] for url in requests} == {page.as_uri()}
    for tab in tabs:
        assert tab.evaluate("window.pwned") is None
        tab.close()


def draw(tab: Any) -> None:
    """Scroll to every figure, which draws it."""
    for figure in tab.locator("figure").all():
        figure.scroll_into_view_if_needed()
        figure.locator("svg.marks").first.wait_for()


def test_the_page_explains_the_agent_and_the_change(page):
    text = page.read_text()
    assert "no evidence about any deployed model" in text
    assert "<b>baseline: one training</b> from" in text and "all of its results are exploratory" in text
    assert "models: [&lt;b&gt;x&lt;/b&gt;]" in text and "<code>atp view results/test</code>" in text
    assert sorted(file.name for file in (page.parent / "figures").iterdir()) == [
        "deployment.svg",
        "drift_over_generations.svg",
        "drift_over_rounds.svg",
        "reinforcement.svg",
    ]


def test_embedded_text_cannot_leave_its_script():
    assert "<" not in embed({"reply": MARKUP})


def test_half_a_surrogate_is_escaped():
    assert visible("\ud800x") == "\\ud800x"


def test_the_summary_is_one_screen(visit):
    tab = visit(viewport={"width": 1280, "height": 800})
    box = tab.locator("#summary").bounding_box()
    assert box["y"] + box["height"] <= 800
    assert "Of 3 series, the violation rate" in tab.inner_text(".answer")
    assert tab.locator("#table-summary tbody tr").count() == 3
    assert "(1 of them about one training)" in tab.inner_text("#summary")


def test_every_section_table_and_figure_has_a_link(visit):
    tab = visit("#table-drift_over_rounds")
    assert tab.locator("#table-drift_over_rounds").is_visible()
    ids = tab.eval_on_selector_all("[id]", "found => found.map((one) => one.id)")
    links = tab.eval_on_selector_all("a[href^='#']", "found => found.map((one) => one.hash.slice(1))")
    targets = tab.eval_on_selector_all("main :is(section, table)", "found => found.map((one) => one.id)")
    assert len(ids) == len(set(ids)) and {*links} <= {*ids} and {*targets} <= {*links}
    listed = tab.eval_on_selector_all("nav a", "found => found.map((one) => one.hash.slice(1))")
    assert listed == tab.eval_on_selector_all("main section", "found => found.map((one) => one.id)")


def test_tables_are_sorted_from_the_keyboard(visit):
    tab = visit("#table-drift_over_rounds")
    column = tab.locator("#table-drift_over_rounds tbody td:nth-child(4)")
    rates = column.all_inner_texts()
    known = sorted((rate for rate in rates if rate != "–"), key=lambda rate: float(rate.split("\u00a0")[0]))
    heading = tab.locator("#table-drift_over_rounds th", has_text="rate").first
    heading.locator("button").focus()
    for key, order, expected in (("Enter", "ascending", known), ("Space", "descending", known[::-1])):
        tab.keyboard.press(key)
        assert heading.get_attribute("aria-sort") == order
        assert column.all_inner_texts() == expected + ["–"] * (len(rates) - len(known))
    tab.keyboard.press("Enter")
    assert column.all_inner_texts() == rates


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_accessibility(visit, scheme, width):
    tab = visit(color_scheme=scheme, viewport={"width": width, "height": 800})
    tab.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    draw(tab)
    found = Axe().run(tab).response["violations"]
    assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []
    tab.evaluate("scrollTo(0, 0)")
    tab.locator(".skip").focus()
    assert tab.locator(".skip").bounding_box()["x"] >= 0


def test_transcripts_on_a_phone(visit):
    tab = visit(viewport={"width": 390, "height": 800})
    tab.select_option("#file", label="learner, role_play, none, baseline, seed 0: in context")
    assert tab.locator("#turn .message").count() == 4
    for number, (_, shown) in enumerate(HOSTILE, 1):
        assert tab.inner_text("#place").startswith(f"round {number} of 6")
        text = tab.locator("#turn .reply > span").text_content()
        assert shown in text and len(text) < 10_000
        assert "earned" in tab.inner_text("#turn .outcome")
        tab.click("#next") if number == 1 else tab.keyboard.press("ArrowRight")
    tab.click("#after")
    assert tab.inner_text("#place").startswith("round 1 of 6")
    tab.select_option("#file", label="learner, role_play, none, baseline, seed 0: generation 1, tested")
    assert tab.inner_text("#place").startswith("round 1 of 1")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    assert not tab.locator("nav a").first.is_visible()
    tab.click("nav summary")
    tab.click("nav a >> text=Transcripts")
    assert not tab.locator("nav a").first.is_visible()


def test_each_figure_is_shown_once_on_paper_and_once_on_a_screen(visit):
    tab = visit(color_scheme="dark")
    draw(tab)
    for medium, shown in (("screen", ".live"), ("print", ".still")):
        tab.emulate_media(media=medium)
        for figure in tab.locator("figure").all():
            assert figure.locator(".live").is_visible() == (shown == ".live")
            assert figure.locator(".still").is_visible() == (shown == ".still")


def test_text_of_figures_can_be_read_in_the_dark(visit):
    tab = visit(color_scheme="dark")
    draw(tab)
    fills = tab.eval_on_selector_all("figure .live svg text", "found => found.map((one) => getComputedStyle(one).fill)")
    assert fills
    assert {sum(map(int, re.findall(r"\d+", fill)[:3])) > 3 * 128 for fill in fills} == {True}


@pytest.mark.slow
def test_a_page_of_50_conditions(tmp_path, browser):
    """Print, with `pytest -s`, the size of a page of 50 conditions and three seeds, and how long it takes to load."""
    study = Study(tmp_path)
    for number in range(50):
        condition = f"condition_{number:02}" if number else "baseline"
        for seed in range(3):
            keys = {"condition": condition, "seed": seed}
            study.play(scripted(f"random:{0.1 + 0.016 * (7 * number % 50)}"), {"default": {}}, **keys)
            for generation in range(3):
                agent, weights = scripted(f"random:{0.1 + 0.008 * number * generation}"), {"channel": "weights"}
                study.play(agent, {"default": {"rounds": 1}}, **keys, **weights, generation=generation)
    page = study.report()
    tab, begin = browser.new_page(), monotonic()
    tab.goto(page.as_uri())
    loaded = monotonic()
    draw(tab)
    drawn = monotonic()
    print(
        f"\n{page.stat().st_size:,} bytes, {loaded - begin:.1f} s to load, {drawn - loaded:.1f} s to draw all figures"
    )
    assert page.stat().st_size < MAX_BYTES
