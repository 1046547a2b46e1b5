"""Read and write artifacts: writes are atomic, and a read that fails names the file and what is wrong with it."""

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from atp.errors import AtpError
from atp.files.provenance import VERSION, Provenance

T = TypeVar("T")

METADATA_KEY = b"atp"
#: File in a trained agent's folder with its provenance and the results of its post-training check.
LINEAGE = "lineage.json"
#: Element of a report's page that holds its provenance.
ON_PAGE = '<script type="application/json" id="provenance">{}</script>'
DICTIONARY_BYTES = 64 * 2**20


def write_table(table: pa.Table, path: Path | str, provenance: Provenance) -> None:
    """Write a Parquet file atomically, with its provenance in the file's metadata."""
    metadata = {**(table.schema.metadata or {}), METADATA_KEY: provenance.to_json().encode()}
    table = table.replace_schema_metadata(metadata)
    options: dict[str, Any] = {"compression": "zstd", "dictionary_pagesize_limit": DICTIONARY_BYTES}
    with (
        replacing(path) as temporary,
        pq.ParquetWriter(temporary, table.schema, write_page_checksum=True, **options) as file,
    ):
        if len(table):  # `datasets` refuses a row group without rows
            file.write_table(table)


def write_text(text: str, path: Path | str) -> None:
    """Write a text file (UTF-8) atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path next to `path`, which replaces it, flushed to disk, if the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_file(out: Path, *inputs: Path) -> None:
    """Raise AtpError if `out` is a folder or one of the inputs, before the work that would be written there."""
    if out.is_dir():
        raise AtpError(f"{out}: is a folder, must be the name of a file")
    if any(out.resolve() == path.resolve() for path in inputs):
        raise AtpError(f"{out}: is an input too, choose another name for the output")


def read_table(
    path: Path | str, schema: pa.Schema | None = None, kind: str = "artifact", more: bool = False
) -> pa.Table:
    """Read a Parquet file and check its columns.

    Args:
        schema: columns that the file must have; the table has them in this order.
        kind: what the file is, for error messages.
        more: return the file's other columns too.

    Raises:
        AtpError: no such file, not Parquet, truncated or corrupt, of another schema version, or without a column or
            value that a `kind` file has.
    """
    table, provenance = _open(path, _table)
    _check_version(path, provenance)
    if schema is None:
        return table
    for column in schema:
        if column.name not in table.column_names:
            raise AtpError(
                f"{path}: not a {kind} file: no column '{column.name}' (columns: {', '.join(table.column_names)})"
            )
        actual = table.schema.field(column.name).type
        if actual != column.type:
            raise AtpError(f"{path}: not a {kind} file: column '{column.name}' is {actual}, must be {column.type}")
        if not column.nullable and table[column.name].null_count:
            raise AtpError(f"{path}: not a {kind} file: column '{column.name}' has rows without a value")
    others = [name for name in table.column_names if name not in schema.names] if more else []
    return table.select([*schema.names, *others])


def read_provenance(path: Path | str) -> dict[str, Any]:
    """Return the provenance of a Parquet file, a trained agent's folder or a report's page; {} where there is none.

    Raises:
        AtpError: an unreadable file, a folder without a lineage, an artifact of another schema version.
    """
    path = Path(path)
    if path.is_dir():
        provenance = _lineage(path / LINEAGE)
    elif path.suffix == ".html":
        provenance = _page_provenance(path)
    else:
        provenance = _open(path, lambda file: _provenance(pq.read_schema(file)))
    _check_version(path, provenance)
    return provenance


def _table(path: Path) -> tuple[pa.Table, dict[str, Any]]:
    table = pq.read_table(path, page_checksum_verification=True)
    return table, _provenance(table.schema)


def _provenance(schema: pa.Schema) -> dict[str, Any]:
    provenance: dict[str, Any] = json.loads((schema.metadata or {}).get(METADATA_KEY, b"{}"))
    return provenance


def _check_version(path: Path | str, provenance: dict[str, Any]) -> None:
    version = provenance.get("schema", 1)
    if provenance and version != VERSION:
        raise AtpError(
            f"{path}: was written with schema version {version}, this version of atp reads {VERSION}: run the "
            "stage that made it again, or use another results folder"
        )


def _lineage(path: Path) -> dict[str, Any]:
    try:
        lineage: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AtpError(f"{path.parent}: no readable {LINEAGE}") from error
    return lineage


def _page_provenance(path: Path) -> dict[str, Any]:
    """Read only the page's head, which holds the provenance: the rest has megabytes."""
    try:
        with path.open(encoding="utf-8") as page:
            match = re.search(ON_PAGE.format("(.*?)"), page.read(2**16))
        provenance: dict[str, Any] = json.loads(match[1]) if match else {}
    except (OSError, ValueError) as error:
        raise AtpError(f"{path}: no readable page: {error}") from error
    return provenance


def _open(path: Path | str, read: Callable[[Path], T]) -> T:
    path = Path(path)
    if not path.is_file():
        raise AtpError(f"{path}: no such file")
    try:
        return read(path)
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: invalid UTF-8 or JSON
        reason = str(error).splitlines()[0]
        raise AtpError(f"{path}: no readable Parquet file (truncated, corrupt or another format): {reason}") from error
