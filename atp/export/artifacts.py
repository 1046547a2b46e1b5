"""Artifacts of a study that an export reads, those that an unfinished study does not have yet, and those that it no
longer has.
"""

import hashlib
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from atp.errors import AtpError
from atp.files.provenance import digest
from atp.files.tables import read_provenance
from atp.files.yaml_text import parse_yaml
from atp.study import paths
from atp.study.jobs import study_jobs
from atp.study.project import Project
from atp.study.read import read_project

#: Number of missing artifacts that a message names.
MAX_NAMED = 3
MAX_NAME_CHARS = 120
TURNS = (
    *(paths.CONTEXT, paths.DEPLOYMENT, paths.EVALUATION, paths.TRANSFER),
    *(paths.MEMORY_DEPLOYMENT, paths.MEMORY_EVALUATION),
)


@dataclass(frozen=True)
class Artifacts:
    """Artifacts of a study.

    Args:
        folder: the study's folder of results, whose name is the study's.
        turns: all files of turns, those of evaluations and transfers included.
        adapters: folders of trained agents.
        missing: what is not finished, in one line; empty for a finished study.
        others: what the folder has of conditions that the study does not have, in one line; empty if there is nothing.
    """

    folder: Path
    turns: list[Path]
    adapters: list[Path]
    missing: str
    others: str

    @property
    def name(self) -> str:
        """The study's name."""
        return self.folder.name

    @property
    def notes(self) -> list[str]:
        """What a user of an export should know about it."""
        return [note for note in (self.missing, self.others) if note]

    def place(self, artifact: Path) -> Path:
        """Return an artifact's path from the study's folder."""
        return artifact.relative_to(self.folder)

    def exported_place(self, artifact: Path) -> Path:
        """Return an artifact's path in a folder that an export writes, as each part can be a file's name."""
        return Path(*map(file_name, self.place(artifact).parts))

    @cached_property
    def agents_by_digest(self) -> dict[str, Path]:
        """The trained agents by their digests, by which trainings name their inputs."""
        return {digest(path): path for path in self.adapters}


def find_artifacts(named: str) -> Artifacts:
    """Return the artifacts of a study. A folder can have more than its study has, and all of it is returned.

    Args:
        named: the study's folder of results, the name of a file of config/studies, or the path of a study file.

    Raises:
        AtpError: no such study, or one without turns.
    """
    folder, outputs = Path(named).resolve(), list[str]()
    is_folder = folder.is_dir()
    if is_folder:
        with suppress(AtpError):  # a folder can be exported without a valid study file of its name
            outputs = _outputs(_project_of(folder))
    elif len(Path(named).parts) > 1 and not named.endswith((".yaml", ".yml")):
        raise AtpError(f"{named}: no such folder; name a study's folder of results, such as results/demo, or its file")
    else:
        project = read_project({"study": named})
        folder, outputs = Path("results", project.name).resolve(), _outputs(project)
    turns, adapters = sorted(_glob(folder, *TURNS)), sorted(_glob(folder, paths.ALIGNED, paths.ADAPTER))
    expected = {folder / path for path in outputs} or {*turns, *adapters}
    others = [path for path in (*turns, *adapters) if path not in expected]
    if not is_folder:
        turns, adapters = ([path for path in files if path in expected] for files in (turns, adapters))
    if not turns:
        study = shlex.quote(folder.name if is_folder else named)
        command = f": snakemake --cores all --config study={study}" if outputs else ""
        raise AtpError(f"{folder}: no turns; run the study first{command}")
    return Artifacts(folder, turns, adapters, _missing(folder, outputs), _others(folder, others, is_folder))


def file_name(label: str) -> str:
    """Return a label as part of a file's name; labels that cannot be one are told apart by a digest.

    Inspect's viewer refuses paths with two dots, and those that begin as a URL does: `scripted:…`. Windows refuses
    colons and a last dot.
    """
    name = re.sub(r"[^\w.=+-]+|\.\.+|\.$", "_", label[:MAX_NAME_CHARS])
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
    count = f"{len(missing)} of {len(outputs)} artifacts missing: " if outputs else "missing: "
    return f"{folder.name}: not finished, {count}{_names(missing)}; the others are exported"


def _others(folder: Path, others: Sequence[Path], exported: bool) -> str:
    if not others:
        return ""
    names = _names([str(path.relative_to(folder)) for path in others])
    what = f"exported too: {names}; name the study's file to leave them out" if exported else f"left out: {names}"
    return f"{folder.name}: results that the study does not have, {len(others)} {what}"


def _names(places: Sequence[str]) -> str:
    more = f" and {len(places) - MAX_NAMED} more" if len(places) > MAX_NAMED else ""
    return f"{', '.join(places[:MAX_NAMED])}{more}"
