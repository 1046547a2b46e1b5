"""Artifacts: writes are complete or do not happen, and an error names a damaged or foreign file."""

from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atp.errors import AtpError
from atp.files.provenance import Provenance, Stage
from atp.files.resume import unfinished
from atp.files.tables import read_provenance, read_table, replacing, write_table, write_text
from atp.files.turns import read_turns

SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        ("note", pa.string()),
    ]
)
TABLE = pa.Table.from_pydict(
    {
        "name": [f"row {Random(number).random()}" for number in range(500)],
        "value": [Random(-number).random() for number in range(500)],
        "note": [None, "seen"] * 250,
    },
    schema=SCHEMA,
)


@pytest.fixture
def path(tmp_path) -> Path:
    written = tmp_path / "table.parquet"
    write_table(TABLE, written, Provenance("stage", "code", {"seed": 3}, cost={"wall_seconds": 0.5}))
    return written


def test_a_table_is_read_as_it_was_written(path):
    assert read_table(path, SCHEMA).equals(TABLE)
    assert read_table(path, pa.schema([SCHEMA.field("value")])).column_names == ["value"]
    found = read_provenance(path)
    assert (found["stage"], found["code"], found["params"], found["cost"]) == (
        "stage",
        "code",
        {"seed": 3},
        {"wall_seconds": 0.5},
    )
    pq.write_table(TABLE, path)
    assert read_provenance(path) == {}


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(path):
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    with pytest.raises(UnicodeEncodeError):
        write_text("half \ud800", path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    write_text("ä", path)
    assert path.read_bytes() == "ä".encode() and path.stat().st_mode & 0o777 == 0o644


def test_a_changed_byte_is_never_read_as_another_value(path):
    """After a flip of any bit a read returns the same table, or an error of one line that names the file."""
    whole, rng, refused = path.read_bytes(), Random(0), 0
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            assert read_table(path, SCHEMA).equals(TABLE)
        except AtpError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
            refused += 1
        try:
            read_provenance(path)
        except AtpError as error:
            assert str(error).startswith(f"{path}: ")
    assert refused > 200


def test_truncated_foreign_and_missing_files_are_one_line(path):
    whole = path.read_bytes()
    for part in (b"", whole[:4], whole[: len(whole) // 2], whole[:-1], b"name,value\na,1\n"):
        path.write_bytes(part)
        for read in (read_turns, read_provenance):
            with pytest.raises(AtpError, match=rf"^{path}: no readable Parquet file \(truncated, corrupt or .*\): .+$"):
                read(path)
    for missing in (path.with_name("none.parquet"), path.parent):
        with pytest.raises(AtpError, match=f"^{missing}: no such file$"):
            read_turns(missing)


def test_another_kind_of_file_is_an_error(path):
    with pytest.raises(AtpError, match=f"^{path}: not a turns file: no column 'model' .columns: name, value, note.$"):
        read_turns(path)
    wanted = pa.schema([("name", pa.string()), ("value", pa.int64())])
    with pytest.raises(AtpError, match=f"^{path}: not a number file: column 'value' is double, must be int64$"):
        read_table(path, wanted, "number")
    with pytest.raises(AtpError, match=f"^{path}: not a full file: column 'note' has rows without a value$"):
        read_table(path, pa.schema([pa.field("note", pa.string(), nullable=False)]), "full")


def test_two_processes_cannot_write_one_artifact(tmp_path):
    out = tmp_path / "turns.parquet"
    stage = Stage("rollout", "atp.rollout.engine", {})
    with unfinished(out, stage) as folder:
        with (
            pytest.raises(AtpError, match=r"turns\.parquet: another process is writing it"),
            unfinished(out, stage),
        ):
            pass
        assert folder.is_dir()
    with unfinished(out, stage):
        pass
    assert list(tmp_path.iterdir()) == []
