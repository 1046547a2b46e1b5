"""The corpus of replies is read right: `make corpus` prints the same as a table."""

import pytest
from corpus import read

ENTRIES = read.load()


@pytest.mark.parametrize("testbed", read.READERS)
def test_no_reply_is_read_wrong_and_almost_all_statements_are_read(testbed):
    results = [(entry, *read.judge(entry)) for entry in ENTRIES if entry["testbed"] == testbed]
    assert [(entry["text"], value) for entry, verdict, value in results if verdict == read.WRONG] == []
    unread = [entry["text"] for entry, verdict, _ in results if verdict == read.INVALID]
    stated = sum(entry["states"] is not None for entry, *_ in results)
    assert stated > 20 and len(unread) <= (1 - read.REQUIRED) * stated, unread
