"""A stage's digest changes with the code that it imports, its params and its inputs, and with nothing else."""

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

from atp.files.code import PACKAGE
from atp.files.provenance import Stage, digest
from atp.registry import sources

STAGES = {
    "scenarios": "atp.scenarios.sources",
    "rollout": "atp.rollout.engine",
    "transplant": "atp.rollout.transplant",
    "filter": "atp.training.filters",
    "pairs": "atp.training.pairs",
    "align": "atp.training.stage",
    "finetune": "atp.training.stage",
    "measure": "atp.measures.rates",
    "report": "atp.report.page",
}
#: The testbed of the stages; the filter needs none.
TESTBED = "role_play"
PLAYED = {*STAGES} - {"filter"}
#: Stages in which an agent answers.
AGENTS = {"rollout", "transplant", "pairs", "align", "finetune"}
TRAINING = {"align", "finetune"}
#: A source file -> the stages that must run again after a change to it.
CHANGES = {
    "errors.py": {*STAGES},
    "units.py": {"report"},
    "registry.py": {*STAGES},
    "testbed.py": {*STAGES},
    "files/tables.py": {*STAGES},
    "files/resume.py": AGENTS,
    "progress.py": AGENTS,
    "stopping.py": AGENTS,
    "tools/calculator.py": {*STAGES},
    "scenarios/sources.py": {"scenarios"},
    "scenarios/release.py": {"scenarios"},
    "scenarios/templates.py": PLAYED,
    "scenarios/scenario.py": PLAYED,
    "testbeds/role_play/release.py": {"scenarios"},
    "testbeds/role_play/scenarios.py": PLAYED,
    "testbeds/role_play/game.py": PLAYED,
    "testbeds/role_play/measures.py": {"measure", "report"},
    "testbeds/role_play/figures.py": {"report"},
    "testbeds/role_play/phase.py": {"report"},
    "testbeds/role_play/organism.py": set(),
    "testbeds/role_play/templates.yaml": set(),  # an input of the jobs that read it
    "testbeds/role_play/published.csv": set(),
    "testbeds/coordination/game.py": set(),
    "parsing/choices.py": PLAYED,
    "agents/local.py": AGENTS,  # imported inside functions
    "agents/served.py": AGENTS - TRAINING,
    "agents/policies.py": AGENTS - TRAINING,
    "models/spec.py": AGENTS,
    "rollout/engine.py": AGENTS - TRAINING,
    "rollout/seeds.py": AGENTS,
    "rollout/branching.py": AGENTS - {"rollout"},
    "rollout/transplant.py": {"transplant"},
    "rollout/judge.py": set(),
    "training/filters.py": {"filter"},
    "training/sft.py": TRAINING,
    "training/fsdp.yaml": {"filter", "pairs", *TRAINING},  # a file next to a module counts as its code
    "training/pairs.py": {"pairs"},
    "measures/intervals.py": {"measure", "report"},
    "measures/seeds.py": {"measure", "report"},
    "report/spread.py": {"report"},
    "report/page.py": {"report"},
    "report/replication.py": {"report"},
    "report/phase.py": {"report"},
    "cli.py": set(),
    "study/study.py": set(),
    "organism/train.py": set(),
}


@pytest.fixture
def copy(tmp_path) -> Path:
    """Return a copy of the package, which a test may edit."""
    return Path(shutil.copytree(PACKAGE, tmp_path / "atp", ignore=shutil.ignore_patterns("__pycache__")))


def code_of(package: Path) -> ModuleType:
    """Return the copy's own module atp.files.code, which digests the copy's sources."""
    spec = importlib.util.spec_from_file_location("code_of_a_copy", package / "files/code.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def digests(package: Path) -> dict[str, str]:
    code_digest = code_of(package).code_digest
    own = {stage: sources(TESTBED, stage) if stage in PLAYED else [] for stage in STAGES}
    return {stage: code_digest(module, *own[stage]) for stage, module in STAGES.items()}


def test_code_changes_reach_the_stages_that_import_it(copy):
    before = digests(copy)
    assert digests(copy) == before and len({*before.values()}) == len({*STAGES.values()})
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


def test_the_digest_of_a_script_includes_its_imports(copy):
    script = copy.parent / "script.py"
    script.write_text("def run():\n    import atp.progress\n")
    before = code_of(copy).code_digest(str(script))
    (copy / "training/filters.py").write_text("")
    assert code_of(copy).code_digest(str(script)) == before
    (copy / "progress.py").write_text("")
    changed = code_of(copy).code_digest(str(script))
    script.write_text("def run():\n    import atp.progress  # changed\n")
    assert len({before, changed, code_of(copy).code_digest(str(script))}) == 3


def test_a_digest_depends_on_code_params_and_inputs(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("same")
    two.write_text("other")
    stage = Stage("rollout", "atp.rollout.engine", {"seed": 0, "split": "test"}, [one])
    assert Stage("rollout", "atp.rollout.engine", {"split": "test", "seed": 0}, [one]).digest == stage.digest
    others = [
        Stage("rollout", "atp.rollout.engine", {"seed": 1, "split": "test"}, [one]),
        Stage("rollout", "atp.training.filters", {"seed": 0, "split": "test"}, [one]),
        Stage("rollout", "atp.rollout.engine", {"seed": 0, "split": "test"}, [two]),
        Stage("rollout", "atp.rollout.engine", {"seed": 0, "split": "test"}, [one, two]),
        Stage("measure", "atp.rollout.engine", {"seed": 0, "split": "test"}, [one]),
    ]
    assert len({stage.digest, *(other.digest for other in others)}) == 6
    found = stage.provenance(tokens=7)
    assert found.inputs == {"one": digest(one)} and found.params == {"seed": 0, "split": "test"}
    assert found.cost["tokens"] == 7 and found.cost["wall_seconds"] >= 0 and found.cost["peak_memory_mb"] > 1
    assert found.versions["pyarrow"]


def test_the_digest_of_a_folder_depends_on_files_and_their_names(tmp_path):
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
