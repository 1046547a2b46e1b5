"""Turns -> a database of transcripts for Inspect Scout, written by Scout itself."""

import asyncio
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from atp.errors import AtpError
from atp.export.artifacts import Artifacts
from atp.export.folder import replacing_folder
from atp.export.inspect_logs import logs

#: Folder of the database in a study's results.
FOLDER = "scout"


def export_scout(study: Artifacts, out: Path) -> int:
    """Write the episodes of a study as transcripts, and return their number.

    Raises:
        AtpError: inspect_scout is not installed; an unreadable turns file; an `out` that no export wrote.
    """
    try:
        from inspect_scout import transcripts_db
    except ImportError as error:
        raise AtpError(
            f"inspect_scout is not installed ({error}); install it: pip install 'alignment-tipping[scout]'"
        ) from error
    os.environ.setdefault("SCOUT_DISPLAY", "none")  # its progress bar prints an empty line where there is no terminal
    written = 0

    def counted() -> Iterator[Any]:
        nonlocal written
        for transcript in _transcripts(study):
            written += 1
            yield transcript

    async def insert(folder: Path) -> None:
        async with transcripts_db(str(folder)) as database:
            await database.insert(counted())

    with replacing_folder(out) as folder:
        asyncio.run(insert(folder))
    return written


def _transcripts(study: Artifacts) -> Iterator[Any]:
    from inspect_scout import Transcript

    for log in logs(study):
        metadata = {key: value for key, value in log.eval.metadata.items() if key != "model"}  # has a column
        for sample in log.samples:
            yield Transcript(
                transcript_id=sample.uuid,
                source_type="atp",
                source_id=log.eval.eval_id,
                source_uri=log.location,
                date=log.eval.created,
                task_set=log.eval.task,
                task_id=str(sample.id),
                task_repeat=sample.epoch,
                model=log.eval.model,
                model_options=log.eval.model_generate_config.model_dump(exclude_none=True),
                score={name: _number(score.value) for name, score in sample.scores.items()},
                message_count=len(sample.messages),
                total_tokens=sum(usage.total_tokens for usage in sample.model_usage.values()),
                trust_content=False,
                metadata=metadata | sample.metadata,
                messages=sample.messages,
                events=sample.events,
            )


def _number(value: float) -> float | None:
    """Return a score; None for one of Inspect's that has no value."""
    return None if math.isnan(value) else value
