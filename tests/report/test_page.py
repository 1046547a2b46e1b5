"""The report in Chromium: it opens without network, shows transcripts, and hostile replies do nothing."""

import os
import re
import shutil
from pathlib import Path

import pytest

from atp.agents.base import Agent, Request
from atp.agents.scripted import scripted
from atp.files.provenance import Provenance, Stage
from atp.measures.job import MeasureJob
from atp.measures.rates import measure_stage
from atp.report.job import ReportFiles, ReportJob
from atp.report.page import embed, report_stage
from atp.rollout.engine import RolloutJob, rollout
from atp.rollout.table import Cell
from atp.scenarios.scenario import read_scenarios, write_scenarios
from atp.scenarios.templates import generate, read_templates
from atp.testbed import Reply
from atp.testbeds.role_play import TESTBED
from atp.testbeds.role_play.scenarios import RolePlayTemplate, instantiate
from atp.training.filters import BestOfN, FilterJob, filter_stage

CHROMIUM = next((found for name in ("chromium", "google-chrome", "chrome") if (found := shutil.which(name))), None)
HOSTILE = '</script><script>window.pwned=1</script><img src=x onerror="window.pwned=1"><!-- \u2028 '


class Hostile:
    """An agent that writes markup before its choice."""

    batch = 64

    def start(self) -> None:
        pass

    def answer(self, requests: list[Request]) -> list[Reply]:
        answers = [list(request.prompt.observation.answers.values()) for request in requests]
        return [Reply(HOSTILE + each[request.seed % 2]) for each, request in zip(answers, requests, strict=True)]


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """Return a report on scripted agents in both channels, one of them hostile."""
    folder = tmp_path_factory.mktemp("report")
    scenarios = folder / "scenarios.parquet"
    made = generate(read_templates(TESTBED.templates, RolePlayTemplate), instantiate, 16, 16, 0)
    write_scenarios(TESTBED, made, scenarios, Provenance("scenarios", "code"))
    turns: list[Path] = []

    def play(name: str, split: str, variants: dict[str, dict], agent: Agent, channel: str, generation: int) -> None:
        cell = Cell("learner", "role_play", channel=channel, generation=generation)
        job = RolloutJob(cell=cell, variants=variants, samples=2)
        turns.append(folder / f"{name}.parquet")
        stage = Stage("rollout", "atp.rollout.engine", job.params(), [scenarios])
        rollout(job, read_scenarios(scenarios, "role_play", split), agent, turns[-1], stage)

    for generation, p in enumerate((0.2, 0.4, 0.7)):
        for split in ("train", "test"):
            agent = scripted(f"random:{p}")
            play(f"{split}{generation}", split, {"default": {"rounds": 1}}, agent, "weights", generation)
    schedules = {name: {"schedule": name} for name in ("all_unsupervised", "all_supervised")}
    play("context", "test", schedules, Hostile(), "context", 0)
    selection = folder / "selection.parquet"
    filter_stage(FilterJob(filter=BestOfN()), folder / "train0.parquet", selection)
    measure_stage(MeasureJob(), turns, folder / "measures.parquet")
    files = ReportFiles(folder / "measures.parquet", [scenarios], turns[::-1], [selection])
    job = ReportJob(study="test", text="models: [<b>x</b>]", organism=True)
    report_stage(job, files, folder / "report.html", folder / "figures")
    return folder / "report.html"


def test_the_page_explains_the_agent_and_the_change(page):
    text = page.read_text()
    assert "no evidence about any deployed model" in text
    assert "<b>baseline: one training</b> from" in text and "all of its results are exploratory" in text
    assert "models: [&lt;b&gt;x&lt;/b&gt;]" in text
    assert sorted(file.name for file in (page.parent / "figures").iterdir()) == [
        "deployment.svg",
        "drift_over_generations.svg",
        "drift_over_rounds.svg",
        "reinforcement.svg",
    ]


def test_embedded_text_cannot_leave_its_script():
    assert "<" not in embed({"reply": HOSTILE})


@pytest.fixture
def browser():
    if CHROMIUM is None:
        message = "no Chromium found: install it (Debian: apt-get install chromium) to test the report"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


def test_on_a_phone(page, browser):
    tab = browser.new_page(viewport={"width": 390, "height": 800})
    complaints: list[str] = []
    requests: list[str] = []
    tab.on("console", lambda message: message.type in ("error", "warning") and complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(page.as_uri())
    tab.wait_for_selector("#figure-drift_over_rounds svg.marks")
    tab.select_option("#file", label="learner, role_play, none, baseline, seed 0: in context")
    assert tab.inner_text("#place").startswith("round 1 of 6")
    assert tab.locator("#turn .message").count() == 4
    assert "</script><script>" in tab.inner_text("#turn .reply")
    tab.click("#next")
    tab.keyboard.press("ArrowRight")
    assert tab.inner_text("#place").startswith("round 3 of 6")
    assert "earned" in tab.inner_text("#turn .outcome")
    tab.click("#after")
    assert tab.inner_text("#place").startswith("round 1 of 6")
    tab.select_option("#file", label="learner, role_play, none, baseline, seed 0: generation 1, tested")
    assert tab.inner_text("#place").startswith("round 1 of 1")
    assert tab.evaluate("window.pwned") is None
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    assert not complaints
    assert requests == [page.as_uri()]


def test_each_figure_is_shown_once_on_paper_and_once_on_a_screen(page, browser):
    tab = browser.new_page(color_scheme="dark")
    tab.goto(page.as_uri())
    tab.wait_for_selector("#figure-drift_over_rounds svg.marks")
    for medium, shown in (("screen", ".live"), ("print", ".still")):
        tab.emulate_media(media=medium)
        for figure in tab.locator("figure").all():
            assert figure.locator(".live").is_visible() == (shown == ".live")
            assert figure.locator(".still").is_visible() == (shown == ".still")


def test_text_of_figures_can_be_read_in_the_dark(page, browser):
    tab = browser.new_page(color_scheme="dark")
    tab.goto(page.as_uri())
    tab.wait_for_selector("#figure-drift_over_rounds svg.marks")
    fills = tab.eval_on_selector_all("figure .live svg text", "found => found.map((one) => getComputedStyle(one).fill)")
    assert fills
    assert {sum(map(int, re.findall(r"\d+", fill)[:3])) > 3 * 128 for fill in fills} == {True}
