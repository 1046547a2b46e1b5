"""Which study is meant, and what an unfinished one lacks."""

import shutil
from pathlib import Path

import pytest

from atp.errors import AtpError
from atp.export.artifacts import find_artifacts
from atp.export.folder import replacing_folder

ROOT = Path(__file__).parents[2]


def test_an_unfinished_study_says_what_is_missing(small, tmp_path, monkeypatch):
    shutil.copytree(small, tmp_path / "results/small")
    monkeypatch.chdir(tmp_path)
    place = "organism/role_play/none/seed0/baseline/generation1/evaluation.parquet"
    Path("results/small", place).unlink()
    artifacts = find_artifacts("results/small")
    assert artifacts.missing.startswith("small: not finished, 1 of ")
    assert artifacts.missing.endswith(f" artifacts missing: {place}; the others are exported")
    assert (len(artifacts.turns), len(artifacts.adapters)) == (7, 3)
    Path("results/small/report.html").unlink()
    assert find_artifacts("results/small").missing == ""  # no study of this name: all that is known is there


def test_what_a_study_no_longer_has_is_left_out_unless_its_folder_is_named(small, tmp_path, monkeypatch):
    study = shutil.copytree(small, tmp_path / "results/small")
    shutil.copy(ROOT / "tests/workflow/study.yaml", tmp_path / "small.yaml")
    monkeypatch.chdir(tmp_path)
    alignment = Path("organism/role_play/dpo/seed0")
    shutil.copytree(study / alignment / "baseline", study / alignment / "removed")
    text = "small: results that the study does not have, 5 {}"
    first = alignment / "removed/context/turns.parquet"
    by_file, by_folder = find_artifacts("small.yaml"), find_artifacts("results/small")
    assert (len(by_file.turns), len(by_file.adapters), by_file.missing) == (8, 3, "")
    assert by_file.others.startswith(text.format(f"left out: {first}, "))
    assert (len(by_folder.turns), len(by_folder.adapters)) == (12, 4)
    assert by_folder.others.startswith(text.format(f"exported too: {first}, "))
    assert by_folder.others.endswith(" and 2 more; name the study's file to leave them out")


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("results/nothing", "results/nothing: no such folder; name a study's folder of results, such as results/demo"),
        ("nothing", r"nothing\.yaml: no such file; studies of "),
        ("demo", r"results/demo: no turns; run the study first: snakemake --cores all --config study=demo"),
        ("half study.yaml", r"half: no turns; run the study first: snakemake .* --config study='half study\.yaml'$"),
        ("empty", r"empty: no turns; run the study first$"),
    ],
)
def test_a_study_without_turns_is_one_line(tmp_path, monkeypatch, named, message):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("half study.yaml").write_text("name: half\nmodels: [scripted:comply]\ntestbeds: {role_play: {context: {}}}\n")
    with pytest.raises(AtpError, match=message):
        find_artifacts(named)


def test_a_folder_that_no_export_wrote_is_not_replaced(tmp_path):
    (tmp_path / "out").mkdir()
    with replacing_folder(tmp_path / "out") as folder:
        (folder / "new").touch()
    assert (tmp_path / "out/new").exists()
    for folder in (tmp_path, tmp_path / "out/new"):
        with (
            pytest.raises(AtpError, match="exists, and no export wrote it; delete it, or choose another folder"),
            replacing_folder(folder),
        ):
            pass
