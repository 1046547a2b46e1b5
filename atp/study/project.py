"""A study with its models and files, as jobs, plans and checks read it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from atp.models.spec import ModelSpec
from atp.study.study import Study
from atp.training.own import adapter_folder


@dataclass(frozen=True)
class Project:
    """A study and what it refers to.

    Args:
        name: of the study and of the folder of its results.
        models: the models of all its agents; None for an agent without one.
        text: the study as YAML.
        root: folder where the study's paths begin.
        organisms: folder of the model organisms, one a testbed.
        rebuilds: whether the run trains the model organisms.
    """

    name: str
    study: Study
    models: Mapping[str, ModelSpec | None]
    text: str
    root: Path
    organisms: Path
    rebuilds: bool = False

    def model_folder(self, model: ModelSpec) -> Path:
        """Return where a model's folder is, if it has one."""
        return self.organisms / Path(model.path).name if model.organism else self.root / model.path

    def model_files(self, model: ModelSpec | None) -> list[str]:
        """Return the files of a model's folder, because a cache compares files; the folder if the run builds it."""
        if model is None:
            return []
        folder = self.model_folder(model)
        if model.organism and self.rebuilds:
            return [str(folder)]
        return files_in(folder)

    @cached_property
    def adapters(self) -> dict[str, list[str]]:
        """Files of the adapters that are the user's own, by the names of their alignments."""
        own = {name: each.adapter for name, each in self.study.own_alignments.items() if each.adapter}
        return {name: files_in(adapter_folder(adapter, self.root)) for name, adapter in own.items()}


def files_in(folder: Path) -> list[str]:
    """Return the files of a folder but for hidden ones; none where there is no folder."""
    return sorted(str(path) for path in folder.glob("[!.]*") if path.is_file()) if folder.is_dir() else []
