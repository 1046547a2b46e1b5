"""Alignment before deployment: DPO on preference pairs, or GRPO that pays for compliance. Makes generation 0."""

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from atp.agents import ModelSpec
from atp.errors import AtpError
from atp.training import TrainingSettings
from atp.training.run import Job
from atp.training.stage import make
from atp.training.trainer import NO_DEFENCE


def align_stage(
    scenarios: Path,
    out: Path,
    testbed: str,
    settings: dict[str, Any],
    model: ModelSpec,
    training: dict[str, Any],
    seed: int,
    pairs: Path | None = None,
    limit: tuple[int, int] | None = None,
) -> dict[str, float]:
    """Train the adapter that an agent is deployed with, and measure its violations on held-out prompts beside it.

    Args:
        settings: the testbed's; one round is played.
        pairs: pairs.parquet, for DPO; GRPO asks the first questions of rows `limit` of the training split.

    Returns:
        What `canary` measured.

    Raises:
        AtpError: bad pairs, scenarios or model; a training whose canary fails.
    """
    job = Job(
        label=str(out),
        model=model,
        training=TypeAdapter(TrainingSettings).validate_python(training),
        seed=seed,
        testbed=testbed,
        settings=settings,
        scenarios=scenarios,
        data=pairs,
        data_kind="pairs" if pairs else None,
        limit=limit,
    )
    if job.training.defences:
        raise AtpError(f"{out}: training.{job.training.defences[0]}: {NO_DEFENCE}")
    return make("align", __name__, job, out, {"testbed": testbed, "settings": settings, "limit": limit})
