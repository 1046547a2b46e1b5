"""Read published problem sets: a Parquet or JSON Lines file, or a data set on the Hugging Face hub."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, model_validator

from atp.errors import AtpError
from atp.testbeds.tool_use.scenarios import Problem

#: Suffixes of local files.
LOCAL = (".parquet", ".jsonl")
#: Text between the worked solution and the answer in GSM8K.
FINAL_ANSWER = "####"
#: Maximum length of another library's message in an error, in characters.
MAX_REASON_CHARS = 200

_HUB = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_INTEGER = re.compile(r"-?(?:\d+|\d{1,3}(?:,\d{3})+)", re.ASCII)
#: Numbers stay text as written; 204.0 is the integer that a table of floats had. NaN is no answer.
_JSON = json.JSONDecoder(
    parse_int=str, parse_float=lambda number: number.removesuffix(".0"), parse_constant=lambda name: None
)


class ProblemSet(BaseModel):
    """Settings of a problem set: its file or name, and its columns with questions and answers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(description="a .parquet or .jsonl file, or a name on the Hugging Face hub")
    name: str | None = Field(None, description="the hub's configuration of the set")
    split: str = Field(
        "train", min_length=1, description="the hub's split; it has no effect on the train and test splits here"
    )
    revision: str | None = Field(None, description="the hub's revision; left out, the newest")
    question: str = Field("question", min_length=1, description="column of the questions")
    answer: str = Field("answer", min_length=1, description="column of the answers; of a list the first is used")

    @model_validator(mode="after")
    def _check_place(self) -> "ProblemSet":
        if self.local:
            for key, default in (("name", None), ("split", "train"), ("revision", None)):
                if (value := getattr(self, key)) != default:
                    raise ValueError(
                        f"{key}: found '{value}', allowed only for a set on the hub; '{self.path}' is a file"
                    )
        elif not _HUB.fullmatch(self.path):
            raise ValueError(f"path: found '{self.path}', must end with {' or '.join(LOCAL)}, or be a name on the hub")
        return self

    @property
    def local(self) -> bool:
        """Whether the set is a file."""
        return self.path.endswith(LOCAL)


def read_problems(settings: ProblemSet, folder: Path = Path()) -> list[Problem]:
    """Return the problems of a set in its order; a repeated question occurs once.

    Args:
        folder: where a local file's path begins.

    Raises:
        AtpError: a missing or unreadable file or set, a missing column, a row without a question or answer, or no rows.
    """
    where = str(folder / settings.path) if settings.local else settings.path
    if settings.local:
        file = Path(where)
        if not file.is_file():
            raise AtpError(f"{where}: no such file")
        names, rows = (_parquet if file.suffix == ".parquet" else _json_lines)(file, settings)
    else:
        names, rows = _hub(settings)
    for key in ("question", "answer"):
        if names and getattr(settings, key) not in names:
            known = ", ".join(names)
            raise AtpError(f"{where}: {key}: no column '{getattr(settings, key)}', its columns are {known}")
    problems: dict[str, Problem] = {}
    for number, row in rows:
        question, answer = _text(row.get(settings.question)), _answer(row.get(settings.answer))
        for key, value in (("question", question), ("answer", answer)):
            if not value:
                raise AtpError(
                    f"{where}: row {number}: no {key} in column '{getattr(settings, key)}', must be text or a number"
                )
            if half := re.search("[\ud800-\udfff]", value):
                raise AtpError(
                    f"{where}: row {number}: {key} in column '{getattr(settings, key)}': found {half.group()!a}, "
                    "half of a character; write the character itself"
                )
        problems.setdefault(question, Problem(question=question, answer=answer, expression=""))
    if not problems:
        raise AtpError(f"{where}: no rows, must have at least one problem")
    return list(problems.values())


#: Names of columns, and rows with their number in the source.
Rows = tuple[list[str], Iterable[tuple[int, dict[str, Any]]]]


def _parquet(file: Path, settings: ProblemSet) -> Rows:
    try:
        names = pq.read_schema(file).names
        return names, _rows(pq.read_table(file, columns=_columns(settings, names)))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise AtpError(f"{file}: not readable as Parquet: {_reason(error)}") from error


def _json_lines(file: Path, settings: ProblemSet) -> Rows:
    rows = []
    try:
        for number, line in enumerate(file.read_text(encoding="utf-8-sig").split("\n"), 1):  # a BOM is skipped
            if line.strip():
                rows.append((number, _JSON.decode(line)))
    except UnicodeDecodeError as error:
        raise AtpError(f"{file}: not readable as JSON Lines: {_reason(error)}") from error
    except (ValueError, RecursionError) as error:
        raise AtpError(f"{file}: row {number}: not readable as JSON: {_reason(error)}") from error
    for number, row in rows:
        if not isinstance(row, dict):
            raise AtpError(f"{file}: row {number}: must be keys and values, found {type(row).__name__}")
    return list(dict.fromkeys(name for _, row in rows for name in row)), rows


def _hub(settings: ProblemSet) -> Rows:
    from datasets import load_dataset

    try:
        data = load_dataset(settings.path, settings.name, split=settings.split, revision=settings.revision)
        # Other columns may have images, which would be decoded.
        columns = _columns(settings, data.column_names)
        return data.column_names, _rows(data.select_columns(columns).with_format("arrow")[:])
    except Exception as error:  # exception types differ between the hub, the network and file formats
        raise AtpError(f"{settings.path}: cannot be loaded from the hub: {_reason(error)}") from error


def _rows(table: pa.Table) -> list[tuple[int, dict[str, Any]]]:
    columns = {name: [_plain(value) for value in table[name]] for name in table.column_names}
    return [(row + 1, {name: values[row] for name, values in columns.items()}) for row in range(table.num_rows)]


def _plain(value: pa.Scalar) -> Any:
    """Return a value of a table, a decimal number as text: Python's floats add digits to those of 32 bits."""
    if not value.is_valid:
        return None
    if pa.types.is_list(value.type) or pa.types.is_large_list(value.type):
        return [_plain(each) for each in value.values]
    if pa.types.is_decimal(value.type):
        return f"{value.as_py():f}"
    if pa.types.is_floating(value.type):
        number = value.type.to_pandas_dtype()(value.as_py())
        return np.format_float_positional(number, trim="-") if np.isfinite(number) else None
    return value.as_py()


def _columns(settings: ProblemSet, names: list[str]) -> list[str]:
    """Return the columns of questions and answers that a set has."""
    return [name for name in dict.fromkeys((settings.question, settings.answer)) if name in names]


def _answer(value: Any) -> str:
    if isinstance(value, list | tuple):
        value = value[0] if value else None
    text = _text(value).rpartition(FINAL_ANSWER)[2].strip()
    # AIME has answers such as 025 and GSM8K 1,234, which a calculator cannot parse.
    return str(int(text.replace(",", ""))) if len(text) < 1000 and _INTEGER.fullmatch(text) else text


def _text(value: Any) -> str:
    """Return a text or a number as text; empty for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    return str(value).strip()


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:MAX_REASON_CHARS]
