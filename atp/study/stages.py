"""Run a stage of the workflow: jobs and files in, outputs written. A stage is imported when it runs."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from atp.files.schemas import YIELD

log = logging.getLogger("atp")

MODELS_FOLDER = Path("config/models")
#: Name of a stage -> the module that has it, whose imports are its code.
MODULES = {
    "scenarios": "atp.scenarios.sources",
    "organism": "atp.organism.train",
    "pairs": "atp.training.pairs",
    "align": "atp.training.stage",
    "rollout": "atp.rollout.engine",
    "transplant": "atp.rollout.transplant",
    "judge": "atp.rollout.judge",
    "memory_rollout": "atp.memory.play",
    "memory": "atp.memory.write",
    "filter": "atp.training.filters",
    "finetune": "atp.training.stage",
    "measure": "atp.measures.rates",
    "report": "atp.report.page",
}
#: Names of inputs that are folders of trained agents.
AGENTS = ("adapter", "parent", "reference")

Jobs = Sequence[Mapping[str, Any]]
Files = Mapping[str, Sequence[Path]]
Paths = Sequence[Path]


def project_root(workflow: Path) -> Path:
    """Return the folder where the paths of a study begin: the working directory if it has config/models, as a deployed
    copy of the workflow does, else the workflow's own folder.
    """
    return Path() if MODELS_FOLDER.is_dir() else workflow


def run(stage: str, jobs: Jobs, files: Files, outputs: Paths, root: Path) -> None:
    """Run a stage.

    Args:
        jobs: the settings of what makes each output, as JSON values; none to join the shards of rollouts.
        files: inputs by name.
        root: folder where the paths of a study begin.

    Raises:
        AtpError: as the stage does.
    """
    one = {name: paths[0] for name, paths in files.items() if paths}
    # The files of a user's adapter are inputs, because a cache compares files.
    one |= {name: one[name].parent for name in AGENTS if name in one and one[name].is_file()}
    out, job = outputs[0], jobs[0] if jobs else {}
    match stage:
        case "scenarios":
            from atp.scenarios.sources import ScenariosJob, scenarios_stage

            scenarios_stage(ScenariosJob(**job), out, root)
        case "organism":
            from atp.organism.train import OrganismJob, build_organism

            build_organism(OrganismJob(**job), one["templates"], out)
        case "pairs":
            from atp.training.pairs import PairsJob, pairs_stage

            log.info("%s: %s", out, YIELD.format_map(pairs_stage(PairsJob(**job), one["scenarios"], out)))
        case "align":
            from atp.training.stage import AlignJob, align_stage

            align_stage(AlignJob(**job), one["scenarios"], out, one.get("data"), one.get("parent"))
        case "rollout":
            from atp.rollout.engine import RolloutJob, gather_stage, rollout_stages

            if jobs:
                typed = [(RolloutJob(**each), path) for each, path in zip(jobs, outputs, strict=True)]
                rollout_stages(typed, one["scenarios"], one.get("adapter"))
            for path in () if jobs else outputs:
                gather_stage(files[f"{path.stem}_shards"], path)
        case "transplant":
            from atp.rollout.transplant import TransplantJob, transplant_stage

            transplant_stage(TransplantJob(**job), one["histories"], one["scenarios"], out, one.get("adapter"))
        case "judge":
            from atp.rollout.judge import JudgeJob, judge_stage

            judge_stage(JudgeJob(**job), one["turns"], out)
        case "memory_rollout":
            from atp.memory.play import MemoryRolloutJob, memory_rollout_stages

            played = [(MemoryRolloutJob(**each), path) for each, path in zip(jobs, outputs, strict=True)]
            memory_rollout_stages(played, one["scenarios"], one.get("memory"), one.get("adapter"))
        case "memory":
            from atp.memory.write import MemoryJob, memory_stage

            log.info(
                "%s: %s", out, memory_stage(MemoryJob(**job), one["turns"], one["scenarios"], out, one.get("memory"))
            )
        case "filter":
            from atp.training.filters import FilterJob, filter_stage

            log.info("%s: %s", out, filter_stage(FilterJob(**job), one["turns"], out, one.get("verdicts")))
        case "finetune":
            from atp.training.stage import FinetuneJob, TrainingFiles, finetune_stage

            names = TrainingFiles.model_fields.keys() & one.keys()
            finetune_stage(FinetuneJob(**job), TrainingFiles(**{name: one[name] for name in names}), out)
        case "measure":
            from atp.measures.rates import MeasureJob, measure_stage

            measure_stage(MeasureJob(**job), files["turns"], out)
        case "report":
            from atp.report.page import ReportFiles, ReportJob, report_stage

            kinds = ("scenarios", "turns", "selections", "memories", "pairs", "adapters")
            artifacts = ReportFiles(measures=one["measures"], **{name: files.get(name, ()) for name in kinds})
            report_stage(ReportJob(**job), artifacts, out, outputs[1])
