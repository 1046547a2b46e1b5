"""A stage's digest changes with what it imports, its params and its inputs, and with nothing else."""

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

from atp.provenance import PACKAGE, Stage, digest

STAGES = {
    "scenarios": "atp.scenarios.stage",
    "rollout": "atp.rollout",
    "filter": "atp.filtering",
    "pairs": "atp.alignment.pairs",
    "align": "atp.alignment.align",
    "finetune": "atp.training.stage",
    "measure": "atp.measures",
    "report": "atp.report",
}
#: Stages in which an agent answers.
AGENTS = {"rollout", "pairs", "align", "finetune"}
#: A source file -> the stages that must run again after a change to it.
CHANGES = {
    "errors.py": set(STAGES),
    "explain.py": {"scenarios"},
    "units.py": {"report"},
    "artifacts.py": set(STAGES),
    "progress.py": AGENTS,
    "stopping.py": AGENTS,
    "tools/calculator.py": {"scenarios", *AGENTS, "report"},
    "scenarios/templates.py": {"scenarios"},
    "scenarios/role_play.py": {"scenarios"},
    "scenarios/coordination.py": {"scenarios"},
    "scenarios/release_coordination.py": {"scenarios"},
    "scenarios/scenario.py": {"scenarios", *AGENTS, "report"},
    "testbeds/role_play.py": {*AGENTS, "report"},
    "testbeds/parsing.py": {*AGENTS, "report"},
    "agents/local.py": AGENTS,  # imported inside functions
    "agents/served.py": AGENTS,
    "rollout.py": AGENTS,
    "filtering.py": {"filter"},
    "training/sft.py": {"align", "finetune"},
    "training/questions.py": {"pairs", "align", "finetune"},
    "training/fsdp.yaml": {"pairs", "align", "finetune"},  # a file beside a module counts as its own
    "alignment/pairs.py": {"pairs"},
    "measures/intervals.py": {"measure", "report"},
    "measures/seeds.py": {"report"},
    "report/spread.py": {"report"},
    "report/page.py": {"report"},
    "report/paper.csv": {"report"},
    "report/replication.py": {"report"},
    "measures/deterrence.py": {"measure", "report"},
    "report/phase.py": {"report"},
    "cli.py": set(),
    "config.py": set(),
    "organism/train.py": set(),
}


@pytest.fixture
def copy(tmp_path) -> Path:
    """The package's sources, free to be edited."""
    return Path(shutil.copytree(PACKAGE, tmp_path / "atp", ignore=shutil.ignore_patterns("__pycache__")))


def provenance_of(package: Path) -> ModuleType:
    """The copy's own provenance module, which digests the copy's sources."""
    spec = importlib.util.spec_from_file_location("provenance_of_a_copy", package / "provenance.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def digests(package: Path) -> dict[str, str]:
    code_digest = provenance_of(package).code_digest
    return {stage: code_digest(module) for stage, module in STAGES.items()}


def test_code_changes_reach_the_stages_that_import_it(copy):
    before = digests(copy)
    assert digests(copy) == before and len(set(before.values())) == len(STAGES)
    found = {}
    for name in CHANGES:
        source = (copy / name).read_bytes()
        (copy / name).write_bytes(source + b"\nCHANGED = True\n")
        found[name] = {stage for stage, value in digests(copy).items() if value != before[stage]}
        (copy / name).write_bytes(source)
    assert found == CHANGES
    style = next((copy / "report").glob("*.css"))
    style.write_text(style.read_text() + "/* changed */")
    assert {stage for stage, value in digests(copy).items() if value != before[stage]} == {"report"}


def test_a_script_counts_with_what_it_imports(copy):
    script = copy.parent / "script.py"
    script.write_text("def run():\n    import atp.progress\n")
    before = provenance_of(copy).code_digest(str(script))
    (copy / "filtering.py").write_text("")
    assert provenance_of(copy).code_digest(str(script)) == before
    (copy / "progress.py").write_text("")
    changed = provenance_of(copy).code_digest(str(script))
    script.write_text("def run():\n    import atp.progress  # said otherwise\n")
    assert len({before, changed, provenance_of(copy).code_digest(str(script))}) == 3


def test_a_stage_is_its_code_params_and_inputs(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("same")
    two.write_text("other")
    stage = Stage("rollout", "atp.rollout", {"seed": 0, "split": "test"}, [one])
    assert Stage("rollout", "atp.rollout", {"split": "test", "seed": 0}, [one]).digest == stage.digest
    others = [
        Stage("rollout", "atp.rollout", {"seed": 1, "split": "test"}, [one]),
        Stage("rollout", "atp.filtering", {"seed": 0, "split": "test"}, [one]),
        Stage("rollout", "atp.rollout", {"seed": 0, "split": "test"}, [two]),
        Stage("rollout", "atp.rollout", {"seed": 0, "split": "test"}, [one, two]),
        Stage("measure", "atp.rollout", {"seed": 0, "split": "test"}, [one]),
    ]
    assert len({stage.digest, *(other.digest for other in others)}) == 6
    found = stage.provenance(tokens=7)
    assert found.inputs == {"one": digest(one)} and found.params == {"seed": 0, "split": "test"}
    assert found.cost["tokens"] == 7 and found.cost["wall_seconds"] >= 0 and found.cost["peak_memory_mb"] > 1
    assert found.versions["pyarrow"]


def test_a_folder_is_its_files_and_their_names(tmp_path):
    folder = tmp_path / "model"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "weights").write_text("1")
    before = digest(folder)
    (folder / "empty").mkdir()
    assert digest(folder) == before
    (folder / "deep" / "weights").write_text("2")
    changed = digest(folder)
    (folder / "deep" / "weights").rename(folder / "weights")
    assert len({before, changed, digest(folder)}) == 3
