"""The ways in which users of Snakemake start a workflow: config files, keys, modules, copies, profiles."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from studies import ROOT, SMALL

from atp.files.provenance import Provenance
from atp.files.tables import write_table

#: A study of scripted policies, which runs in seconds.
QUICK = """\
models: [scripted:random]
testbeds:
  role_play:
    scenarios: {test: 4}
    settings: {rounds: 2}
    context: {}
"""
MODULE = """\
module drift:
    snakefile: "{root}/workflow/Snakefile"
    config: config["drift"]
    prefix: "inner"

use rule * from drift as drift_*

rule mine:
    default_target: True
    input: rules.drift_report.output.page
"""


def snakemake(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def planned(folder: Path, *arguments: str | Path) -> dict[str, int]:
    """Return the number of jobs of a dry run by rule."""
    result = snakemake(folder, "-n", "--quiet=rules", *arguments)
    assert result.returncode == 0, result.stdout
    return {name: int(number) for name, number in re.findall(r"^([a-z_]+) +(\d+)$", result.stdout, re.M)}


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "2024_01.yaml").write_text(SMALL)
    return tmp_path


@pytest.mark.parametrize("snakefile", ["Snakefile", "workflow/Snakefile"])
def test_a_config_file_is_a_study(folder, snakefile):
    """A key on the command line overrides it, and its name is the file's, digits or not."""
    base = ("-s", ROOT / snakefile, "--configfile", "2024_01.yaml")
    assert planned(folder, "results/2024_01/report.html", *base)["pairs"] == 1
    assert planned(folder, *base, "--config", "seeds=[0,1]")["pairs"] == 2


def test_a_study_by_name_and_keys_that_override_it(folder):
    """The folder has models of its own, so the study's paths begin there."""
    (folder / "config/studies").mkdir(parents=True)
    (folder / "2024_01.yaml").rename(folder / "config/studies/2024_01.yaml")
    shutil.copytree(ROOT / "config/models", folder / "config/models")
    base = ("-s", ROOT / "Snakefile", "results/2024_01/report.html", "--config", "study=2024_01")
    assert planned(folder, *base)["rollout"] == 2
    assert "pairs" not in planned(folder, *base, "alignments=[none]", "testbeds={role_play: {context: {samples: 2}}}")


def test_as_a_module_of_another_workflow(folder):
    """Its outputs are below the module's prefix, and its rules have the names that the user gives."""
    (folder / "Snakefile").write_text(f'configfile: "all.yaml"\n{MODULE.format(root=ROOT)}')
    (folder / "all.yaml").write_text("drift:\n  name: small\n" + "".join(f"  {line}\n" for line in QUICK.splitlines()))
    run = snakemake(folder, "-n", "--config", "of_another_workflow=1")
    assert run.returncode == 0, run.stdout
    assert "output: inner/results/small/report.html" in run.stdout and "rule drift_rollout:" in run.stdout
    assert "scripted:random/role_play/none/seed0/baseline/context/turns.parquet" in run.stdout


def test_a_module_needs_a_config(folder):
    (folder / "Snakefile").write_text(re.sub("    (config|prefix):.*\n", "", MODULE.format(root=ROOT)))
    run = snakemake(folder, "-n")
    assert run.returncode == 1 and "atp: the module has no config; give it one with `config:`" in run.stdout
    assert not (folder / "results").exists()


def test_a_deployed_copy(folder):
    """snakedeploy writes config and a Snakefile, in which a workflow from a folder needs its path."""
    source, copy = folder / "source", folder / "copy"
    for part in ("workflow", "config"):
        shutil.copytree(ROOT / part, source / part)
    deploy = [Path(sys.executable).with_name("snakedeploy"), "deploy-workflow", source, copy, "--branch", "main"]
    done = subprocess.run(list(map(str, deploy)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    snakefile = copy / "workflow/Snakefile"
    text = snakefile.read_text()
    assert '"workflow/Snakefile"' in text
    snakefile.write_text(text.replace('"workflow/Snakefile"', f'"{ROOT}/workflow/Snakefile"'))
    assert planned(copy)["total"] == 132
    (copy / "config/studies/mine.yaml").write_text(QUICK)
    (copy / "config/config.yaml").write_text("study: mine\nseeds: [0, 1]\n")
    assert planned(copy, "results/mine/report.html")["rollout"] == 2
    both = snakemake(copy, "-n", "--configfile", "config/studies/mine.yaml")
    assert both.returncode == 1 and "has `study: mine` and testbeds, allowed is one of them" in both.stdout


def test_in_another_directory_with_a_report_of_snakemakes(folder):
    base = ("-s", ROOT / "Snakefile", "--directory", folder / "elsewhere", "--configfile", folder / "quick.yaml")
    (folder / "quick.yaml").write_text(QUICK)
    run = snakemake(folder, *base)
    assert run.returncode == 0, run.stdout
    assert (folder / "elsewhere/results/quick/report.html").is_file()
    report = snakemake(folder, *base, "--report", folder / "report.zip")
    assert report.returncode == 0 and (folder / "report.zip").stat().st_size > 10_000, report.stdout


def test_the_profile_for_slurm(folder):
    jobs = planned(ROOT, "--profile", "workflow/profiles/slurm", "--directory", folder, "--config", "study=demo")
    assert jobs["total"] == 132


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (("--configfile", "list.yaml"), "Config file must be given as JSON or YAML with keys at top level"),
        (("--config", "study=list.yaml"), "atp: list.yaml: must be keys and values, found list"),
        (("--configfile", "wrong.yaml"), "wrong.yaml: modles: unknown key, allowed are "),
        (("--config", "study=demo", "plugins=[bad.py]"), "plugins: bad.py: "),
    ],
)
def test_an_error_is_one_line_before_anything_runs(folder, config, message):
    (folder / "list.yaml").write_text("- models: [organism]\n")
    (folder / "wrong.yaml").write_text(SMALL.replace("models:", "modles:"))
    (folder / "bad.py").write_text("1 / 0\n")
    run = snakemake(folder, "-s", ROOT / "Snakefile", *config)
    assert run.returncode == 1
    assert [message in line for line in run.stdout.splitlines()].count(True) == 1
    assert "Building DAG" not in run.stdout and not (folder / "results").exists()


def test_an_output_that_the_study_does_not_have(folder):
    run = snakemake(folder, "-n", "-s", ROOT / "Snakefile", "results/demo/organism/role_play/dpo/seed7/pairs.parquet")
    assert run.returncode == 1 and "seed7/pairs.parquet: study 'demo' has no such output" in run.stdout


def test_results_that_cannot_be_written(folder):
    """Root may write everywhere, so the results are a file here."""
    (folder / "results").write_text("")
    run = snakemake(folder, "-s", ROOT / "Snakefile")
    assert run.returncode == 1 and "atp: results: is not a folder that can be written" in run.stdout


def test_results_of_another_version(folder):
    """They are refused before any job, with what to do."""
    (folder / "quick.yaml").write_text(QUICK)
    scenarios = folder / "results/quick/role_play/scenarios.parquet"
    write_table(pa.table({"x": [1]}), scenarios, Provenance("scenarios", "code", schema=1))
    run = snakemake(folder, "-s", ROOT / "Snakefile", "--configfile", "quick.yaml")
    assert run.returncode == 1 and "was written with schema version 1, this version of atp reads" in run.stdout
    assert "delete results/quick, or run in another folder" in run.stdout
    assert [path for path in (folder / "results").rglob("*") if path.is_file()] == [scenarios]


def test_two_runs_in_one_folder(folder):
    (folder / "quick.yaml").write_text(QUICK)
    (folder / ".snakemake/locks").mkdir(parents=True)
    (folder / ".snakemake/locks/0.output.lock").write_text("results/quick/report.html\n")
    run = snakemake(folder, "-s", ROOT / "Snakefile", "--configfile", "quick.yaml")
    assert run.returncode == 1 and "cannot be locked" in run.stdout and not list(folder.rglob("*.parquet"))


def test_it_changes_no_path_and_no_private_attribute():
    files = [ROOT / "Snakefile", *(ROOT / "workflow").rglob("*.smk"), *(ROOT / "workflow").rglob("*.py")]
    text = "".join(path.read_text() for path in [*files, ROOT / "workflow/Snakefile"])
    assert "sys.path" not in text and not re.search(r"(?:workflow|rules|rule|each|snakemake)\._\w", text)
