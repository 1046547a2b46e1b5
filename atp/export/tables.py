"""A measure as a table for papers: CSV, LaTeX or Markdown, with the same rows in the same order."""

import math
import re
from collections.abc import Callable, Mapping
from functools import partial
from operator import itemgetter
from typing import Any

import polars as pl

from atp.errors import AtpError
from atp.export.artifacts import Artifacts
from atp.files.schemas import MEASURES
from atp.files.tables import read_table
from atp.measures.measure import GROUP
from atp.report.verdict import is_mean, span, value_text
from atp.study import paths

#: What tells rows of one measure apart, in the order of the rows; the table has a column for each that varies.
KEYS = (*GROUP, "round", "method")
MARKDOWN_CHARS = re.compile(r"([\\`*_{}\[\]<>#!|~&$@]|:(?=//))")
MINUS = "\u2212"
#: Characters that end a line or cannot be printed.
UNPRINTABLE_CHARS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+")

Number = Callable[[float], str]


def measure_table(study: Artifacts, measure: str, form: str) -> str:
    """Return the rows of a measure as text.

    Args:
        form: csv has all columns of measures.parquet; latex and markdown leave out those with one value, which a note
            above the table has.

    Raises:
        AtpError: a study without measures, or without this one.
    """
    path = study.folder / paths.MEASURES
    if not path.is_file():
        raise AtpError(f"{path}: no measures yet; run the study to its end")
    measures = pl.DataFrame(read_table(path, MEASURES, "measures"))
    rows = measures.filter(measure=measure).sort(*KEYS, nulls_last=True, maintain_order=True)
    if rows.is_empty():
        known = ", ".join(sorted(measures["measure"].unique()))
        raise AtpError(f"{measure}: {path} has no such measure, it has {known}")
    return rows.write_csv() if form == "csv" else FORMS[form](measure, rows)


def _cells(rows: pl.DataFrame) -> tuple[list[str], list[list[str]], str]:
    """Return the header, the cells and the values that all rows share."""
    keys = [key for key in KEYS if rows[key].n_unique() > 1]
    shared = {key: rows[key][0] for key in KEYS if key not in keys and rows[key][0] not in (None, "")}
    columns: dict[str, Callable[[Mapping[str, Any]], Any]] = {key: itemgetter(key) for key in keys}
    if rows["value"].null_count() < len(rows):
        number = partial(_number, decimals=_decimals(rows))
        columns |= {"value": partial(_value, number), "95 % interval": partial(_interval, number), "n": _counts}
    columns |= {
        name: itemgetter(name)
        for name in ("invalid", "label", "reason")
        if rows[name].drop_nulls().len() and rows[name].cast(pl.String).fill_null("0").ne("0").any()
    }
    cells = [[_plain(column(row)) for column in columns.values()] for row in rows.to_dicts()]
    return list(columns), cells, ", ".join(f"{key} {_plain(value)}" for key, value in shared.items())


def _value(number: Number, row: Mapping[str, Any]) -> str:
    return number(row["value"]) if is_mean(row) and row["value"] is not None else value_text(row)


def _interval(number: Number, row: Mapping[str, Any]) -> str:
    if row["low"] is None or not is_mean(row):
        return span(dict(row))
    return f"{number(row['low'])} to {number(row['high'])}"


def _decimals(rows: pl.DataFrame) -> int:
    """Return the decimals of a table's means and bounds: the largest has at least four digits, whole numbers none."""
    numbers = rows.filter(pl.col("k").is_null()).select(pl.concat_list("value", "low", "high").explode()).to_series()
    sizes = [abs(number) for number in numbers if number is not None and math.isfinite(number)]
    if all(size == round(size) for size in sizes):
        return 0
    return max(0, 3 - int(math.log10(max(1, *sizes))))


def _number(value: float, decimals: int) -> str:
    """Return a number with these decimals; with three digits if it would look like zero."""
    looks_like_zero = value != 0 and abs(value) < 0.5 * 10**-decimals
    return (f"{value:.3g}" if looks_like_zero else f"{value:,.{decimals}f}").replace("-", MINUS)


def _counts(row: Mapping[str, Any]) -> str:
    return str(row["n"]) if is_mean(row) else f"{row['k']}/{row['n']}"


def _plain(value: Any) -> str:
    """Return a value as text of one line."""
    return "" if value is None else UNPRINTABLE_CHARS.sub(" ", str(value)).strip()


def _latex(measure: str, rows: pl.DataFrame) -> str:
    from tabulate import tabulate

    header, cells, shared = _cells(rows)
    table = tabulate(cells, header, tablefmt="latex_booktabs", disable_numparse=True)
    table = table.replace(r"\^{}", r"\textasciicircum{}")  # not an accent
    table = re.sub(r"(?<=[-`'?!])(?=[-`'])", "{}", table)  # no dashes or quotation marks from several characters
    table = table.replace(MINUS, "$-$")  # pdflatex does not know the character
    # At the beginning of a row, LaTeX takes a bracket or an asterisk for an argument of the line break before it.
    table = re.sub(r"^(\s*)(?=[\[*])", r"\1{}", table, flags=re.MULTILINE)
    return f"% {_plain(measure)}: {shared}\n{table}\n"


def markdown_table(measure: str, rows: pl.DataFrame) -> str:
    """Return rows of a measure as a table in Markdown, below a line with the values that they share."""
    from tabulate import tabulate

    header, cells, shared = _cells(rows)
    escaped = [[escape(cell) for cell in row] for row in cells]
    table = tabulate(escaped, header, tablefmt="pipe", disable_numparse=True)
    return f"{escape(measure)}: {escape(shared)}\n\n{table}\n"


def escape(text: str) -> str:
    """Return a text on one line, in which no character means anything in Markdown."""
    return MARKDOWN_CHARS.sub(r"\\\1", _plain(text))


FORMS: dict[str, Callable[[str, pl.DataFrame], str]] = {"latex": _latex, "markdown": markdown_table}
