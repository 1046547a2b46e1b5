"""Inspect's logs and viewer, read and started by Inspect itself."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote
from urllib.request import ProxyHandler, build_opener

import polars as pl
import pytest
from export.hostile import LONG, REPLIES
from inspect_ai.analysis import evals_df, samples_df
from inspect_ai.log import list_eval_logs, read_eval_log
from playwright.sync_api import sync_playwright

from atp.errors import AtpError
from atp.export.artifacts import find_artifacts
from atp.export.folder import MARKER
from atp.export.inspect_logs import export_inspect, update_logs, view

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def test_logs_have_the_episodes_with_their_decisions_and_scores(small, tmp_path):
    study = find_artifacts(str(small))
    assert study.missing == ""
    assert "<code>atp view results/small</code>" in (small / "report.html").read_text()
    written = export_inspect(study, tmp_path / "logs")
    evals = evals_df(tmp_path / "logs")
    assert written == len(evals) == len(list_eval_logs(str(tmp_path / "logs"))) == 10
    turns = pl.concat([pl.read_parquet(path).drop("details") for path in study.turns])
    samples = samples_df(tmp_path / "logs")
    assert len(samples) == len(turns.unique(["alignment", "channel", "generation", "split", "episode"]))
    place = "organism/role_play/dpo/seed0/baseline/context/turns_all_unsupervised.eval"
    log = read_eval_log(str(tmp_path / "logs" / place), resolve_attachments=True)
    cell = {"model": "organism", "testbed": "role_play", "alignment": "dpo", "condition": "baseline", "seed": 0}
    assert cell.items() <= log.eval.metadata.items()
    assert {"organism", "role_play", "dpo", "baseline", "seed 0", "all_unsupervised"} <= set(log.eval.tags)
    rows = turns.filter(channel="context", alignment="dpo", variant="all_unsupervised").sort("round")
    for sample in log.samples:
        episode = rows.filter(episode=sample.metadata["episode"]).to_dicts()
        models = [event for event in sample.events if event.event == "model"]
        assert [event.output.completion for event in models] == [row["reply"] for row in episode]
        assert [[message.text for message in event.input] for event in models] == [
            [message["content"] for message in row["messages"]] for row in episode
        ]
        decisions = [event.data for event in sample.events if event.event == "info"]
        assert [each["decision"] for each in decisions] == [row["decision"] for row in episode]
        assert sample.scores["reward"].value == pytest.approx(sum(row["reward"] for row in episode) / len(episode))
    [violation] = [score for score in log.results.scores if score.name == "violation"]
    assert violation.metrics["mean"].value == pytest.approx(rows["violation"].mean())


def test_only_newer_turns_are_exported_again(hostile, tmp_path):
    study = find_artifacts(str(hostile))
    assert [update_logs(study, tmp_path) for _ in range(2)] == [1, 0]
    [log] = tmp_path.rglob("*.eval")
    os.utime(log, (0, 0))
    stale = log.rename(log.with_name("turns_removed.eval"))
    assert update_logs(study, tmp_path) == 1
    assert not stale.exists()


def test_an_export_replaces_the_folder_of_an_export_and_no_other(small, hostile, tmp_path):
    for study in (small, hostile):
        export_inspect(find_artifacts(str(study)), tmp_path / "logs")
    assert len(list((tmp_path / "logs").rglob("*.eval"))) == 1
    (tmp_path / "logs" / MARKER).unlink()
    with pytest.raises(AtpError, match="logs: exists, and no export wrote it"):
        export_inspect(find_artifacts(str(small)), tmp_path / "logs")


def test_a_port_in_use_is_one_line(hostile):
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = used.getsockname()[1]
        with pytest.raises(AtpError, match=f"--port {port}: Address already in use; choose another port with --port"):
            view(find_artifacts(str(hostile)), port)
    assert not (hostile / "inspect").exists()


def test_hostile_transcripts_stay_text(hostile, tmp_path):
    export_inspect(find_artifacts(str(hostile)), tmp_path / "logs")
    [path] = tmp_path.rglob("*.eval")
    log = read_eval_log(str(path), resolve_attachments=True)
    assert log.eval.viewer.trust_content is False
    replies = [[event.output.completion for event in sample.events if event.event == "model"] for sample in log.samples]
    assert sorted(replies) == sorted([reply, reply] for reply in REPLIES)
    assert all(sample.scores["violation"].value != sample.scores["violation"].value for sample in log.samples)
    assert path.stat().st_size < len(LONG)


@pytest.fixture
def address(hostile):
    """Yield the address at which `atp view` shows the hostile transcripts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "atp.cli", "view", str(hostile), "--port", str(port)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, **pipes) as viewer:
        try:
            for _ in range(120):
                time.sleep(0.5)
                try:
                    build_opener(ProxyHandler({})).open(f"http://127.0.0.1:{port}/")
                    break
                except OSError:
                    assert viewer.poll() is None, viewer.stderr.read()
            yield f"http://127.0.0.1:{port}"
        finally:
            viewer.terminate()
        assert "not finished, missing: measures.parquet" in viewer.stderr.read()


def test_the_viewer_shows_hostile_transcripts_as_text(address):
    logs = build_opener(ProxyHandler({})).open(f"{address}/api/logs").read().decode()
    assert "hostile/inspect/scripted_random_0.5-" in logs
    if CHROMIUM is None:
        pytest.fail("no Chromium found") if os.environ.get("CI") else pytest.skip("no Chromium found")
    requests, complaints, dialogs = [], [], []
    options = ["--no-sandbox", "--disable-gpu", "--no-proxy-server"]
    [log] = json.loads(logs)["files"]
    place = quote(log["name"].partition("hostile/inspect/")[2])
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        tab = browser.new_page()
        tab.on("request", lambda request: requests.append(request.url))
        tab.on("console", lambda message: message.type == "error" and complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        for number, text in enumerate(["<script>document.title", "⟨U+0000⟩⟨U+001B⟩", "\\ud800", "javascript:alert(1)"]):
            tab.goto(f"{address}/#/logs/{place}/samples/sample/{quote(f'scenario {number}')}/1")
            tab.get_by_text(text).first.wait_for(timeout=90000)
            assert tab.locator("img[src=x], a[href^=javascript]").count() == 0
            assert tab.title() != "hostile"
        browser.close()
    assert dialogs == complaints == []
    assert requests and all(url.startswith((f"{address}/", "data:", "blob:")) for url in requests)
