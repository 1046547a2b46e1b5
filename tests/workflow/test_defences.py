"""Inputs of jobs for defences: planned, not run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CONDITIONS = {
    "baseline": {},
    "rehearsal": {"training": {"rehearsal": 0.25}},
    "stopped": {"training": {"max_violation_increase": 0.1}},
}


@pytest.fixture(scope="module")
def planned(tmp_path_factory) -> str:
    """Return a dry run of the small study, without alignment, with conditions that differ in their training."""
    folder = tmp_path_factory.mktemp("defended")
    study = yaml.safe_load((Path(__file__).parent / "study.yaml").read_text())
    section = study["testbeds"]["role_play"]
    study["alignments"], section["conditions"], section["weights"]["conditions"] = (
        ["none"],
        CONDITIONS,
        list(CONDITIONS),
    )
    section["scenarios"]["train"] = 80
    (folder / "defended.yaml").write_text(yaml.safe_dump(study))
    base = [sys.executable, "-m", "snakemake", "-n", "-s", str(ROOT / "Snakefile"), "--directory", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [*base, "finetune", "--config", f"study={folder / 'defended.yaml'}"]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_only_the_condition_with_rehearsal_needs_pairs(planned):
    assert re.search(r"^prefer +1$", planned, re.MULTILINE) and re.search(r"^train +3$", planned, re.MULTILINE)
    jobs = re.findall(r"^rule train:\n    input: (.*)\n    output: .*/seed0/(\w+)/generation1", planned, re.MULTILINE)
    pairs = "results/defended/organism/role_play/dpo/seed0/pairs.parquet"
    assert {condition: pairs in inputs.split(", ") for inputs, condition in jobs} == {
        "baseline": False,
        "rehearsal": True,
        "stopped": False,
    }
