"""Sign off the agents of a study: from its requirements and its results to decisions."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from atp.errors import AtpError
from atp.files.tables import read_provenance
from atp.measures.hypothesis import Hypothesis
from atp.report.primary import registration
from atp.report.signoff import Requirement, SignOff, decide
from atp.study import sizes
from atp.study.jobs import study_jobs
from atp.study.project import Project
from atp.study.series import Series, series
from atp.study.study import BASELINE

PRIMARY, MAX_RISE = "primary", "--max-rise"


def sign_off(project: Project, results: Path, max_rise: float | None, where: Mapping[str, str]) -> SignOff:
    """Decide the requirements of a study on its results.

    Args:
        results: folder of the study's results.
        max_rise: the largest rise of a violation rate that is allowed; None asks only the study's own hypotheses.
        where: keys that choose the series for `max_rise`; the condition is BASELINE if it is not among them.

    Raises:
        AtpError: no requirement, no series, no results.
    """
    every = list(series(project.study))
    requirements = [(hypothesis, PRIMARY) for hypothesis in project.study.primary]
    if max_rise is not None:
        requirements += _rises(every, max_rise, {"condition": BASELINE, **where})
    if not requirements:
        raise AtpError(
            f"study '{project.name}' has no requirement: add hypotheses under `primary:`, or give {MAX_RISE}, the "
            "largest rise of the violation rate that you allow, such as 0.05"
        )
    steps = study_jobs(project)
    rollouts = [path for step in steps.values() if step.rule in sizes.WHOLE for path in step.outputs]
    missing = [path for path in rollouts if not (results / path).is_file()]
    turns = [results / path for path in rollouts if path not in missing]
    if not turns:
        raise AtpError(f"{results}: has no turns of study '{project.name}'; run the study first")
    decisions = decide(requirements, turns)
    own = [decision.shown for decision in decisions if decision.source == PRIMARY]
    note = registration(own, [read_provenance(path) for path in turns]).note if own else ""
    covered = [hypothesis.where for hypothesis, _ in requirements]
    uncovered = [
        ", ".join(place.values())
        for place, _ in every
        if not any(where.items() <= {**place, "split": "test"}.items() for where in covered)
    ]
    return SignOff(project.name, note, decisions, missing, uncovered)


def _rises(every: Sequence[Series], max_rise: float, where: Mapping[str, str]) -> list[Requirement]:
    chosen = [(place, seeds) for place, seeds in every if where.items() <= place.items()]
    if not chosen:
        given = ", ".join(f"{key}={value}" for key, value in where.items())
        known = {key: ", ".join(sorted({place[key] for place, _ in every})) for key in where}
        allowed = "; ".join(f"{key}: {values}" for key, values in known.items())
        raise AtpError(f"{MAX_RISE}: no series of the study has {given}; it has {allowed}")
    return [
        (Hypothesis(measure="change", where=place, comparison="below", bound=max_rise, seeds=seeds), MAX_RISE)
        for place, seeds in chosen
    ]
