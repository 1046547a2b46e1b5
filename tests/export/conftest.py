"""A study that has run, and one whose transcripts are hostile."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from evidence import turn_row, turn_table
from export.hostile import REPLIES

from atp.files.provenance import Stage
from atp.files.tables import write_table
from atp.registry import find_testbed
from atp.study import paths

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Path:
    """Return the results of the small study, which the workflow made."""
    folder = tmp_path_factory.mktemp("export")
    study = shutil.copy(ROOT / "tests/workflow/study.yaml", folder / "small.yaml")
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "2"]
    result = subprocess.run(
        [*command, "--directory", str(folder), "--configfile", str(study)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return folder / "results/small"


@pytest.fixture(scope="session")
def hostile(tmp_path_factory) -> Path:
    """Return the results of an unfinished study whose names, prompts, replies and tools' results are hostile."""
    folder, testbed = tmp_path_factory.mktemp("export") / "results/hostile", find_testbed("role_play")
    rows = []
    for number, text in enumerate(REPLIES):
        values = {
            "model": 'm_1 & "<b>|',
            "template": "t",
            "variant": "a/b | \\textbf{<i>} ../..",
            "messages": [{"role": "system", "content": text}, {"role": "user", "content": text}],
            "tools": ["calculator", "unknown <tool>"],
            "reply": text,
            "later_replies": [text],
            "tool_results": [[text]],
            "later_finish_reasons": ["stop"],
            "finish_reason": "length",
            "decision": "invalid",
            "invalid_reason": text[:200],
            "feedback": text,
            "details": {"choice": text[:100]},
        }
        rows.append(turn_row("role_play", f"scenario {number}", round=1, **values))
    cell = {"model": "scripted:random:0.5", "testbed": "role_play", "alignment": "given:a", "seed": 0}
    place = paths.CONTEXT.format(**cell, condition="b?c %2e#d&e.")
    write_table(turn_table(testbed, rows), folder / place, Stage("rollout", [], {}).provenance())
    return folder
