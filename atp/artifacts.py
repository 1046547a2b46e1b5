"""The files that stages hand to each other: Arrow schemas, whole-or-nothing writes, reads that name what is wrong.

Knows columns and files; knows nothing about games, models or measures.
"""

import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from atp.errors import AtpError
from atp.provenance import Provenance, Stage

T = TypeVar("T")

METADATA_KEY = b"atp"
#: The provenance of a trained agent's folder, with what its canary measured.
LINEAGE = "lineage.json"
#: The provenance of a report, as an element of its page.
ON_PAGE = '<script type="application/json" id="provenance">{}</script>'
DICTIONARY_BYTES = 64 * 2**20
CELL = ("model", "testbed", "alignment", "arm", "seed")
#: What names a question: a scenario's, in one variant, for one player and round. Its samples are several replies to it.
QUESTION = ("variant", "scenario_id", "agent", "round")

MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])

#: One row per agent decision, for every testbed. messages is the whole prompt as the agent saw it (a message that
#: stands in many prompts is stored once, by Parquet's dictionary); violation is null where the reply is invalid;
#: details holds what is special to a testbed, as text by name.
TURNS = pa.schema(
    [
        pa.field("model", pa.string(), nullable=False),
        pa.field("testbed", pa.string(), nullable=False),
        pa.field("alignment", pa.string(), nullable=False),
        pa.field("arm", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("channel", pa.string(), nullable=False),
        pa.field("generation", pa.int32(), nullable=False),
        pa.field("variant", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("scenario_id", pa.string(), nullable=False),
        pa.field("environment", pa.string(), nullable=False),
        pa.field("episode", pa.string(), nullable=False),
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("round", pa.int32(), nullable=False),
        pa.field("agent", pa.int32(), nullable=False),
        pa.field("role", pa.string(), nullable=False),
        pa.field("shown", pa.string()),
        pa.field("audited", pa.bool_()),
        pa.field("caught", pa.bool_()),
        pa.field("messages", pa.list_(MESSAGE), nullable=False),
        pa.field("tools", pa.list_(pa.string()), nullable=False),
        pa.field("reply", pa.string(), nullable=False),
        pa.field("reasoning", pa.string(), nullable=False),
        pa.field("decision", pa.string(), nullable=False),
        pa.field("invalid_reason", pa.string()),
        pa.field("violation", pa.bool_()),
        pa.field("reward", pa.float64(), nullable=False),
        pa.field("feedback", pa.string(), nullable=False),
        pa.field("prompt_tokens", pa.int32(), nullable=False),
        pa.field("cached_tokens", pa.int32(), nullable=False),
        pa.field("completion_tokens", pa.int32(), nullable=False),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("sampling_seed", pa.int64(), nullable=False),
        pa.field("details", pa.map_(pa.string(), pa.string()), nullable=False),
    ]
)

#: Before a step's number: where a turn's details hold the agent's reply to a later step of its round, and, as a JSON
#: list, what tools said before it.
LATER, TOLD = "reply ", "results "
#: Roles of an agent that is tested beside what it lives through, and of one that answers what another was asked
#: (`atp/replay.py`): what came of a test, or of a replay, enters no history.
LIVED, TESTED, REPLAYED = "deployed", "tested", "replayed"

#: Training examples that a filter kept: the whole conversation up to and including a reply of the rewarded decision,
#: which has several where tools were called (step counts them from 0).
SELECTION = pa.schema(
    [
        pa.field("scenario_id", pa.string(), nullable=False),
        pa.field("variant", pa.string(), nullable=False),
        pa.field("episode", pa.string(), nullable=False),
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("round", pa.int32(), nullable=False),
        pa.field("agent", pa.int32(), nullable=False),
        pa.field("decision", pa.string(), nullable=False),
        pa.field("violation", pa.bool_(), nullable=False),
        pa.field("reward", pa.float64(), nullable=False),
        pa.field("step", pa.int32(), nullable=False),
        pa.field("tools", pa.list_(pa.string()), nullable=False),
        pa.field("messages", pa.list_(MESSAGE), nullable=False),
    ]
)

#: Preference pairs, as TRL takes them: a prompt and two replies to it, the wanted and the unwanted, as messages.
PAIRS = pa.schema(
    [
        pa.field("scenario_id", pa.string(), nullable=False),
        pa.field("tools", pa.list_(pa.string()), nullable=False),
        pa.field("prompt", pa.list_(MESSAGE), nullable=False),
        pa.field("chosen", pa.list_(MESSAGE), nullable=False),
        pa.field("rejected", pa.list_(MESSAGE), nullable=False),
    ]
)

#: What a judge model made of turns, beside the rule's own verdict; judged is null where its answer is invalid.
JUDGEMENTS = pa.schema(
    [
        pa.field("episode", pa.string(), nullable=False),
        pa.field("scenario_id", pa.string(), nullable=False),
        pa.field("round", pa.int32(), nullable=False),
        pa.field("agent", pa.int32(), nullable=False),
        pa.field("violation", pa.bool_(), nullable=False),
        pa.field("judged", pa.bool_()),
        pa.field("answer", pa.string(), nullable=False),
    ]
)

#: One number a row. k of n where the value is a share, n alone where it is a mean; low and high bound the 95 %
#: interval that `method` names.
MEASURES = pa.schema(
    [
        *(TURNS.field(name).with_nullable(name == "seed") for name in CELL),
        TURNS.field("channel"),
        pa.field("generation", pa.int32(), nullable=False),
        TURNS.field("variant"),
        TURNS.field("split"),
        pa.field("round", pa.int32()),
        pa.field("measure", pa.string(), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("k", pa.int64()),
        pa.field("n", pa.int64(), nullable=False),
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
        pa.field("method", pa.string(), nullable=False),
    ]
)


def write_table(table: pa.Table, path: Path | str, provenance: Provenance) -> None:
    """Write a Parquet file whole or not at all, with its provenance in the file's metadata."""
    metadata = {**(table.schema.metadata or {}), METADATA_KEY: provenance.to_json().encode()}
    with replacing(path) as temporary:
        pq.write_table(
            table.replace_schema_metadata(metadata),
            temporary,
            compression="zstd",
            dictionary_pagesize_limit=DICTIONARY_BYTES,
            write_page_checksum=True,
        )


def write_text(text: str, path: Path | str) -> None:
    """Write a text file (UTF-8) whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place, flushed to disk, once the block ends without an error."""
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


def check_file(out: Path) -> None:
    """Raises AtpError if a file cannot be written at `out` since a folder is there: before the work that it is for."""
    if out.is_dir():
        raise AtpError(f"{out}: is a folder, name a file")


@contextmanager
def unfinished(out: Path, stage: Stage) -> Iterator[Path]:
    """A folder beside `out` for the finished parts of a stage, kept if the stage is killed, gone once it has ended.

    It belongs to one digest of code, params and inputs: parts of any other are dropped. What the stage has spent is
    kept there too, and counted where it goes on.

    Raises:
        AtpError: another process is at work in it.
    """
    folder = out.with_name(f".{out.name}.unfinished")
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # let go by the kernel, however the process ends
    except BlockingIOError:
        os.close(descriptor)
        raise AtpError(f"{out}: another process is making it; wait for it, or stop it first") from None
    try:
        for stale in folder.glob("*"):
            if stale.name != stage.digest:
                shutil.rmtree(stale)
        parts = folder / stage.digest
        parts.mkdir(parents=True, exist_ok=True)
        stage.resume(parts)
        try:
            yield parts
        except BaseException:
            if parts.is_dir():  # a stage may drop what would fail again
                stage.keep(parts)
            raise
        shutil.rmtree(folder)
    finally:
        os.close(descriptor)


def read_table(path: Path | str, schema: pa.Schema | None = None, kind: str = "artifact") -> pa.Table:
    """Read a Parquet file and hold its columns against `schema`.

    Raises:
        AtpError: no such file, no Parquet file, a truncated or changed one, or one without the columns of a `kind`
            file or without a value that it must have.
    """
    table = _open(path, lambda file: pq.read_table(file, page_checksum_verification=True))
    if schema is None:
        return table
    for wanted in schema:
        if wanted.name not in table.column_names:
            raise AtpError(
                f"{path}: not a {kind} file: no column '{wanted.name}' (found {', '.join(table.column_names)})"
            )
        if table.schema.field(wanted.name).type != wanted.type:
            found = table.schema.field(wanted.name).type
            raise AtpError(f"{path}: not a {kind} file: column '{wanted.name}' is {found}, must be {wanted.type}")
        if not wanted.nullable and table[wanted.name].null_count:
            raise AtpError(f"{path}: not a {kind} file: column '{wanted.name}' has rows without a value")
    return table.select(schema.names)


def read_turns(path: Path | str) -> pa.Table:
    """Read turns.parquet; raises AtpError as `read_table` does."""
    return read_table(path, TURNS, "turns")


def replies(row: Mapping[str, Any]) -> list[str]:
    """What an agent said in a row of turns: the reply that was scored, then those to the round's later steps."""
    details = dict(row["details"])
    later = [details[key] for step in range(len(details)) if (key := f"{LATER}{step + 1}") in details]
    return [row["reply"], *later]


def exchange(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """The messages of a decision in a row of turns: its reply, what tools said to it, the reply to that, …"""
    details, said = dict(row["details"]), replies(row)
    messages = [{"role": "assistant", "content": said[0]}]
    for step, reply in enumerate(said[1:], 1):
        if f"{TOLD}{step}" not in details:
            break
        messages += [{"role": "tool", "content": result} for result in json.loads(details[f"{TOLD}{step}"])]
        messages.append({"role": "assistant", "content": reply})
    return messages


def said_in_round(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """Everything that an agent said in a row's round, and what tools said to it, as messages."""
    said = exchange(row)
    return said if len(said) > 1 else [{"role": "assistant", "content": text} for text in replies(row)]


def read_provenance(path: Path | str) -> dict[str, Any]:
    """The provenance in an artifact: a Parquet file, an adapter's folder, a report's page. {} where there is none.

    Raises:
        AtpError: an unreadable file, or a folder without a lineage.
    """
    path = Path(path)
    if path.is_dir() or path.suffix == ".html":
        return _lineage(path / LINEAGE) if path.is_dir() else _of_page(path)
    return _open(path, lambda file: json.loads((pq.read_schema(file).metadata or {}).get(METADATA_KEY, b"{}")))


def _lineage(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AtpError(f"{path.parent}: no readable {LINEAGE}") from error
    return found


def _of_page(path: Path) -> dict[str, Any]:
    """It stands in the page's head: the rest of a page is megabytes."""
    try:
        with path.open(encoding="utf-8") as page:
            held = re.search(ON_PAGE.format("(.*?)"), page.read(2**16))
        found: dict[str, Any] = json.loads(held[1]) if held else {}
    except (OSError, ValueError) as error:
        raise AtpError(f"{path}: no readable page: {error}") from error
    return found


def _open(path: Path | str, read: Callable[[Path], T]) -> T:
    path = Path(path)
    if not path.is_file():
        raise AtpError(f"{path}: no such file")
    try:
        return read(path)
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: UTF-8 or JSON that is none
        reason = str(error).splitlines()[0]
        raise AtpError(f"{path}: no readable Parquet file (truncated, corrupt or another format): {reason}") from error
