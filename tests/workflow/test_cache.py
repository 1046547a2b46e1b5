"""The cache between workflows: of two studies in two folders, the second links outputs of the first."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from studies import ROOT, SMALL

TARGETS = ("all_align", "all_rollout")
#: Outputs that both studies share, and outputs of each study, by the end of their paths.
SHARED = ("dpo/seed0/pairs.parquet", "dpo/seed0/adapter", "generation0/turns.parquet", "generation0/evaluation.parquet")
OWN = "context/turns.parquet"


def play(folder: Path, study: str) -> tuple[set[str], set[str]]:
    """Run a study in a folder of its own; return the outputs that it made, and those that it linked."""
    folder.mkdir()
    (folder / "study.yaml").write_text(study)
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--cores", "2", "--cache"]
    command += ["--configfile", "study.yaml", "--until", *TARGETS, "--", *TARGETS]
    environment = os.environ | {"SNAKEMAKE_OUTPUT_CACHE": str(folder.parent / "cache")}
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    names = "|".join((*SHARED, OWN))
    made, linked = (
        set(re.findall(rf"{what} output file results/study/(\S+?(?:{names}))", run.stdout + run.stderr))
        for what in ("Moving", "Symlinking")
    )
    return made, linked - made


@pytest.mark.slow
def test_a_second_study_links_what_the_first_one_made(tmp_path):
    """Both have the same alignment; the second has longer episodes in context."""
    (tmp_path / "cache").mkdir()
    made, _ = play(tmp_path / "one", SMALL)
    assert any(path.endswith(SHARED) for path in made)
    made, linked = play(tmp_path / "two", SMALL.replace("{rounds: 2}", "{rounds: 3}"))
    assert all(any(path.endswith(name) for path in linked) for name in SHARED)
    assert not any(path.endswith(SHARED) for path in made) and any(path.endswith(OWN) for path in made)
