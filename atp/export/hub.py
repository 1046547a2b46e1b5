"""Results as a dataset, and trained agents as models, in the form of the Hugging Face hub."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from atp.errors import AtpError
from atp.export import cards
from atp.export.artifacts import Artifacts, file_name
from atp.export.folder import MARKER, replacing_folder
from atp.files.schemas import DETAILS, TURNS
from atp.files.tables import METADATA_KEY, read_provenance
from atp.study import paths

#: Folder of the dataset in a study's results, and that of the models in it.
FOLDER, MODELS = "hf", "adapters"
BATCH_ROWS = 1000
#: Columns of the dataset: files of different testbeds must have the same.
COLUMNS = TURNS.append(pa.field(DETAILS, pa.string()))
#: Files of a trained agent that may have paths of this machine.
WITH_PATHS = ("adapter_config.json", "config.json", "lineage.json")


def export_hub(study: Artifacts, out: Path) -> dict[str, int]:
    """Write a study's dataset, and in a folder of it the trained agents, each with a card.

    Returns:
        Number of rows by config, and of models.

    Raises:
        AtpError: an unreadable artifact; an `out` that no export wrote.
    """
    with replacing_folder(out) as folder:
        counts = {name: sum(_write_turns(study, folder, name)) for name in ("turns", "evaluations")}
        measures = study.folder / paths.MEASURES
        if measures.is_file():
            table = pq.read_table(measures)
            _write(table.schema, [table], read_provenance(measures), folder / "data/measures/train.parquet")
            counts["measures"] = len(table)
        (folder / "README.md").write_text(cards.dataset_card(study, folder, counts), encoding="utf-8")
        models = [path for path in study.adapters if _has_weights(path)]
        for path in models:
            copy = folder / MODELS / study.exported_place(path).parent
            _copy_model(path, copy)
            (copy / "README.md").write_text(cards.model_card(study, path), encoding="utf-8")
        if models:
            (folder / MODELS / "README.md").write_text(cards.models_card(study, models), encoding="utf-8")
    return {name: count for name, count in counts.items() if count} | {"models": len(models)}


def push(folder: Path, name: str) -> list[str]:
    """Upload an exported folder to private repositories, and return their addresses.

    Args:
        name: ORG/NAME of the dataset, and of the model repository that has the trained agents.

    Raises:
        AtpError: the hub refuses, or cannot be reached.
    """
    from huggingface_hub import HfApi

    api, addresses = HfApi(), []
    uploads = [("dataset", folder, [f"{MODELS}/*", MARKER]), ("model", folder / MODELS, None)]
    try:
        for kind, content, ignored in uploads:
            if content.is_dir():
                addresses.append(str(api.create_repo(name, repo_type=kind, private=True, exist_ok=True)))
                api.upload_folder(repo_id=name, folder_path=content, repo_type=kind, ignore_patterns=ignored)
    except Exception as error:  # connections fail with errors of the client's HTTP library
        reason = " ".join(str(error).split())
        raise AtpError(
            f"--push {name}: the hub refused or cannot be reached: {reason}; {folder} is complete"
        ) from error
    return addresses


def check_push(name: str) -> None:
    """Raise AtpError if there is no token, or if the name is not one of a repository."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise AtpError(f"--push {name}: must be ORG/NAME: {error}") from error
    if get_token() is None:
        raise AtpError(f"--push {name}: no token of the Hugging Face hub; run `hf auth login`, or set HF_TOKEN")


def public(value: Any) -> Any:
    """Return a JSON value in which the absolute paths of this machine are reduced to their last part."""
    if isinstance(value, Mapping):
        return {key: public(each) for key, each in value.items()}
    if isinstance(value, list):
        return [public(item) for item in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _write_turns(study: Artifacts, folder: Path, name: str) -> Iterator[int]:
    """Write the files of a config, and yield the rows of each. Deployments are the split train, all others are test."""
    for path in study.turns:
        place = study.place(path)
        if (path.name == Path(paths.DEPLOYMENT).name) != (name == "turns"):
            continue
        split = "test" if place.parent.name == "context" or name != "turns" else "train"
        target = folder / "data" / name / split / f"{file_name('-'.join(place.with_suffix('').parts))}.parquet"
        yield _write(COLUMNS, _batches(path), read_provenance(path), target)


def _batches(path: Path) -> Iterator[pa.Table]:
    """Yield the rows of a turns file, a batch at a time, with the testbed's own columns as JSON."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        for batch in file.iter_batches(BATCH_ROWS):
            table = pa.Table.from_batches([batch])
            own = table[DETAILS].to_pylist() if DETAILS in table.column_names else [None] * len(table)
            texts = [None if details is None else json.dumps(details, ensure_ascii=False) for details in own]
            yield table.select(TURNS.names).append_column(COLUMNS.field(DETAILS), pa.array(texts, pa.string()))


def _write(schema: pa.Schema, tables: Sequence[pa.Table] | Iterator[pa.Table], provenance: Any, path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    schema, rows = schema.with_metadata({METADATA_KEY: json.dumps(public(provenance)).encode()}), 0
    with pq.ParquetWriter(path, schema, compression="zstd") as file:
        for table in tables:
            file.write_table(table.replace_schema_metadata(schema.metadata))
            rows += len(table)
    return rows


def _has_weights(path: Path) -> bool:
    """Return whether a training changed anything; else the agent is its parent."""
    return any((path / name).is_file() for name in ("adapter_config.json", "config.json"))


def _copy_model(path: Path, copy: Path) -> None:
    shutil.copytree(path, copy, ignore=shutil.ignore_patterns(".*", "README.md"))
    for name in WITH_PATHS:
        if (copy / name).is_file():
            values = public(json.loads((copy / name).read_text(encoding="utf-8")))
            (copy / name).write_text(json.dumps(values, indent=2), encoding="utf-8")
