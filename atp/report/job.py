"""The job of the report stage and its inputs, apart from the stage, whose imports take long."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from atp.files.provenance import Job
from atp.measures.hypothesis import Hypothesis


class ReportJob(Job):
    """Report on a study.

    Args:
        study: its name.
        text: the study as YAML.
        organism: whether a model organism played; then the page explains what that is.
        primary: the hypotheses that the study fixed before its first rollout.
    """

    stage = "report"

    study: str
    text: str = ""
    organism: bool = False
    primary: tuple[Hypothesis, ...] = ()


@dataclass(frozen=True)
class ReportFiles:
    """Artifacts that a report is about: scenarios, turns, selections of the filters, memories, pairs, and trained
    adapters.
    """

    measures: Path
    scenarios: Sequence[Path] = ()
    turns: Sequence[Path] = ()
    selections: Sequence[Path] = ()
    memories: Sequence[Path] = ()
    pairs: Sequence[Path] = ()
    adapters: Sequence[Path] = ()
