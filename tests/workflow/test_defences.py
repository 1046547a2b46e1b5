"""What jobs are given for the sake of a defence: planned, not run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ARMS = {"plain": {}, "replay": {"training": {"replay": 0.25}}, "stopped": {"training": {"most_rise": 0.1}}}


@pytest.fixture(scope="module")
def planned(tmp_path_factory) -> str:
    """A dry run of the study of seconds, without alignment, with arms that differ in their training."""
    folder = tmp_path_factory.mktemp("defended")
    study = yaml.safe_load((Path(__file__).parent / "study.yaml").read_text())
    section = study["testbeds"]["role_play"]
    study["alignments"], section["arms"], section["weights"]["arms"] = ["none"], ARMS, list(ARMS)
    section["scenarios"]["train"] = 80
    (folder / "defended.yaml").write_text(yaml.safe_dump(study))
    base = [sys.executable, "-m", "snakemake", "-n", "-s", str(ROOT / "Snakefile"), "--directory", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [*base, "finetune", "--config", f"study={folder / 'defended.yaml'}"]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_pairs_are_made_for_the_arm_that_replays_them_and_for_no_other(planned):
    assert re.search(r"^prefer +1$", planned, re.MULTILINE) and re.search(r"^train +3$", planned, re.MULTILINE)
    jobs = re.findall(r"^rule train:\n    input: (.*)\n    output: .*/seed0/(\w+)/generation1", planned, re.MULTILINE)
    pairs = "results/defended/organism/role_play/dpo/seed0/pairs.parquet"
    assert {arm: pairs in inputs.split(", ") for inputs, arm in jobs} == {
        "plain": False,
        "replay": True,
        "stopped": False,
    }
