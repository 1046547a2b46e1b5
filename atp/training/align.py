"""Alignment before deployment: DPO on preference pairs, or GRPO that rewards compliance. The result is generation 0."""

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from atp.errors import AtpError
from atp.models.spec import ModelSpec
from atp.training import TrainingSettings
from atp.training.run import Job
from atp.training.stage import train_stage
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
    cell: dict[str, Any] | None = None,
) -> dict[str, float]:
    """Train the adapter that an agent is deployed with, and compare its violations with the model's.

    Args:
        settings: the testbed's; one round is played.
        pairs: pairs.parquet, for DPO. GRPO asks the first prompts of rows limit[0]:limit[1] of the training split.
        cell: what the lineage records of the adapter's place in a study (see `Job`).

    Returns:
        The result of `check_after_training`.

    Raises:
        AtpError: bad pairs, scenarios or model; a training whose check fails.
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
        cell=cell or {},
    )
    if job.training.defences:
        raise AtpError(f"{out}: training.{job.training.defences[0]}: {NO_DEFENCE}")
    return train_stage("align", __name__, job, out, {"testbed": testbed, "settings": settings, "limit": limit})
