"""Files of an episode: names, limits, the order of calls on them, and programs that see them."""

import shutil

import pytest

from atp.tools import TOOLS, Call, Files, Tool, ToolError, run_calls
from atp.tools.files import MAX_FILE_BYTES, MAX_FILES
from atp.tools.sandbox import MAX_PROGRAM, run_python

needs_bwrap = pytest.mark.skipif(not shutil.which("bwrap"), reason="no sandbox: apt-get install bubblewrap")


def test_files_survive_between_calls_and_calls_on_them_run_in_order():
    files, other = Files({"a.txt": "1"}), Files()
    calls = [
        Call("read_file", "a.txt", files),
        Call("write_file", "a.txt\n2\n3\n", files),
        Call("read_file", "./a.txt ", files),
        Call("read_file", "a.txt", other),
        Call("write_file", "\nb.txt", files),
        Call("read_file", "b.txt", files),
        Call("read_file", "a.txt"),
    ]
    assert [outcome.text for outcome in run_calls(calls)] == [
        "1",
        "a.txt is written, it has 2 lines",
        "2\n3\n",
        "Error: there is no file 'a.txt'; there is none",
        "b.txt is written, it has 0 lines",
        "(the file is empty)",
        "Error: there is no file 'a.txt'; there is none",
    ]
    assert (files.texts, other.texts) == ({"a.txt": "2\n3\n", "b.txt": ""}, {})
    assert run_calls([Call("read_file", "a.txt", files)])[0].text == "2\n3\n"


@pytest.mark.parametrize(
    "name",
    ["..", "../x", "/etc/passwd", "a/b", "a\\b", ".hidden", "a b", "~", "x" * 65, "a\0", "-rf", "\u202ea", "con:"],
)
def test_a_name_is_a_key_and_leads_nowhere(name):
    files = Files({"a": "1"})
    assert run_calls([Call("read_file", "", files)])[0].text.startswith("Error: '' is no file's name")
    outcomes = run_calls([Call("read_file", name, files), Call("write_file", f"{name}\nx", files)])
    for outcome in outcomes:
        assert outcome.failed and "is no file's name" in outcome.text and "\n" not in outcome.text
    assert files.texts == {"a": "1"}


def test_sizes_and_numbers_are_limited():
    files = Files()
    with pytest.raises(ToolError, match=f"a file may have {MAX_FILE_BYTES} bytes, this one has {MAX_FILE_BYTES + 2}"):
        files.write("a", "ü" * (MAX_FILE_BYTES // 2 + 1))
    for number in range(MAX_FILES):
        files.write(f"f{number}", "x" * MAX_FILE_BYTES)
    with pytest.raises(ToolError, match=f"there may be {MAX_FILES} files"):
        files.write("another", "")
    files.write("f0", "shorter")
    assert len(files.texts) == MAX_FILES and files.read("f0") == "shorter"


@needs_bwrap
def test_programs_read_and_import_files_but_cannot_change_them():
    files = Files({"part.py": "VALUE = 7\n", "text.txt": "ü\n", "json.py": "raise SystemExit(9)\n"})
    code = """
import json, os, part
print(part.VALUE, open("text.txt").read().strip(), sorted(os.listdir(".")), os.getcwd())
for change in (
    lambda: open("text.txt", "w"), lambda: open("new", "w"), lambda: os.remove("text.txt"),
    lambda: os.symlink("/etc/passwd", "link"), lambda: os.rename("text.txt", "other"), lambda: os.chmod("text.txt", 0),
):
    try:
        change()
    except OSError as error:
        print(error.strerror)
"""
    (outcome,) = run_calls([Call("python", code, files)])
    first, *errors = outcome.text.splitlines()
    assert first == "7 ü ['json.py', 'part.py', 'text.txt'] /files"
    assert errors == ["Read-only file system"] * 6
    assert files.texts["text.txt"] == "ü\n" and set(files.texts) == {"part.py", "text.txt", "json.py"}
    # A program without files has no such folder.
    assert run_python("import os; print(os.path.exists('/files'))") == "False"


@needs_bwrap
def test_all_files_together_fit():
    files = Files({f"f{number}": "x" * MAX_FILE_BYTES for number in range(MAX_FILES)})
    code = "import os\nprint(sum(os.path.getsize(name) for name in os.listdir('.')))"
    assert run_calls([Call("python", code, files)])[0].text == str(MAX_FILES * MAX_FILE_BYTES)
    assert run_calls([Call("python", "#" * (MAX_PROGRAM + 1), files)])[0].failed


def test_groups_of_parallel_tools_keep_their_order(monkeypatch):
    seen = []

    def note(text, files):
        seen.append(text)
        files.write("log", files.texts.get("log", "") + text)
        return files.read("log")

    monkeypatch.setitem(TOOLS, "note", Tool("note", "", "text", "", note, uses_files=True, parallel=True))
    one, other = Files(), Files()
    calls = [Call("note", text, files) for text, files in zip("abcabc", [one, other] * 3, strict=True)]
    assert [outcome.text for outcome in run_calls(calls)] == ["a", "b", "ac", "ba", "acb", "bac"]
    assert len(seen) == 6
