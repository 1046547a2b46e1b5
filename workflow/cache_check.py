"""Check the cache between workflows: of two studies in two folders, the second reuses outputs of the first.

Both have the same alignment; the second has longer episodes. Exits with code 1 if the second runs a shared stage again.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
STUDY = ROOT / "tests/workflow/study.yaml"
TARGETS = ("align", "rollout")
#: Outputs that both studies share, and outputs of each study, by the end of their paths.
SHARED, OWN = ("dpo/seed0/pairs.parquet", "dpo/seed0/adapter", "generation0/turns.parquet"), ("context/turns.parquet",)


def play(folder: Path, study: Path, cache: Path) -> tuple[set[str], set[str]]:
    """Run a study and return the outputs that it made, and those that it took from the cache, by their paths."""
    folder.mkdir()
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    command += ["--cores", "2", "--cache", "--config", f"study={study}", "--until", *TARGETS, "--", *TARGETS]
    start = time.monotonic()
    run = subprocess.run(
        command,
        env=os.environ | {"SNAKEMAKE_OUTPUT_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if run.returncode:
        sys.exit(run.stdout)
    names = "|".join(SHARED + OWN)
    made, linked = (
        set(re.findall(rf"{what} output file results/{study.stem}/(\S+?(?:{names}))", run.stdout))
        for what in ("Moving", "Symlinking")
    )
    print(f"{study.stem} study: {time.monotonic() - start:.0f} s")
    for what, files in (("made", made), ("taken from the cache", linked - made)):
        print(f"  {what}: {len(files)}", *sorted(files), sep="\n    ")
    return made, linked - made


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "cache").mkdir()
        text = STUDY.read_text(encoding="utf-8")
        (folder / "first.yaml").write_text(text, encoding="utf-8")
        (folder / "second.yaml").write_text(text.replace("{rounds: 2}", "{rounds: 3}"), encoding="utf-8")
        play(folder / "one", folder / "first.yaml", folder / "cache")
        made, taken = play(folder / "two", folder / "second.yaml", folder / "cache")
    if any(file.endswith(SHARED) for file in made) or not taken:
        sys.exit("the second study must reuse the shared outputs")


main()
