"""Inspect Scout's database, read by Scout."""

import asyncio
from pathlib import Path

from export.hostile import REPLIES
from inspect_scout import TranscriptContent, transcripts_from
from inspect_scout import columns as c

from atp.export.artifacts import find_artifacts
from atp.export.scout import export_scout

ALL = TranscriptContent(messages="all", events="all")


def read(folder: Path, condition: object | None = None) -> list:
    """Return the transcripts of a database that fulfil a condition."""

    async def transcripts() -> list:
        chosen = transcripts_from(str(folder))
        async with (chosen.where(condition) if condition is not None else chosen).reader() as reader:
            return [await reader.read(each, ALL) async for each in reader.index()]

    return asyncio.run(transcripts())


def test_scout_reads_every_episode_with_its_cell(small, tmp_path):
    count = export_scout(find_artifacts(str(small)), tmp_path / "scout")
    transcripts = read(tmp_path / "scout", c["alignment"] == "dpo")
    assert count == 2 * len(transcripts) == 128
    assert {(each.task_set, each.model, each.metadata["testbed"]) for each in transcripts} == {
        ("role_play", "organism", "role_play")
    }
    assert {tuple(each.score) for each in transcripts} == {("violation", "reward", "valid")}
    deployed = read(tmp_path / "scout", c["channel"] == "context")
    assert {each.message_count for each in deployed} == {5}


def test_hostile_transcripts_stay_text_and_a_second_export_replaces_the_first(hostile, tmp_path):
    for _ in range(2):
        export_scout(find_artifacts(str(hostile)), tmp_path / "scout")
    transcripts = read(tmp_path / "scout")
    assert sorted(each.events[1].output.completion for each in transcripts) == sorted(REPLIES)
    assert {each.score["violation"] for each in transcripts} == {None}
    assert {each.trust_content for each in transcripts} == {False}
