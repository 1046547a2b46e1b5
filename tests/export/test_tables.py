"""Tables of a measure, read by polars, a Markdown parser and a LaTeX parser."""

import re
import shutil
from io import StringIO

import polars as pl
import pyarrow as pa
import pytest
from markdown_it import MarkdownIt
from pylatexenc.latex2text import LatexNodes2Text

from atp.errors import AtpError
from atp.export.artifacts import find_artifacts
from atp.export.tables import measure_table
from atp.files.provenance import Stage
from atp.files.schemas import MEASURES
from atp.files.tables import write_table

#: Names that mean something in Markdown, LaTeX or CSV.
NAMES = [
    '[a|b] <i>, "c"',
    "*_x_^2 & 50% $y$ #1 ~ {z} \\input{/etc/passwd}",
    "`c` https://d.example www\n|---|\x1b[31m",
    "=1+1",
]


def markdown_rows(text: str) -> list[list[str]]:
    """Return the text of a Markdown table's cells, which must have no markup."""
    rows, tokens = [], MarkdownIt("gfm-like").parse(text)
    for token in tokens:
        if token.type == "tr_open":
            rows.append([])
        if token.type == "inline" and rows:
            assert {child.type for child in token.children} <= {"text", "text_special"}, token.content
            rows[-1].append("".join(child.content for child in token.children))
    return rows[1:]


def latex_rows(text: str) -> list[list[str]]:
    """Return the text of a LaTeX table's cells."""
    body = text.partition("\\midrule")[2].partition("\\bottomrule")[0]
    return [
        [LatexNodes2Text().latex_to_text(cell).strip().replace("ˆ", "^") for cell in re.split(r"(?<!\\)&", row)]
        for row in body.strip().splitlines()
    ]


def test_all_formats_have_the_rows_of_the_measure_in_one_order(small):
    study = find_artifacts(str(small))
    rows = pl.read_csv(StringIO(measure_table(study, "violation_rate", "csv")))
    assert len(rows) == 14
    assert rows["value"].to_list() == pytest.approx((rows["k"] / rows["n"]).to_list())
    counts = [f"{k}/{n}" for k, n in rows.select("k", "n").rows()]
    assert [row[-1] for row in markdown_rows(measure_table(study, "violation_rate", "markdown"))] == counts
    latex = latex_rows(measure_table(study, "violation_rate", "latex"))
    assert [row[-1].removesuffix("\\\\").strip() for row in latex] == counts
    changes = [row[-3:-1] for row in latex_rows(measure_table(study, "change", "latex"))]
    number = r"-?\d\.\d{3}"
    assert len(changes) > 4 and all(re.fullmatch(number, value) for value, _ in changes)
    assert all(re.fullmatch(f"{number} to {number}", interval) for _, interval in changes)
    with pytest.raises(AtpError, match=r"no_such: .*measures\.parquet has no such measure, it has .*violation_rate"):
        measure_table(study, "no_such", "csv")


def test_hostile_names_stay_text(hostile, tmp_path):
    study = shutil.copytree(hostile, tmp_path / "hostile")
    with pytest.raises(AtpError, match=r"measures\.parquet: no measures yet; run the study to its end"):
        measure_table(find_artifacts(str(study)), "rate", "csv")
    blank = {"testbed": "t", "alignment": "none", "condition": "c", "seed": 0, "channel": "context", "generation": 0}
    blank |= {"split": "test", "measure": "rate", "value": 0.5, "n": 2, "low": 0.1, "high": 0.9, "method": "t"}
    rows = [blank | {"model": name, "variant": name, "label": name} for name in NAMES]
    table = pa.Table.from_pylist(rows, schema=MEASURES)
    write_table(table, study / "measures.parquet", Stage("measure", [], {}).provenance())
    study = find_artifacts(str(study))
    names = sorted(NAMES)
    assert pl.read_csv(StringIO(measure_table(study, "rate", "csv")))["model"].to_list() == names
    plain = [re.sub(r"[\x00-\x1f]+", " ", name) for name in names]
    for read, form in ((markdown_rows, "markdown"), (latex_rows, "latex")):
        assert [row[0] for row in read(measure_table(study, "rate", form))] == plain, form
