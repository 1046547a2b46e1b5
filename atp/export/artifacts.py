"""Artifacts of a study that an export reads, and those that an unfinished study does not have yet."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from atp.errors import AtpError
from atp.files.tables import read_provenance
from atp.files.yaml_text import parse_yaml
from atp.study import paths
from atp.study.jobs import study_jobs
from atp.study.project import Project
from atp.study.read import read_project

#: Number of missing artifacts that a message names.
MAX_NAMED = 3
MAX_NAME_CHARS = 120


@dataclass(frozen=True)
class Artifacts:
    """Artifacts of a study.

    Args:
        folder: the study's folder of results, whose name is the study's.
        turns: all files of turns, those of evaluations and transfers included.
        adapters: folders of trained agents.
        missing: what is not finished, in one line; empty for a finished study.
    """

    folder: Path
    turns: list[Path]
    adapters: list[Path]
    missing: str

    @property
    def name(self) -> str:
        """The study's name."""
        return self.folder.name

    def place(self, artifact: Path) -> Path:
        """Return an artifact's path from the study's folder."""
        return artifact.relative_to(self.folder)


def find_artifacts(named: str) -> Artifacts:
    """Return the artifacts of a study.

    Args:
        named: the study's folder of results, the name of a file of config/studies, or the path of a study file.

    Raises:
        AtpError: no such study, or one without turns.
    """
    folder, outputs = Path(named).resolve(), list[str]()
    if folder.is_dir():
        with suppress(AtpError):  # a folder can be exported without a valid study file of its name
            outputs = _outputs(_project_of(folder))
    elif len(Path(named).parts) > 1 and not named.endswith((".yaml", ".yml")):
        raise AtpError(f"{named}: no such folder; name a study's folder of results, such as results/demo, or its file")
    else:
        project = read_project({"study": named})
        folder, outputs = Path("results", project.name).resolve(), _outputs(project)
    turns = sorted(_glob(folder, paths.CONTEXT, paths.DEPLOYMENT, paths.EVALUATION, paths.TRANSFER))
    if not turns:
        raise AtpError(f"{folder}: no turns; run the study first: snakemake --cores all --config study={folder.name}")
    return Artifacts(folder, turns, sorted(_glob(folder, paths.ALIGNED, paths.ADAPTER)), _missing(folder, outputs))


def file_name(label: str) -> str:
    """Return a label as part of a file's name; labels that cannot be one are told apart by a digest.

    Inspect's viewer refuses paths with two dots.
    """
    name = re.sub(r"[^\w.=+-]+|\.\.+", "_", label)[:MAX_NAME_CHARS]
    return name if name == label else f"{name}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"


def _project_of(folder: Path) -> Project:
    """Return the study of a folder of results: that of its report, else the one with its name."""
    page = folder / paths.REPORT
    text = read_provenance(page).get("params", {}).get("text") if page.is_file() else None
    return read_project({**parse_yaml(text, str(page)), "name": folder.name} if text else {"study": folder.name})


def _outputs(project: Project) -> list[str]:
    """Return the artifacts of a finished study. Shards are removed, and studies share model organisms."""
    steps = study_jobs(project).values()
    return [path for step in steps if step.rule not in ("rollout_shard", "organism") for path in step.outputs]


def _glob(folder: Path, *patterns: str) -> Iterator[Path]:
    for pattern in patterns:
        yield from folder.glob(pattern.format_map(dict.fromkeys(paths.WILDCARDS, "*")))


def _missing(folder: Path, outputs: Sequence[str]) -> str:
    expected = outputs or [paths.MEASURES]
    missing = [path for path in expected if not (folder / path).exists()]
    if not missing:
        return ""
    count = f"{len(missing)} of {len(outputs)} artifacts are missing: " if outputs else "missing: "
    more = f" and {len(missing) - MAX_NAMED} more" if len(missing) > MAX_NAMED else ""
    return f"{folder.name}: not finished, {count}{', '.join(missing[:MAX_NAMED])}{more}; the others are exported"
